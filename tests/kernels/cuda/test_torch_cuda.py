"""Every torch operator as it runs on CUDA against the same operator on the CPU."""

import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor

from kernels import torch_cuda, torch_ops, torch_registry
from kernels.panels import Layout
from kernels.philox import Purpose

CONVOLUTIONS = (
    # channels in, out, groups, kernel, stride, padding, border
    (33, 5, 1, (3, 3), (2, 1), (1, 0), "zero"),
    (64, 6, 2, (3, 1), (1, 1), (1, 0), "minus_one"),
)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _words(n_rows: int, n_bits: int, seed: int = 0) -> Tensor:
    return torch_ops.pack(_normal(n_rows, n_bits, seed=seed))


def _panels(n: int, n_bits: int) -> Tensor:
    return torch_ops.pack_panels(_words(n, n_bits, seed=1), Layout.VECTORS)


def _integers(*shape: int) -> Tensor:
    """Reals of which every sum is exact."""
    return (9 * _normal(*shape)).round()


CASES = {
    "pack": [(_normal(2, 3, 70),), (_normal(5, 33), 0.5), (torch.arange(90).to(torch.uint8), 41.0)],
    "pack_signs": [(_normal(3, 70), 0.5), (_normal(3, 70).bfloat16(),), (_normal(2, 9).double(),)],
    "unpack": [(_words(3, 70), 70)],
    "unpack_signs": [(_words(3, 70), 70), (_words(3, 64), 64, torch.bfloat16)],
    "masked": [(_normal(3, 70), _words(3, 70)), (_normal(4, 64).double(), _words(4, 64))],
    "pack_panels": [(_words(9, 70), int(Layout.VECTORS))],
    "matmul": [(_words(5, 70), _panels(9, 70), 70, 9, form) for form in ("xor", "and", "mixed")],
    "signs_product": [
        (_integers(4, 9), _words(9, 70), 70, False, _words(4, 70, seed=1)),
        (_integers(9, 4).bfloat16(), _words(9, 70), 70, True, None, torch.float32),
    ],
    "binary_linear": [
        (_normal(2, 3, 70), _normal(9, 70, seed=1)),
        (_normal(4, 33), _normal(5, 33)),
    ],
    "binary_linear_train": [
        (_normal(2, 3, 70), _normal(9, 70, seed=1)),
        (_normal(40, 3).T, _normal(9, 40), False),
        (_normal(3, 40).bfloat16(), _normal(9, 40)),
    ],
    "binary_conv2d": [
        (
            _normal(2, n_in, 5, 4),
            _normal(n_out, n_in // groups, *kernel),
            *rest[:2],
            groups,
            rest[2],
        )
        for n_in, n_out, groups, kernel, *rest in CONVOLUTIONS
    ],
    "bernoulli": [
        (2 * _normal(5, 77), 7, int(Purpose.GIBBS_HIDDEN), 3, 1, 5),
        (_normal(5, 77), 7, int(Purpose.GIBBS_HIDDEN), 3, 1, 5, True),
    ],
    "batch_products": [(_words(65, 33), 33, _words(65, 40, seed=1), 40)],
}
CASES["binary_conv2d_train"] = [
    *CASES["binary_conv2d"],
    (*CASES["binary_conv2d"][0], False),
]


def _moved(arguments, on):
    return [on(x) if isinstance(x, Tensor) else x for x in arguments]


@pytest.mark.parametrize("name", torch_registry.OPS)
def test_every_operator_equals_that_of_the_cpu(launcher, on, name):
    for arguments in CASES[name]:
        results = getattr(torch_cuda, name)(launcher, *_moved(arguments, on))
        expected = getattr(torch.ops.bitspin, name)(*arguments)
        if isinstance(expected, Tensor):
            results, expected = (results,), (expected,)
        for ours, theirs in zip(results, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours.cpu(), theirs), name


def test_empty_batches_give_empty_results(launcher, on):
    x, weight = on(_normal(0, 40)), on(_normal(3, 40))
    assert torch_cuda.binary_linear(launcher, x, weight).shape == (0, 3)
    images, kernels = on(_normal(0, 3, 5, 5)), on(_normal(2, 3, 3, 3))
    assert torch_cuda.binary_conv2d(launcher, images, kernels).shape == (0, 2, 3, 3)


def test_images_come_out_in_channels_last_memory(launcher, on):
    x, weight, *options = _moved(CASES["binary_conv2d"][0], on)
    y = torch_cuda.binary_conv2d(launcher, x, weight, *options)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_other_panels_are_refused(launcher, on):
    with pytest.raises(ValueError, match=r"layout: expected 2 \(VECTORS\) on CUDA, got 1"):
        torch_cuda.pack_panels(launcher, on(_words(9, 70)), int(Layout.LANES))


@pytest.fixture
def bitspin_on_shim(launcher):
    """The operators of CPU tensors computed by the CUDA functions; the names of those called."""
    called: set[str] = set()
    if launcher.device.type == "cuda":
        yield set(torch_registry.OPS)
        return

    def call(name, *arguments):
        called.add(name)
        return getattr(torch_cuda, name)(launcher, *arguments)

    library = torch.library.Library("bitspin", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that an operator is overridden
        for name in torch_registry.OPS:
            library.impl(name, partial(call, name), "CPU", allow_override=True)
    yield called
    library._destroy()


def _gradients(device, dtype):
    inputs = [_normal(2, 33, 4, 4), _normal(8, 33, 3, 3, seed=1), _normal(5, 128, seed=2)]
    x, kernels, weight = (t.to(device).requires_grad_() for t in inputs)
    y = torch_ops.binary_conv2d(x, kernels, padding=(1, 1)).flatten(1).sub(0.5).div(16)
    y = torch_ops.binary_linear(y.to(dtype), weight).float()
    return [g.cpu() for g in torch.autograd.grad(y.square().mean(), (x, kernels, weight))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_cpu(request, launcher, dtype):
    expected = _gradients("cpu", dtype)
    called = request.getfixturevalue("bitspin_on_shim")
    # By default the library's convolutions of a GPU round to the 11 bits of TF32.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        results = _gradients(launcher.device, dtype)
    assert {"binary_conv2d_train", "binary_linear_train", "signs_product", "masked"} <= called
    # Sums of at most 297 terms in float32, in another order.
    for ours, theirs in zip(results, expected, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=297 * 2.0**-23 * theirs.abs().max())


def test_operators_are_registered_without_cuda_or_cupy():
    code = (
        "import sys, torch, kernels.torch_ops;"
        "assert not torch.cuda.is_initialized();"
        "assert not {'cupy', 'kernels.torch_cuda'} & set(sys.modules);"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key;"
        "assert all(has(f'bitspin::{n}', 'CUDA') for n in kernels.torch_registry.OPS)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

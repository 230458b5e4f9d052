"""Torch operators against torch in floats; the tests of registration run over the table."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck

from bnn.quantizers import ste_sign
from kernels import pack_bits, torch_cpu, torch_ops, torch_registry
from kernels.errors import BackendUnavailable
from kernels.panels import WIDTH, Layout
from kernels.philox import Purpose
from kernels.reference_matmul import FORMS
from kernels.torch_registry import OPS

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
CONVOLUTIONS = (
    # channels in, out, groups, kernel, stride, padding, border
    (5, 4, 1, (3, 3), (1, 1), (1, 1), "minus_one"),
    (33, 7, 1, (3, 3), (2, 1), (1, 0), "zero"),
    (8, 6, 2, (1, 1), (1, 1), (0, 0), "minus_one"),
    (6, 6, 6, (3, 5), (2, 2), (1, 2), "minus_one"),
    (64, 3, 1, (5, 5), (1, 2), (2, 2), "zero"),
)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def _float_conv2d(x, weight, stride, padding, groups, border):
    high, wide = padding
    value = -1.0 if border == "minus_one" else 0.0
    padded = F.pad(ste_sign(x), (wide, wide, high, high), value=value)
    return F.conv2d(padded, ste_sign(weight), stride=stride, groups=groups)


def _arguments(name: str) -> tuple[object, ...]:
    """Small arguments for the operator of that name."""
    x, weight = _normal(4, 70), _normal(9, 70, seed=1)
    images = _normal(2, 6, 7, 8).requires_grad_()
    kernels = _normal(4, 3, 3, 2).requires_grad_()
    words, columns = torch_ops.pack(x), torch_ops.pack(weight)
    return {
        "pack": (x, 0.5),
        "pack_signs": (x, 0.5),
        "unpack": (words, 70),
        "unpack_signs": (words, 70, torch.bfloat16),
        "masked": (x, words),
        "signs_product": (_normal(9, 4), columns, 70, True, words),
        "pack_panels": (columns, int(Layout.LANES)),
        "matmul": (words, torch_ops.pack_panels(columns), 70, 9, "and"),
        "binary_linear": (x.clone().requires_grad_(), weight.clone().requires_grad_()),
        "binary_linear_train": (x.clone().requires_grad_(), weight.clone().requires_grad_()),
        "binary_conv2d": (images, kernels, [1, 2], [1, 0], 2, "minus_one"),
        "binary_conv2d_train": (images, kernels, [1, 2], [1, 0], 2, "zero"),
        "bernoulli": (x, 7, int(Purpose.GIBBS_HIDDEN), 3, 1, 5),
        "batch_products": (words, 70, torch_ops.pack(x[:, :33].contiguous()), 33),
    }[name]


@pytest.mark.parametrize("name", OPS)
def test_registration_passes_every_check_of_torch(name: str) -> None:
    result = opcheck(getattr(torch.ops.bitspin, name).default, _arguments(name))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", OPS)
def test_compiled_without_a_break_it_returns_the_same(name: str) -> None:
    operator = getattr(torch.ops.bitspin, name)
    arguments = _arguments(name)
    torch.compiler.reset()  # operators share one wrapper, which may be compiled eight times
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    results = (compiled(*arguments), operator(*arguments))
    for ours, expected in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", OPS)
def test_other_devices_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"CUDA, got meta; use \.cpu\(\)$") as error:
        torch_registry.refuse(torch.empty(2, device="meta"))
    assert "\n" not in str(error.value)
    for key in ("CPU", "CUDA", "MPS"):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"bitspin::{name}", key)


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(BackendUnavailable, match="dense tensors"):
        torch_ops.pack(_normal(2, 3).to_sparse())


@pytest.mark.parametrize("name", OPS)
def test_the_public_function_has_the_name_of_its_operator(name: str) -> None:
    assert getattr(torch_ops, name.removesuffix("_train")).__doc__


@pytest.mark.parametrize("n_bits", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int8])
def test_pack_compares_and_keeps_padding_zero(dtype: torch.dtype, n_bits: int) -> None:
    x = (100 * _normal(2, 3, n_bits)).clamp(-128, 127).to(dtype)
    words = torch_ops.pack(x, 5.0)
    assert words.dtype == torch.int32
    expected = pack_bits((x >= 5).numpy())
    assert np.array_equal(words.numpy().view(np.uint32), expected)
    assert torch.equal(torch_ops.unpack(words, n_bits), x >= 5)


def test_tensors_are_read_and_returned_where_they_lie() -> None:
    x = _normal(3, 64, seed=2)
    assert torch_cpu.view(x).__array_interface__["data"][0] == x.data_ptr()
    words = torch_ops.pack(x)
    assert torch_cpu.view(words).__array_interface__["data"][0] == words.data_ptr()
    assert torch_cpu.view(words).dtype == np.uint32


def test_panels_have_the_shape_of_their_layout() -> None:
    columns = torch_ops.pack(_normal(3, 40))
    with pytest.raises(ValueError, match="layout: expected 1"):
        torch_ops.pack_panels(columns, Layout.ROWS)
    panels = torch_ops.pack_panels(torch_ops.pack(_normal(16, 32)), Layout.LANES)
    assert torch.equal(panels.view(16, 1), torch_ops.pack(_normal(16, 32)))
    assert torch_ops.pack_panels(columns, Layout.VECTORS).shape == (1, 1, 32)


@pytest.mark.parametrize("layout", WIDTH)
@pytest.mark.parametrize("n_bits", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_matmul_is_the_float_product(form: str, n_bits: int, layout: Layout) -> None:
    a, b = _normal(3, n_bits), _normal(17, n_bits, seed=1)
    panels = torch_ops.pack_panels(torch_ops.pack(b), layout)
    product = torch_ops.matmul(torch_ops.pack(a), panels, n_bits, 17, form)
    left = _signs(a) if form == "xor" else (a >= 0).float()
    right = (b >= 0).float() if form == "and" else _signs(b)
    assert product.dtype == torch.int32
    assert torch.equal(product, (left @ right.T).to(torch.int32))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 150), st.integers(1, 40), st.integers(0, 99))
def test_linear_and_its_gradients_are_those_of_the_float_layer(m, k, n, seed) -> None:
    x, weight = _normal(m, k, seed=seed), _normal(n, k, seed=seed + 1)
    x[0, 0] = 0.0  # sign(0) = +1
    pairs = []
    for layer in (torch_ops.binary_linear, lambda x, w: ste_sign(x) @ ste_sign(w).T):
        inputs = [t.clone().requires_grad_() for t in (x, weight)]
        result = layer(*inputs)
        gradients = torch.autograd.grad(result, inputs, _normal(m, n, seed=seed + 2))
        pairs.append((result, *gradients))
    for ours, expected in zip(*pairs, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)
    assert torch.equal(pairs[0][0], pairs[1][0])


def test_the_gradient_stops_beyond_one() -> None:
    x = torch.tensor([[-1.5, -1.0, 0.5, 1.0, 1.001]], requires_grad=True)
    weight = torch.tensor([[2.0, -1.0, 0.0, -0.5, 1.0]], requires_grad=True)
    y = torch_ops.binary_linear(x, weight)
    assert y.tolist() == [[-1 + 1 + 1 - 1 + 1]]
    y.backward()
    assert x.grad.tolist() == [[0, -1, 1, -1, 0]]
    assert weight.grad.tolist() == [[0, -1, 1, 1, 1]]


def test_the_gradient_of_a_convolution_stops_beyond_one() -> None:
    points = torch.tensor([-1.5, -1.0, 0.5, 1.0, 1.001])
    x, weight = (points.view(1, 5, 1, 1).clone().requires_grad_() for _ in range(2))
    torch_ops.binary_conv2d(x, weight).backward()
    for gradient in (x.grad, weight.grad):
        assert gradient.flatten().tolist() == [0, -1, 1, 1, 0]


def test_empty_batches_give_empty_results() -> None:
    words, columns = torch_ops.pack(_normal(0, 40)), torch_ops.pack(_normal(3, 40))
    assert words.shape == (0, 2)
    assert torch_ops.matmul(words, torch_ops.pack_panels(columns), 40, 3).shape == (0, 3)
    assert torch_ops.binary_linear(_normal(0, 40), _normal(3, 40)).shape == (0, 3)
    images, kernels = _normal(0, 3, 5, 5), _normal(2, 3, 3, 3)
    assert torch_ops.binary_conv2d(images, kernels).shape == (0, 2, 3, 3)
    assert torch_ops.batch_products(words, 40, words, 40).tolist() == [[0] * 40] * 40
    assert torch_ops.bernoulli(_normal(0, 9), seed=1, purpose=Purpose.GIBBS_HIDDEN).shape == (0, 1)


@pytest.mark.parametrize("shape", [(70,), (2, 3, 70)])
def test_linear_takes_any_number_of_axes(shape: tuple[int, ...]) -> None:
    x, weight = _normal(*shape).requires_grad_(), _normal(9, 70, seed=1).requires_grad_()
    y = torch_ops.binary_linear(x, weight)
    assert torch.equal(y, _signs(x) @ _signs(weight).T)
    y.sum().backward()
    assert x.grad.shape == x.shape
    expected = (_signs(x).reshape(-1, 70).sum(0) * (weight.abs() <= 1)).detach()
    assert torch.equal(weight.grad, expected)


def test_linear_copies_what_is_not_contiguous() -> None:
    x, weight = _normal(70, 4).T, _normal(70, 9).T
    assert torch.equal(torch_ops.binary_linear(x, weight), _signs(x) @ _signs(weight).T)


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_and_its_gradients_are_those_of_the_float_layer(case, is_channels_last) -> None:
    n_in, n_out, groups, kernel, *rest = case
    stride, padding, border = rest
    x, weight = _normal(2, n_in, 9, 8), _normal(n_out, n_in // groups, *kernel, seed=1)
    x[0, 0, 0, 0] = weight[0, 0, 0, 0] = 0.0  # sign(0) = +1
    if is_channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for layer in (torch_ops.binary_conv2d, _float_conv2d):
        inputs = [t.clone().requires_grad_() for t in (x, weight)]
        y = layer(*inputs, stride, padding, groups, border)
        results.append((y, *torch.autograd.grad(y, inputs, _normal(*y.shape, seed=2))))
    ours, expected = results
    assert torch.equal(ours[0], expected[0])
    for mine, theirs in zip(ours[1:], expected[1:], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def _plain_sign(x: Tensor) -> Tensor:
    """The straight-through estimator in torch's own words; |x| = 1 does not occur."""
    inside = F.hardtanh(x)
    return inside + (torch.where(x >= 0, 1.0, -1.0) - inside).detach()


def _saved(layer, *inputs: Tensor) -> tuple[int, list[Tensor]]:
    """Bytes that the layer keeps for backward, parameters aside, and its gradients."""
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    leaves = [x.clone().requires_grad_() for x in inputs]
    hidden = leaves[0] * 1  # an activation, not a parameter
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(hidden, leaves[1])
    parameter = leaves[1].untyped_storage().data_ptr()
    n_bytes = sum(t.untyped_storage().nbytes() for p, t in storages.items() if p != parameter)
    return n_bytes, [y, *torch.autograd.grad(y, leaves, _normal(*y.shape, seed=5))]


LAYERS = {
    "linear": (
        (_normal(40, 256), _normal(24, 256, seed=1)),
        lambda x, w: F.linear(_plain_sign(x), _plain_sign(w)),
        (torch_ops.binary_linear, torch.ops.bitspin.binary_linear),
    ),
    "conv2d": (
        (_normal(3, 64, 9, 8), _normal(16, 64, 3, 3, seed=1)),
        lambda x, w: F.conv2d(_plain_sign(x), _plain_sign(w)),
        (torch_ops.binary_conv2d, torch.ops.bitspin.binary_conv2d),
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_two_bits_of_an_activation_are_saved(kind: str) -> None:
    inputs, plain, layers = LAYERS[kind]
    plain_bytes, expected = _saved(plain, *inputs)
    for layer in layers:
        n_bytes, results = _saved(layer, *inputs)
        assert n_bytes == inputs[0].numel() / 4
        assert n_bytes <= plain_bytes / 8
        for ours, theirs in zip(results, expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)  # sums of 576 terms of order 1
    n_bytes, _ = _saved(lambda x, w: layers[0](x, w, clip_input=False), *inputs)
    assert n_bytes == inputs[0].numel() / 8


def test_without_the_clip_every_gradient_of_x_passes() -> None:
    x, weight = (3 * _normal(4, 40)).requires_grad_(), _normal(5, 40, seed=1)
    for clip_input in (False, True):
        y = torch_ops.binary_linear(x, weight, clip_input=clip_input)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        passes = (x.abs() <= 1) | (not clip_input)
        assert torch.equal(gradient, _signs(weight).sum(0) * passes)


def test_nothing_is_saved_when_no_gradient_is_needed() -> None:
    x, weight = _normal(4, 40), _normal(5, 40, seed=1).requires_grad_()
    with torch.no_grad():
        assert torch_ops.binary_linear(x, weight).grad_fn is None
    assert torch_ops.binary_linear(x, weight.detach()).grad_fn is None


def test_under_autocast_the_gradients_are_multiplied_in_bfloat16() -> None:
    x, weight = _normal(4, 40).requires_grad_(), _normal(5, 40, seed=1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = torch_ops.binary_linear(x, weight)
    assert y.dtype == torch.float32
    incoming = _normal(4, 5, seed=2)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), incoming)
    rounded = incoming.bfloat16().float()
    assert grad_x.dtype == grad_weight.dtype == torch.float32
    assert torch.allclose(grad_x, (rounded @ _signs(weight)) * (x.abs() <= 1))
    assert torch.allclose(grad_weight, (rounded.T @ _signs(x)) * (weight.abs() <= 1))


def test_pack_signs_keeps_what_is_within_the_clip() -> None:
    points = [-float("inf"), -1.5001, -1.5, -0.0, 0.0, 1.5, 1.5001, float("nan")]
    for dtype in (torch.float32, torch.float64):
        words, within = torch_ops.pack_signs(torch.tensor(points, dtype=dtype), 1.5)
        assert torch_ops.unpack(words, 8).tolist() == [False] * 3 + [True] * 4 + [False]
        assert torch_ops.unpack(within, 8).tolist() == [False] * 2 + [True] * 4 + [False] * 2


@pytest.mark.parametrize("n_bits", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_and_unpacked_signs_are_those_of_the_bits(dtype: torch.dtype, n_bits: int) -> None:
    values, bits = _normal(2, 3, n_bits).to(dtype), _normal(2, 3, n_bits, seed=1) >= 0
    values[0, 0, 0] = float("inf")
    words = torch_ops.pack(bits.view(torch.uint8), 1.0)
    assert torch.equal(torch_ops.masked(values, words), torch.where(bits, values, 0.0))
    signs = torch_ops.unpack_signs(words, n_bits, dtype)
    assert torch.equal(signs, torch.where(bits, 1.0, -1.0).to(dtype))


@pytest.mark.parametrize("transposed", [False, True])
def test_signs_product_is_the_masked_float_product(transposed: bool) -> None:
    real, signs, mask = _normal(7, 20), _normal(20, 70, seed=1), _normal(7, 70, seed=2)
    words, kept = torch_ops.pack(signs), torch_ops.pack(mask)
    stored = real.T.contiguous() if transposed else real
    expected = real @ _signs(signs)
    product = torch_ops.signs_product(stored, words, 70, transposed)
    assert torch.allclose(product, expected, atol=1e-5)
    product = torch_ops.signs_product(stored, words, 70, transposed, kept, torch.bfloat16)
    assert product.dtype == torch.bfloat16
    assert torch.allclose(product.float(), torch.where(mask >= 0, expected, 0), rtol=2.0**-7)


def test_a_network_trains_the_same_compiled_in_one_graph() -> None:
    def network(x, kernels, weight):
        y = torch_ops.binary_conv2d(x, kernels, padding=(1, 1)) / 8
        return torch_ops.binary_linear(y.flatten(1), weight).square().mean()

    inputs = [_normal(2, 3, 6, 6), _normal(8, 3, 3, 3, seed=1), _normal(5, 288, seed=2)]
    gradients = []
    for function in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        parameters = [t.clone().requires_grad_() for t in inputs]
        gradients.append(torch.autograd.grad(function(*parameters), parameters))
    for eager, compiled in zip(*gradients, strict=True):
        assert eager.abs().max() > 0
        assert torch.allclose(eager, compiled)


MISTAKES = (
    (TypeError, "x: expected torch.float32", lambda: torch_ops.pack(_normal(2, 3).double())),
    (ValueError, "contiguous", lambda: torch_ops.pack(_normal(3, 5).T)),
    (ValueError, "at least one axis", lambda: torch_ops.pack(torch.tensor(1.0))),
    (
        ValueError,
        "expected last axis 2",
        lambda: torch_ops.unpack(torch_ops.pack(_normal(1, 9)), 33),
    ),
    (
        ValueError,
        "form: expected one of xor, and, mixed",
        lambda: torch_ops.matmul(*_arguments("matmul")[:4], "or"),
    ),
    (
        ValueError,
        "panels: expected shape",
        lambda: torch_ops.matmul(*_arguments("matmul")[:3], 100),
    ),
    (
        ValueError,
        "what pack_panels returns",
        lambda: torch_ops.matmul(
            torch_ops.pack(_normal(2, 9)), torch.zeros(1, 1, 5, dtype=torch.int32), 9, 3
        ),
    ),
    (
        ValueError,
        "expected last axis 4",
        lambda: torch_ops.binary_linear(_normal(2, 3), _normal(5, 4)),
    ),
    (
        ValueError,
        "at most 2\\*\\*24",
        lambda: torch_ops.binary_linear(
            torch.empty(1, 1 << 25, device="meta"), torch.empty(1, 1 << 25, device="meta")
        ),
    ),
    (
        ValueError,
        "weight: expected shape",
        lambda: torch_ops.binary_conv2d(_normal(1, 3, 4, 4), _normal(2, 4, 3, 3)),
    ),
    (
        ValueError,
        "image of at least",
        lambda: torch_ops.binary_conv2d(_normal(1, 3, 2, 2), _normal(2, 3, 3, 3)),
    ),
    (
        ValueError,
        "border: expected one of",
        lambda: torch_ops.binary_conv2d(_normal(1, 3, 4, 4), _normal(2, 3, 3, 3), border="wrap"),
    ),
    (
        ValueError,
        "stride >= 1",
        lambda: torch_ops.binary_conv2d(_normal(1, 3, 4, 4), _normal(2, 3, 3, 3), stride=(0, 1)),
    ),
    (
        ValueError,
        "clip: expected clip > 0, got 0",
        lambda: torch_ops.pack_signs(_normal(2, 3), 0),
    ),
    (
        ValueError,
        "mask: expected one row of words per row of values",
        lambda: torch_ops.masked(_normal(4, 9), torch_ops.pack(_normal(3, 9))),
    ),
    (
        ValueError,
        "words: expected 3 rows",
        lambda: torch_ops.signs_product(_normal(4, 3), torch_ops.pack(_normal(4, 9)), 9),
    ),
    (
        ValueError,
        "dtype: expected one of torch.float32, torch.bfloat16, got 'torch.float64'",
        lambda: torch_ops.unpack_signs(torch_ops.pack(_normal(4, 9)), 9, torch.float64),
    ),
    (
        ValueError,
        "hidden: expected 4 rows",
        lambda: torch_ops.batch_products(
            torch_ops.pack(_normal(4, 9)), 9, torch_ops.pack(_normal(3, 9)), 9
        ),
    ),
)


@pytest.mark.parametrize(("kind", "words", "mistake"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_mistakes_are_named_in_one_line(kind, words, mistake) -> None:
    with pytest.raises(kind, match=words) as error:
        mistake()
    assert "\n" not in str(error.value)


def test_the_room_does_not_need_torch() -> None:
    code = "import sys, kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

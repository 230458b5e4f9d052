"""What reaches CuPy, by a CuPy whose functions run on the shim; and what a launch refuses."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kernels.cuda_compile import cubin_path
from kernels.cuda_launch import (
    CupyLauncher,
    architecture,
    check_launch,
    launcher_for,
    missing,
)
from kernels.cuda_shim import ShimLauncher
from kernels.cuda_source import Parameter, Signature, cuda_source
from kernels.errors import BackendUnavailable
from kernels.philox import Purpose
from kernels.reference_sampling import bernoulli_reference

GRID = 8
KERNEL = ("sampler", "bernoulli_f32")
X = np.random.default_rng(0).standard_normal((37, 70)).astype(np.float32)
WORDS, COUNTER = torch.zeros(37, 3, dtype=torch.int32), torch.tensor([4], dtype=torch.int32)
GOOD = (torch.from_numpy(X), 37, 70, 1 << 40, 3, 5, 6, None, 7, WORDS)
TENSORS = {tensor.data_ptr(): tensor for tensor in (GOOD[0], WORDS, COUNTER)} | {0: None}


def drawn(step):
    """What the kernel is to write."""
    return bernoulli_reference(
        X, seed=1 << 40, purpose=Purpose.GIBBS_HIDDEN, rows=np.arange(7, 44), step=step, index=5
    )


class ShimFunction:
    """As cupy.RawKernel is called: with raw values, each of its own width."""

    def __init__(self, path, name):
        self.source, self.name = path.rsplit("/", 1)[1].split("-")[0], name
        self.max_dynamic_shared_size_bytes = None

    def __call__(self, grid, block, values, *, shared_mem):
        signature = cuda_source(self.source).kernels[self.name]
        assert block == (signature.n_threads,)
        arguments = []
        for value, parameter in zip(values, signature.parameters, strict=True):
            width = {"i8": 1, "u8": 1, "u16": 2, "i64": 8, "u64": 8}.get(parameter.type, 4)
            assert value.itemsize == (8 if parameter.is_pointer else width)
            arguments.append(TENSORS[int(value)] if parameter.is_pointer else value.item())
        ShimLauncher().launch(self.source, self.name, grid, *arguments, shared_bytes=shared_mem)


@pytest.fixture
def cupy_launcher(monkeypatch):
    """The launcher of GPUs, with the CPU in the place of the device."""
    streams = []

    def from_external(stream):
        streams.append(stream)
        return nullcontext()

    def module(*, path):
        return SimpleNamespace(get_function=lambda name: ShimFunction(path, name), compile=len)

    cuda = SimpleNamespace(
        Device=lambda index: nullcontext(), Stream=SimpleNamespace(from_external=from_external)
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "torch's stream")
    launcher = CupyLauncher.__new__(CupyLauncher)
    launcher.device, launcher.capability = torch.device("cpu"), (9, 0)
    launcher._cupy = SimpleNamespace(cuda=cuda, RawModule=module)
    launcher._modules, launcher._functions, launcher._shared_bytes = {}, {}, {}
    launcher.streams = streams
    return launcher


@pytest.mark.parametrize(("counter", "step"), [(None, 6), (COUNTER, 10)])
def test_a_launch_hands_over_values_of_the_declared_width(cupy_launcher, counter, step):
    WORDS.fill_(-1)
    cupy_launcher.launch(*KERNEL, GRID, *GOOD[:7], counter, *GOOD[8:])
    assert np.array_equal(WORDS.numpy().view(np.uint32), drawn(step))
    assert cupy_launcher.streams == ["torch's stream"]


def test_more_than_48_kib_of_shared_memory_is_asked_for_once(cupy_launcher):
    asked = []
    for shared_bytes in (48 << 10, 50 << 10, 49 << 10, 60 << 10):
        cupy_launcher.launch(*KERNEL, GRID, *GOOD, shared_bytes=shared_bytes)
        asked.append(cupy_launcher._functions[KERNEL].max_dynamic_shared_size_bytes)
    assert asked == [None, 50 << 10, 50 << 10, 60 << 10]


def test_an_empty_grid_launches_nothing(cupy_launcher):
    cupy_launcher.launch(*KERNEL, (GRID, 0), *GOOD)
    assert cupy_launcher.streams == []


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({0: 3.0}, TypeError, "field: expected a tensor, got float"),
        ({0: GOOD[0].double()}, TypeError, "field: expected elements of float, got torch.float64"),
        ({0: GOOD[0].T}, ValueError, "field: expected a contiguous tensor"),
        ({0: GOOD[0].to("meta")}, ValueError, "field: expected a tensor on cpu, got meta"),
        ({1: 37.0}, TypeError, "n_rows: expected an integer, got 37.0"),
        ({1: True}, TypeError, "n_rows: expected an integer, got True"),
        ({1: 1 << 63}, ValueError, "n_rows: expected -9223372036854775808 <= n_rows"),
        ({3: -1}, ValueError, "seed: expected 0 <= seed <= 18446744073709551615, got -1"),
    ],
)
def test_a_wrong_argument_is_named(cupy_launcher, changed, error, message):
    arguments = [changed.get(i, argument) for i, argument in enumerate(GOOD)]
    with pytest.raises(error, match=message):
        cupy_launcher.launch(*KERNEL, GRID, *arguments)


def test_a_wrong_number_of_arguments_is_refused(cupy_launcher):
    with pytest.raises(TypeError, match="bernoulli_f32: expected 10 arguments, got 5"):
        cupy_launcher.launch(*KERNEL, GRID, *GOOD[:5])


def test_a_float_is_asked_for_where_one_is_declared():
    signature = Signature("scale", 32, 1, (Parameter("factor", "float", False),))
    with pytest.raises(TypeError, match="scale: factor: expected a float, got 2"):
        check_launch(signature, 1, (2,), torch.device("cpu"))


def test_a_grid_that_no_device_takes_is_refused(cupy_launcher):
    with pytest.raises(ValueError, match="expected a grid of at most"):
        cupy_launcher.launch(*KERNEL, (1, 65536), *GOOD)


def test_hopper_is_compiled_with_its_own_instructions():
    assert [architecture(c) for c in ((8, 0), (9, 0), (10, 0), (12, 1))] == [
        *("sm_80", "sm_90a", "sm_100", "sm_121")
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_line_says_so():
    assert "expected a CUDA device" in missing()
    for device in ("cuda", "cuda:0"):
        with pytest.raises(BackendUnavailable, match="use the CPU"):
            launcher_for(torch.device(device))


def test_a_missing_cupy_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'bitspin[cuda13]'" in missing()


def test_cupy_has_what_a_launch_uses():
    cupy = pytest.importorskip("cupy", reason="no CuPy: pip install 'bitspin[cuda13]'")
    assert callable(cupy.cuda.Stream.from_external)
    assert callable(torch.cuda.Stream.__cuda_stream__)
    assert hasattr(cupy.RawKernel, "max_dynamic_shared_size_bytes")
    module = cupy.RawModule(path=str(cubin_path(KERNEL[0], "sm_80")))
    if not torch.cuda.is_available():
        with pytest.raises(
            cupy.cuda.runtime.CUDARuntimeError, match=r"InsufficientDriver|NoDevice"
        ):
            module.get_function(KERNEL[1])

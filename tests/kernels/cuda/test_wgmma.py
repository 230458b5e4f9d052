"""Products of warpgroups against numpy, exactly; the machine code of sm_90a."""

import numpy as np
import pytest
import torch

from kernels import cuda_wgmma, pack_bits
from kernels.cuda_compile import machine_code
from kernels.cuda_matmul import matmul, matmul_bits
from kernels.cuda_shim import ShimLauncher
from kernels.cuda_source import source_of_text
from kernels.cuda_wgmma import TILE_ROWS
from kernels.panels import Layout, to_panels

SIZES = [
    (1, 1, 1),
    (64, 256, 128),
    (65, 257, 129),
    (129, 33, 255),
    (193, 264, 1025),
    (70, 31, 4500),
]
"""m, n, bits: tiles that are full, that begin, and rows longer than the pipeline is deep."""


@pytest.fixture
def launcher(make_launcher):
    launcher = make_launcher((9, 0))
    if launcher.capability != (9, 0):
        pytest.skip(f"the products of warpgroups are Hopper's, not {launcher.capability}")
    return launcher


@pytest.fixture(params=TILE_ROWS)
def tile_rows(request, monkeypatch):
    monkeypatch.setattr(cuda_wgmma, "default_tile_rows", lambda m: request.param)
    return request.param


def operands(on, m, n, n_bits, seed=0):
    """Bits of both operands, and what a call takes."""
    generator = np.random.default_rng(seed + m + n + n_bits)
    a, b = (generator.random((rows, n_bits)) < 0.4 for rows in (m, n))
    panels = to_panels(pack_bits(b), Layout.VECTORS).reshape(-(-n // 8), -(-n_bits // 128), 32)
    return a, b, (on(pack_bits(a)), on(panels), n_bits, n)


def product(a, b, form):
    """In integers, from the definition of each form."""
    a, b = (x.astype(np.int32) for x in (a, b))
    if form == "xor":
        a = 2 * a - 1
    if form != "and":
        b = 2 * b - 1
    return a @ b.T


@pytest.mark.usefixtures("tile_rows")
@pytest.mark.parametrize(("m", "n", "n_bits"), SIZES)
def test_product_equals_numpy(launcher, on, m, n, n_bits):
    a, b, arguments = operands(on, m, n, n_bits)
    result = matmul(launcher, *arguments, path="wgmma")
    assert np.array_equal(result.cpu().numpy(), product(a, b, "xor"))


@pytest.mark.parametrize("form", ["xor", "and", "mixed"])
def test_forms_and_floats(launcher, on, form):
    a, b, arguments = operands(on, 66, 40, 300)
    result = matmul(launcher, *arguments, form, path="wgmma", out_dtype=torch.float32)
    assert np.array_equal(result.cpu().numpy(), product(a, b, form).astype(np.float32))


@pytest.mark.usefixtures("tile_rows")
@pytest.mark.parametrize(
    ("m", "n", "n_bits"), [(1, 1, 31), (3, 40, 0), (65, 257, 129), (193, 95, 1200)]
)
def test_bits_are_thresholds_of_the_product(launcher, on, m, n, n_bits):
    a, b, arguments = operands(on, m, n, n_bits)
    generator = np.random.default_rng(n)
    values = product(a, b, "xor")
    threshold = generator.choice(values.reshape(-1), n).astype(np.int32)
    threshold[::7] = np.iinfo(np.int32).max
    threshold[3::7] = np.iinfo(np.int32).min
    flip = generator.random(n) < 0.5
    result = matmul_bits(launcher, *arguments, on(threshold), on(flip), path="wgmma")
    expected = pack_bits((values >= threshold) ^ flip)
    assert np.array_equal(result.cpu().numpy().view(np.uint32), expected)


def test_rows_anywhere_in_memory(launcher, on):
    """Rows of whole 16 bytes that do not begin at a multiple of 16."""
    a, b, (words, *others) = operands(on, 5, 9, 128)
    shifted = words.new_empty(words.numel() + 1)[1:].view_as(words).copy_(words)
    result = matmul(launcher, shifted, *others, path="wgmma")
    assert np.array_equal(result.cpu().numpy(), product(a, b, "xor"))


def test_no_rows_and_no_bits(launcher, on):
    _, _, arguments = operands(on, 0, 9, 64)
    assert matmul(launcher, *arguments, path="wgmma").shape == (0, 9)
    _, _, arguments = operands(on, 3, 9, 0)
    assert not matmul(launcher, *arguments, path="wgmma").any()


def test_another_device_has_no_such_path(make_launcher, on):
    other = make_launcher((8, 0))
    if other.capability == (9, 0):
        pytest.skip("this device has it")
    _, _, arguments = operands(on, 3, 9, 64)
    with pytest.raises(ValueError, match="'wgmma' needs a compute capability"):
        matmul(other, *arguments, path="wgmma")


def test_machine_code_of_hopper():
    code = machine_code("matmul_wgmma", "sm_90a")
    assert set(code) == {f"matmul_wgmma_{rows}" for rows in TILE_ROWS}
    for rows in TILE_ROWS:
        kernel = code[f"matmul_wgmma_{rows}"]
        assert kernel.count("BGMMA.64x256x256.AND.POPC") == 4
        assert kernel.count("WARPGROUP.ARRIVE") == 1  # the compiler adds one to each that it doubts
        assert kernel.count("FENCE.VIEW.ASYNC") == 1
        assert kernel.count("LDGSTS.E.BYPASS.128") > 0
        assert kernel.count("CALL") == kernel.stack_bytes == 0
        assert kernel.n_registers <= 65536 // (2 * rows) // 8 * 8


@pytest.mark.parametrize("architecture", ["sm_80", "sm_100"])
def test_other_architectures_have_no_such_kernels(architecture):
    assert machine_code("matmul_wgmma", architecture) == {}


PLANTED = source_of_text(
    "planted_wgmma",
    r"""
#include "wgmma.cuh"

/* One product of ones; what `mistake` says is wrong, -1 nothing. */
KERNEL(128, 1) product(i32 mistake, i32 *result)
{
    u8 *memory = aligned_to_lines(shared_memory());
    const Swizzling swizzling = mistake == 4 ? SWIZZLED_LINES : CORE_MATRICES;
    for (i32 i = (i32)threadIdx.x; i < (64 + 256) * 8; i += WARPGROUP) ((u32 *)memory)[i] = 1;
    if (mistake != 0) proxy_fence();
    if (mistake != 1) __syncthreads();
    u64 a = matrix_descriptor(memory, 128, 256, CORE_MATRICES);
    if (mistake == 3) a += (u64)lane_number() / 31;
    const u64 b = matrix_descriptor(memory + 2048 + (mistake == 4 ? 128 : 0), 128, 256, swizzling);
    i32 d[WGMMA_REGISTERS] = {};
    if (mistake != 2) warpgroup_fence();
    wgmma_b1_and(d, a, b);
    warpgroup_commit();
    if (mistake == 5) ((u32 *)memory)[threadIdx.x] = 2;
    if (mistake == 5) __syncthreads();
    if (mistake == 6) result[threadIdx.x] = d[0];
    warpgroup_wait<0>();
    if (mistake != 6) result[threadIdx.x] = d[0];
}
""",
)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (0, "no proxy_fence of all threads, and a barrier"),
        (1, "no proxy_fence of all threads, and a barrier"),
        (2, "no warpgroup_fence before the products"),
        (3, "the threads of a warp give different descriptors"),
        (4, "swizzled lines do not begin at a multiple of 1024"),
        (5, "an operand changed while a product was under way"),
    ],
)
def test_the_twin_names_a_planted_mistake(mistake, message):
    result = torch.full((128,), -1, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=message):
        ShimLauncher((9, 0)).launch(PLANTED, "product", 1, mistake, result, shared_bytes=12288)


@pytest.mark.parametrize(("mistake", "value"), [(-1, 8), (6, 0)])
def test_sums_are_there_after_the_wait_and_not_before(mistake, value):
    result = torch.full((128,), -1, dtype=torch.int32)
    ShimLauncher((9, 0)).launch(PLANTED, "product", 1, mistake, result, shared_bytes=12288)
    assert (result == value).all()

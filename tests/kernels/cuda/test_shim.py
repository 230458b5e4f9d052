"""What the shim makes an error, what order threads run in, and that its words compute as CUDA's."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from kernels.cuda_shim import ORDERS, ShimLauncher, build_shim, compiler
from kernels.cuda_source import cuda_source, source_of_text
from kernels.errors import BackendUnavailable

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler: install g++"
)

SOURCE = source_of_text(
    "shim",
    r"""
#include "ptx.cuh"

/* Barriers: 0 all threads, 1 half a warp waits for the block and half for the warp, 2 half a warp
 * has ended, 3 half of it shuffles and half waits, 4 whole warps have ended, 5 named lanes. */
KERNEL(64, 1) barriers(u32 *y, i32 mode)
{
    const bool is_lower = lane_number() < 16;
    if (mode == 1 && is_lower) __syncthreads();
    if (mode == 2 && is_lower) return;
    if (mode == 3 && is_lower) __shfl_sync(ALL_LANES, 1, 0);
    if (mode == 4 && warp_number() == 1) return;
    if (mode == 5) __syncwarp(0xffffu);
    __syncwarp();
    __syncthreads();
    y[threadIdx.x] = 1;
}

KERNEL(32, 1) copies(const u32 *x, u32 *y, i32 to, i32 from, i32 is_waited)
{
    u32 *shared = (u32 *)shared_memory();
    copy_async_16((u8 *)(shared + 4 * threadIdx.x) + to, x + 4 * threadIdx.x + from, threadIdx.x < 9);
    copy_async_commit();
    if (is_waited) copy_async_wait<0>();
    for (i32 i = 0; i < 4; i++) y[4 * threadIdx.x + i] = shared[4 * threadIdx.x + i];
    if (is_waited != 2) copy_async_wait<0>();
    if (is_waited == 2) copy_async_16(shared, x, true);
}

/* Two groups: the older one is waited for. */
KERNEL(32, 1) groups(const u32 *x, u32 *y)
{
    u32 *shared = (u32 *)shared_memory() + threadIdx.x;
    copy_async_4(shared, x, true);
    copy_async_commit();
    copy_async_4(shared + 32, x, true);
    copy_async_commit();
    copy_async_wait<1>();
    y[threadIdx.x] = shared[0];
    y[32 + threadIdx.x] = shared[32];
    copy_async_wait<0>();
    y[64 + threadIdx.x] = shared[32];
}

KERNEL(64, 1) turns(i32 *log)
{
    const i32 turn = atomicAdd(log, 1);
    log[1 + turn] = (i32)(blockIdx.x * 64 + threadIdx.x);
}

KERNEL(32, 1) words(const u32 *x, u32 *y)
{
    const u32 a = x[threadIdx.x], b = x[32 + threadIdx.x];
    u32 *row = y + threadIdx.x;
    row[0] = (u32)__popc(a);
    row[32] = (u32)__popcll((u64)a << 32 | b);
    row[64] = (u32)__clz((i32)a);
    row[96] = __umulhi(a, b);
    row[128] = __funnelshift_l(a, b, threadIdx.x);
    row[160] = __funnelshift_r(a, b, threadIdx.x);
    row[192] = __brev(a);
    row[224] = __byte_perm(a, b, 0x6217);
    row[256] = __shfl_xor_sync(ALL_LANES, a, 5);
    row[288] = __shfl_down_sync(ALL_LANES, a, 3);
    row[320] = __shfl_up_sync(ALL_LANES, a, 3);
    row[352] = __ballot_sync(ALL_LANES, a & 1);
    row[384] = (u32)__any_sync(ALL_LANES, a == b) + 2 * (u32)__all_sync(ALL_LANES, a != b);
    row[416] = __shfl_sync(ALL_LANES, a, 35);
}
""",
)


def run(kernel, *arguments, grid=1, order="forward", seed=0, shared_bytes=1024):
    launcher = ShimLauncher(order=order, seed=seed)
    launcher.launch(SOURCE, kernel, grid, *arguments, shared_bytes=shared_bytes)


def zeros(n):
    return torch.zeros(n, dtype=torch.int32)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", [0, 4])
def test_barriers_that_all_reach_or_have_left(mode, order):
    y = zeros(64)
    run("barriers", y, mode, order=order)
    assert y.tolist() == [1] * (32 if mode == 4 else 64) + [0] * (32 if mode == 4 else 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (1, "thread 0 is at __syncthreads, thread 16 of the same warp is at __syncwarp"),
        (2, "thread 0 has ended, thread 16 of the same warp is at __syncwarp"),
        (3, "thread 0 is at a warp function, thread 16 of the same warp is at __syncwarp"),
    ],
)
def test_barriers_of_part_of_a_warp(mode, expected, order):
    """After such an end the next launch is as good as any."""
    with pytest.raises(RuntimeError) as error:
        run("barriers", zeros(64), mode, order=order)
    first = 32 if order == "reverse" or "thread 32" in str(error.value) else 0
    expected = expected.replace("thread 0", f"thread {first}").replace("16", f"{first + 16}")
    assert str(error.value) == f"shim.cu: barriers: divergent barrier: {expected}"
    run("barriers", zeros(64), 0)


def test_a_warp_function_for_named_lanes():
    with pytest.raises(RuntimeError, match="a warp function was not called for all 32 lanes"):
        run("barriers", zeros(64), 5)


@pytest.mark.parametrize(("to", "offset"), [(4, 0), (0, 1), (15, 0)])
def test_copies_of_addresses_that_are_not_aligned(to, offset):
    with pytest.raises(RuntimeError, match=r"cp.async: an address is not aligned to the size"):
        run("copies", zeros(256), zeros(128), to, offset, 1)


def test_copies_to_other_than_shared_memory():
    with pytest.raises(
        RuntimeError, match=r"cp.async: the destination is not in the shared memory"
    ):
        run("copies", zeros(256), zeros(128), 1024, 0, 1)


def test_a_copy_that_is_never_waited_for():
    with pytest.raises(RuntimeError, match="a thread ended with asynchronous copies under way"):
        run("copies", zeros(256), zeros(128), 0, 0, 2)


def test_copies_arrive_at_the_wait_and_invalid_ones_are_zeros():
    x, y = torch.arange(1, 129, dtype=torch.int32), zeros(128)
    run("copies", x, y, 0, 0, 1)
    assert y.tolist() == [*range(1, 37), *[0] * 92]
    run("copies", x, y, 0, 0, 0)
    assert set(y.tolist()) == {0x5C5C5C5C}


def test_copies_are_waited_for_by_group():
    y = zeros(96)
    run("groups", torch.full((1,), 7, dtype=torch.int32), y)
    assert y.tolist() == [7] * 32 + [0x5C5C5C5C] * 32 + [7] * 32


def turns(order, seed=0):
    log = zeros(1 + 3 * 64)
    run("turns", log, grid=3, order=order, seed=seed)
    return log.tolist()[1:]


def test_the_orders_of_threads_and_blocks():
    assert turns("forward") == [*range(192)]
    assert turns("reverse") == [*range(191, -1, -1)]
    assert sorted(turns("random")) == [*range(192)]
    assert turns("random", 1) == turns("random", 1)
    seen = {tuple(turns("random", seed)) for seed in range(4)}
    assert len(seen) == 4
    for order in seen:
        assert any(abs(a - b) not in (1, 63) for a, b in pairwise(order[:32]))


def bits_of(values):
    return [f"{int(value):032b}" for value in values]


def test_words_of_the_language():
    x = np.random.default_rng(0).integers(0, 1 << 32, 64, dtype=np.uint32)
    x[0] = 0
    y = zeros(14 * 32)
    run("words", torch.from_numpy(x.view(np.int32)), y)
    rows = y.numpy().view(np.uint32).reshape(14, 32).astype(np.uint64)
    a, b = x[:32].astype(np.uint64), x[32:].astype(np.uint64)
    lane = np.arange(32, dtype=np.uint64)
    popcounts = np.array([bits.count("1") for bits in bits_of(a)])
    expected = [
        popcounts,
        popcounts + [bits.count("1") for bits in bits_of(b)],
        [32 - int(value).bit_length() for value in a],
        a * b >> np.uint64(32),
        (b << np.uint64(32) | a) >> (np.uint64(32) - lane) & np.uint64(0xFFFFFFFF),
        (b << np.uint64(32) | a) >> lane & np.uint64(0xFFFFFFFF),
        [int(bits[::-1], 2) for bits in bits_of(a)],
        (b >> np.uint64(16) & np.uint64(255)) << np.uint64(24)
        | (a >> np.uint64(16) & np.uint64(255)) << np.uint64(16)
        | (a >> np.uint64(8) & np.uint64(255)) << np.uint64(8)
        | b >> np.uint64(24),
        a[np.arange(32) ^ 5],
        [*a[3:], *a[29:]],
        [*a[:3], *a[:29]],
        [sum(1 << i for i in range(32) if a[i] & np.uint64(1))] * 32,
        [2] * 32,
        [a[3]] * 32,
    ]
    for row, values in zip(rows, expected, strict=True):
        assert row.tolist() == [int(value) for value in values]


def test_a_grid_without_blocks_does_nothing():
    y = zeros(64)
    run("barriers", y, 0, grid=(1, 0))
    assert not y.any()


def test_what_does_not_compile_is_one_line():
    source = source_of_text(
        "wrong", '#include "device.cuh"\nKERNEL(32, 1) wrong(u32 *y) { y = z; }\n'
    )
    with pytest.raises(
        BackendUnavailable, match=r"wrong.cu does not compile: .*'z' was not"
    ) as error:
        build_shim(source)
    assert "\n" not in str(error.value)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        BackendUnavailable, match=r"no C\+\+ compiler found; install g\+\+, or set CXX"
    ):
        compiler()


def test_the_cache_is_used(monkeypatch, tmp_path):
    """Nothing is compiled twice, and what changes the result has a name of its own."""
    first = build_shim(SOURCE)
    stamp = first.stat().st_mtime_ns
    assert build_shim(SOURCE) == first
    assert first.stat().st_mtime_ns == stamp
    other = source_of_text("shim", SOURCE.text + "/* */\n")
    assert build_shim(other) != first
    assert build_shim(SOURCE, "races") != first


def test_sanitizers_that_are_not_there():
    with pytest.raises(BackendUnavailable, match="sanitizer_environment"):
        ShimLauncher(checker="sanitizers")


def test_an_unknown_kernel_or_source():
    with pytest.raises(ValueError, match="expected one of"):
        cuda_source("nothing")
    with pytest.raises(ValueError, match=r"shim.cu: expected one of barriers, copies"):
        run("nothing")

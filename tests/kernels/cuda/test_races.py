"""Kernels with planted mistakes, each of which shim/races.cpp has to name; and right ones."""

import re
import shutil

import pytest
import torch

from kernels.cuda_shim import ShimLauncher
from kernels.cuda_source import source_of_text

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler: install g++"
)

SOURCE = source_of_text(
    "planted",
    r"""
#include "ptx.cuh"

/* Shared memory that may be read. */
DEVICE u32 *cleared()
{
    u32 *shared = (u32 *)shared_memory();
    shared[threadIdx.x] = 0;
    __syncthreads();
    return shared;
}

/* Rotates 64 numbers through shared memory; mode 1 forgets the barrier, 2 has one too late. */
KERNEL(64, 1) rotate(const u32 *x, u32 *y, i32 mode)
{
    u32 *shared = cleared();
    shared[threadIdx.x] = x[threadIdx.x];
    if (mode == 0) __syncthreads();
    if (mode == 3) __syncwarp();
    y[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
    if (mode == 2) __syncthreads();
}

/* Two rounds: the second one writes what the first one has read. */
KERNEL(64, 1) rotate_twice(u32 *x, i32 is_right)
{
    u32 *shared = (u32 *)shared_memory(), value = x[threadIdx.x];
    for (i32 i = 0; i < 2; i++) {
        shared[threadIdx.x] = value;
        __syncthreads();
        value = shared[(threadIdx.x + 1) % 64];
        if (is_right) __syncthreads();
    }
    x[threadIdx.x] = value;
}

/* Within a warp: 0 with __syncwarp, 1 without, 2 with a shuffle, which orders no memory. */
KERNEL(64, 1) neighbour(u32 *y, i32 mode)
{
    u32 *shared = cleared() + warp_number() * 32;
    shared[lane_number()] = threadIdx.x;
    if (mode == 0) __syncwarp();
    if (mode == 2) __shfl_sync(ALL_LANES, threadIdx.x, 0);
    y[threadIdx.x] = shared[lane_number() ^ 1];
}

/* Each byte by its own thread is right, whatever shares its word. */
KERNEL(32, 1) bytes(u8 *y, i32 mode)
{
    u8 *shared = (u8 *)cleared();
    shared[threadIdx.x] = (u8)threadIdx.x;
    if (mode == 0) __syncwarp();
    y[threadIdx.x] = mode == 2 ? shared[threadIdx.x] : shared[31 - threadIdx.x];
}

/* Blocks: 0 each its own, 1 all write one, 2 all read what the first one writes. */
KERNEL(32, 1) blocks(u32 *y, i32 mode)
{
    if (mode < 2) y[mode ? threadIdx.x : blockIdx.x * 32 + threadIdx.x] = 1;
    if (mode == 2 && blockIdx.x == 0) y[threadIdx.x] = 1;
    if (mode == 2 && blockIdx.x) y[32 * blockIdx.x + threadIdx.x] = y[threadIdx.x];
}

/* Counts by atomics; mode 1 also reads, 2 also writes, 3 reads after a barrier of its block. */
KERNEL(64, 1) counts(u32 *y, i32 mode)
{
    u32 *shared = (u32 *)shared_memory();
    if (threadIdx.x == 0) *shared = 0;
    __syncthreads();
    atomicAdd(shared, 1u);
    atomicAdd(y, 1u);
    atomicOr(y + 1, 1u << threadIdx.x % 32);
    if (mode == 1 && threadIdx.x == 3) y[2] = *shared;
    if (mode == 2 && threadIdx.x == 63) y[0] = 5;
    __syncthreads();
    if (mode == 3 && threadIdx.x == 9) y[2] = *shared + y[0];
}

KERNEL(32, 1) reach(const u32 *x, u32 *y, i32 read, i32 write, i32 shared)
{
    u32 *memory = (u32 *)shared_memory();
    if (threadIdx.x == 5) memory[shared] = x[read];
    if (threadIdx.x == 5) y[write] = memory[shared];
}

KERNEL(32, 1) unwritten(u32 *y)
{
    u32 *shared = (u32 *)shared_memory();
    if (threadIdx.x != 7) shared[threadIdx.x] = 1;
    y[threadIdx.x] = shared[threadIdx.x];
}

/* Waits for the copy: 0 right, 1 no wait, 2 waits but no barrier before another thread reads. */
KERNEL(32, 1) copies(const u32 *x, u32 *y, i32 mode)
{
    u32 *shared = (u32 *)shared_memory();
    copy_async_4(shared + threadIdx.x, x + threadIdx.x, true);
    copy_async_commit();
    if (mode != 1) copy_async_wait<0>();
    if (mode != 2) __syncthreads();
    y[threadIdx.x] = shared[31 - threadIdx.x];
    copy_async_wait<0>();
}

/* Loads a fragment that the lanes have written; mode 1 without a barrier. */
KERNEL(32, 1) fragments(u32 *y, i32 mode)
{
    u32 *shared = (u32 *)shared_memory(), r[4];
    for (i32 i = 0; i < 4; i++) shared[32 * i + 31 - threadIdx.x] = threadIdx.x;
    if (mode == 0) __syncwarp();
    ldmatrix_x4(r, shared + 4 * threadIdx.x);
    y[threadIdx.x] = r[0] + r[1] + r[2] + r[3];
}
""",
)
RACE = re.compile(r"race in [\w ]+: thread \d+ \w+( \w+)? byte \d+ that .*, no barrier between$")


def tensor(n=64, dtype=torch.int32):
    return torch.arange(n, dtype=dtype)


def run(kernel, *arguments, grid=1, order="forward"):
    launcher = ShimLauncher(order=order, seed=3, checker="races")
    launcher.launch(SOURCE, kernel, grid, *arguments, shared_bytes=1024)


def message(kernel, *arguments, **options):
    with pytest.raises(RuntimeError) as error:
        run(kernel, *arguments, **options)
    text = str(error.value)
    assert text.startswith(f"planted.cu: {kernel}: ")
    assert "\n" not in text
    return text


def test_right_kernels_are_clean():
    y = tensor()
    run("rotate", tensor(), y, 0)
    assert y.tolist() == [*range(1, 64), 0]
    x = tensor()
    run("rotate_twice", x, 1)
    assert x.tolist() == [*range(2, 64), 0, 1]
    run("neighbour", y, 0)
    assert y.tolist() == [i ^ 1 for i in range(64)]
    run("bytes", tensor(32, torch.uint8), 0)
    run("bytes", tensor(32, torch.uint8), 2)
    run("blocks", tensor(96), 0, grid=3)
    run("copies", tensor(), y, 0)
    run("fragments", y, 0)
    assert y[:32].tolist() == [4 * (31 - i) for i in range(32)]


@pytest.mark.parametrize("mode", [1, 2, 3])
@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_no_barrier_of_the_block_between_a_write_and_a_read(mode, order):
    text = message("rotate", tensor(), tensor(), mode, order=order)
    assert RACE.search(text)


@pytest.mark.parametrize(
    ("kernel", "mode", "order", "expected"),
    [
        ("rotate", 3, "forward", "32 writes byte 128 that thread 31 read"),
        ("rotate", 3, "reverse", "0 writes byte 0 that thread 63 read"),
        ("neighbour", 1, "forward", "1 writes byte 4 that thread 0 read"),
        ("neighbour", 2, "forward", "0 reads byte 4 that thread 1 wrote"),
        ("bytes", 1, "forward", "16 writes byte 16 that thread 15 read"),
    ],
)
def test_the_message_names_threads_and_byte(kernel, mode, order, expected):
    tensors = (tensor(dtype=torch.uint8 if kernel == "bytes" else torch.int32),)
    text = message(kernel, *(tensors * (1 + (kernel == "rotate"))), mode, order=order)
    assert text.endswith(f"race in shared memory: thread {expected}, no barrier between")


def test_what_one_block_reads_before_another_round_writes_it():
    assert message("rotate_twice", tensor(), 0).endswith(
        "race in shared memory: thread 1 writes byte 4 that thread 0 read, no barrier between"
    )


def test_shared_memory_that_nobody_has_written():
    assert message("unwritten", tensor()).endswith(
        "thread 7 reads byte 28 of shared memory before any thread of the block has written it"
    )


@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_no_barrier_of_the_warp_between_a_write_and_a_read(mode, order):
    text = message("neighbour", tensor(), mode, order=order)
    assert RACE.search(text)


def test_a_fragment_loaded_before_all_lanes_have_written():
    assert RACE.search(message("fragments", tensor(), 1))


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_blocks_at_the_same_word(order):
    text = message("blocks", tensor(96), 1, grid=3, order=order)
    assert re.search(
        r"race in y: block 1, thread \d+ writes byte \d+ that block \d, thread \d+ wrote", text
    )
    text = message("blocks", tensor(96), 2, grid=3, order=order)
    assert re.search(r"block \d, thread \d+ (reads|writes) byte \d+ that block \d, thread", text)
    assert text.endswith("and blocks have no order")


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_atomics_are_ordered_against_others_by_barriers_alone(order):
    y = torch.zeros(3, dtype=torch.int32)
    run("counts", y, 0, grid=3, order=order)
    assert y.tolist() == [192, -1, 0]
    assert RACE.search(message("counts", torch.zeros(3, dtype=torch.int32), 1, order=order))
    assert RACE.search(message("counts", torch.zeros(3, dtype=torch.int32), 2, order=order))
    run("counts", y, 3, order=order)
    text = message("counts", y, 3, grid=2, order=order)
    assert text.endswith("and blocks have no order")


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_copies_that_were_not_waited_for(order):
    text = message("copies", tensor(), tensor(), 1, order=order)
    assert "while an asynchronous copy of thread" in text
    text = message("copies", tensor(), tensor(), 2, order=order)
    assert "before any thread" in text  # a lane reads what is still to be copied by another one


@pytest.mark.parametrize(
    ("read", "write", "shared", "expected"),
    [
        (64, 0, 0, "thread 5 reads 4 bytes at 256 of x, which has 256 bytes"),
        (-1, 0, 0, "thread 5 reads 4 bytes at -4 of x, which has 256 bytes"),
        (0, 3, 0, "thread 5 writes 4 bytes at 12 of y, which has 12 bytes"),
        (0, 0, 256, "thread 5 writes 4 bytes at 1024 of shared memory, which has 1024 bytes"),
        (1 << 30, 0, 0, "thread 5 reads 4 bytes at an address of nothing it was given"),
    ],
)
def test_accesses_out_of_bounds(read, write, shared, expected):
    """The end of a part of a tensor is an end too."""
    y = tensor(7)[:3]
    assert f"out of bounds: block 0, {expected}" in message(
        "reach", tensor(), y, read, write, shared
    )
    run("reach", tensor(), y, 63, 2, 255)


def test_null_pointers():
    assert "thread 5 reads 4 bytes at a null pointer" in message("reach", None, tensor(), 0, 0, 0)


def test_a_tensor_that_is_passed_twice_is_one():
    x = tensor()
    run("reach", x, x[3:], 0, 0, 0)
    assert x[3] == 0
    text = message("reach", x[:8], x[4:12], 12, 0, 0)
    assert "reads 4 bytes at 48 of x, y, which has 48 bytes" in text

"""Packing, unpacking and counting bits on the GPU against numpy."""

import numpy as np
import pytest
import torch

from kernels import pack_bits, unpack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_packing import (
    pack,
    pack_signs,
    panel_popcounts,
    row_popcounts,
    to_panels,
    unpack,
)
from kernels.panels import Layout
from kernels.panels import to_panels as panels_reference

SHAPES = [(3, 1), (70, 33), (9, 68), (1, 1000), (3, 1040), (33, 96)]
"""Rows that fill words, rows of whole units of 16 bytes, rows of neither; several warps."""


def numbers(rows, n):
    """Normal numbers with NaN, zeros, infinities and ones among them."""
    random = np.random.default_rng(1000 * rows + n)
    x = random.standard_normal((rows, n)).astype(np.float32)
    special = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 1.0, -1.0, 0.5], np.float32)
    chosen = random.random(x.shape) < 0.2
    x[chosen] = random.choice(special, chosen.sum())
    return x


def words_of(tensor):
    return tensor.cpu().numpy().view(np.uint32)


def random_words(rows, n):
    return pack_bits(np.random.default_rng(n).random((rows, n)) < 0.4)


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that is allocated is full of ones, so that what is not written shows."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda *args, **kwargs: _fill(empty(*args, **kwargs)),
    )


def _fill(tensor):
    tensor.view(torch.uint8).fill_(0xFF)
    return tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), SHAPES)
@pytest.mark.usefixtures("poisoned")
def test_pack_equals_numpy(launcher, on, rows, n, dtype):
    x = torch.from_numpy(numbers(rows, n)).to(dtype)
    expected = x.float().numpy() >= 0.5
    words, counts = pack(launcher, on(x), 0.5, popcounts=True)
    assert words.dtype == torch.int32
    assert np.array_equal(words_of(words), pack_bits(expected))
    assert np.array_equal(counts.cpu().numpy(), expected.sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), SHAPES)
@pytest.mark.usefixtures("poisoned")
def test_pack_signs_equals_numpy(launcher, on, rows, n, dtype):
    x = torch.from_numpy(numbers(rows, n)).to(dtype)
    words, within = pack_signs(launcher, on(x), 1.0)
    assert np.array_equal(words_of(words), pack_bits(x.float().numpy() >= 0))
    assert np.array_equal(words_of(within), pack_bits(np.abs(x.float().numpy()) <= 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(("rows", "n"), [(3, 31), (2, 48), (40, 64), (2, 1056)])
@pytest.mark.usefixtures("poisoned")
def test_bytes_are_compared_exactly(launcher, on, rows, n, dtype):
    info = np.iinfo(dtype)
    x = np.random.default_rng(n).integers(info.min, info.max + 1, (rows, n)).astype(dtype)
    for threshold in (-np.inf, -128.0, -0.5, 0.0, 16.25, 127.0, 255.0, 256.0, np.inf, np.nan):
        expected = pack_bits(x.astype(np.float64) >= threshold)
        assert np.array_equal(words_of(pack(launcher, on(x), threshold)), expected), threshold


def test_rows_that_begin_anywhere_in_memory(launcher, on):
    x = numbers(5, 65)
    flat = on(x.reshape(-1))
    shifted = flat[1:129].view(2, 64)  # 4 bytes after a multiple of 16
    assert shifted.data_ptr() % 16 == 4
    expected = x.reshape(-1)[1:129].reshape(2, 64) >= 0
    assert np.array_equal(words_of(pack(launcher, shifted)), pack_bits(expected))


def test_leading_axes_are_kept(launcher, on):
    x = numbers(24, 40)
    words, counts = pack(launcher, on(x.reshape(2, 3, 4, 40)), popcounts=True)
    assert np.array_equal(words_of(words), pack_bits(x >= 0).reshape(2, 3, 4, 2))
    assert np.array_equal(counts.cpu().numpy(), (x >= 0).sum(1).reshape(2, 3, 4))


@pytest.mark.parametrize("shape", [(0, 64), (0, 33), (3, 0)])
def test_nothing_is_packed_and_unpacked(launcher, on, shape):
    x = on(np.zeros(shape, np.float32))
    words, counts = pack(launcher, x, popcounts=True)
    assert words.shape == (shape[0], -(-shape[1] // 32))
    assert counts.tolist() == [0] * shape[0]
    assert unpack(launcher, words, shape[1], torch.float32).shape == shape
    assert to_panels(launcher, words).shape == (-(-shape[0] // 8), -(-words.shape[1] // 4), 32)


@pytest.mark.parametrize(
    ("dtype", "signs"),
    [
        (torch.bool, False),
        (torch.uint8, False),
        (torch.int8, True),
        (torch.float32, False),
        (torch.float32, True),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
    ],
)
@pytest.mark.parametrize(("rows", "n"), SHAPES)
@pytest.mark.usefixtures("poisoned")
def test_unpack_equals_numpy(launcher, on, rows, n, dtype, signs):
    words = random_words(rows, n)
    values = unpack(launcher, on(words), n, dtype, signs=signs)
    bits = unpack_bits(words, n)
    assert values.dtype == dtype
    assert np.array_equal(values.cpu().float().numpy(), 2.0 * bits - 1 if signs else bits)


@pytest.mark.parametrize(("rows", "n"), [*SHAPES, (300, 64), (2, 32 * 150)])
@pytest.mark.usefixtures("poisoned")
def test_row_popcounts(launcher, on, rows, n):
    words = random_words(rows, n)
    counts = row_popcounts(launcher, on(words))
    assert np.array_equal(counts.cpu().numpy(), unpack_bits(words, n).sum(1))


@pytest.mark.parametrize(("n", "n_bits"), [(1, 1), (8, 128), (10, 200), (33, 1000), (15, 2200)])
@pytest.mark.usefixtures("poisoned")
def test_panels_and_their_popcounts(launcher, on, n, n_bits):
    columns = random_words(n, n_bits)
    panels = to_panels(launcher, on(columns))
    expected = panels_reference(columns, Layout.VECTORS)
    assert panels.shape == (-(-n // 8), -(-columns.shape[1] // 4), 32)
    assert np.array_equal(words_of(panels).reshape(-1), expected)
    counts = panel_popcounts(launcher, panels, n)
    assert np.array_equal(counts.cpu().numpy(), unpack_bits(columns, n_bits).sum(1))


def test_panels_of_columns_that_begin_anywhere(launcher, on):
    words = random_words(1, 32 * 65).reshape(-1)
    columns = on(words)[1:].view(16, 4)
    expected = panels_reference(words[1:].reshape(16, 4), Layout.VECTORS)
    assert np.array_equal(words_of(to_panels(launcher, columns)).reshape(-1), expected)


def test_wrong_arguments_are_named(launcher, on):
    with pytest.raises(TypeError, match=r"x: expected one of torch\.float32"):
        pack(launcher, on(np.zeros((2, 3))))
    with pytest.raises(ValueError, match="x: expected a contiguous tensor"):
        pack(launcher, on(np.zeros((2, 3), np.float32)).T)
    with pytest.raises(TypeError, match="words: expected int32 words"):
        unpack(launcher, on(np.zeros((2, 3), np.float32)), 96)
    with pytest.raises(ValueError, match="words: expected last axis 3 for 65 bits"):
        unpack(launcher, on(np.zeros((2, 2), np.uint32)), 65)
    with pytest.raises(TypeError, match=r"dtype: expected one of .* with signs=True"):
        unpack(launcher, on(np.zeros((2, 2), np.uint32)), 64, torch.bool, signs=True)
    with pytest.raises(ValueError, match=r"panels: expected shape \(2, n_blocks, 32\)"):
        panel_popcounts(launcher, on(np.zeros((1, 1, 32), np.uint32)), 9)


REGISTERS = 64
"""Of 1024 threads of a multiprocessor: enough loads under way to wait for the memory only."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", ["pack", "unpack", "panels"])
def test_accesses_are_wide_and_words_are_made_by_warps(source, architecture):
    code = machine_code(source, architecture)
    for machine in code.values():
        assert machine.stack_bytes == machine.count("CALL") == 0
        assert machine.n_registers <= REGISTERS
    for kernel, shuffles, loads in (("f32", 3, 8), ("bf16", 2, 4), ("bytes", 1, 2)):
        if source == "pack":
            assert code[f"pack_{kernel}"].count("SHFL") == shuffles
            assert code[f"pack_{kernel}"].count("VOTE") == 0
            assert code[f"pack_{kernel}"].count("LDG.E.128") == 2 * loads  # of one row, of many
            assert code[f"pack_elements_{kernel}"].count("VOTE") == 8
        if source == "unpack":
            assert code[f"unpack_{kernel}"].count("STG.E.128") == 2 * loads
            assert code[f"unpack_{kernel}"].count("LDG") == 1
    if source == "panels":
        assert code["to_panels"].count("STG.E.128") == 1

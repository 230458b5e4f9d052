"""Transposing bits on the GPU against numpy."""

import numpy as np
import pytest
import torch

from kernels import pack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_packing import transpose_bits, transpose_to_panels
from kernels.panels import Layout, to_panels
from kernels.reference_sampling import transpose_bits_reference

SHAPES = [(1, 1), (33, 31), (31, 65), (64, 64), (129, 255), (257, 40), (40, 257), (300, 300)]
"""Inside of a tile of 256 x 256 bits, at its edge and beyond, in both directions."""


def random_words(rows, n_bits):
    return pack_bits(np.random.default_rng(rows + n_bits).random((rows, n_bits)) < 0.5)


@pytest.mark.parametrize(("rows", "n_bits"), SHAPES)
def test_transpose_equals_numpy(launcher, on, rows, n_bits):
    words = random_words(rows, n_bits)
    out = transpose_bits(launcher, on(words), n_bits)
    expected = transpose_bits_reference(words, n_bits)
    assert np.array_equal(out.cpu().numpy().view(np.uint32), expected)


@pytest.mark.parametrize(("rows", "n_bits"), SHAPES)
def test_panels_are_those_of_the_transposed_bits(launcher, on, rows, n_bits):
    words = random_words(rows, n_bits)
    out = transpose_to_panels(launcher, on(words), n_bits)
    expected = to_panels(transpose_bits_reference(words, n_bits), Layout.VECTORS)
    assert out.shape == (-(-n_bits // 8), -(-rows // 128), 32)
    assert np.array_equal(out.cpu().numpy().view(np.uint32).reshape(-1), expected)


def test_every_word_of_the_result_is_written(launcher, on):
    words, rows, n_bits = random_words(290, 70), 290, 70
    out = torch.full((n_bits + 1, 10), -1, dtype=torch.int32, device=launcher.device)
    shared = 4 * 256 * 9
    arguments = (on(words), rows, 3, n_bits, out)
    launcher.launch("transpose", "transpose_bits", (2, 1), *arguments, shared_bytes=shared)
    assert np.array_equal(
        out[:n_bits].cpu().numpy().view(np.uint32), transpose_bits_reference(words, n_bits)
    )
    assert (out[n_bits] == -1).all()
    panels = torch.full((10, 3, 32), -1, dtype=torch.int32, device=launcher.device)
    arguments = (on(words), rows, 3, n_bits, panels)
    launcher.launch("transpose", "transpose_to_panels", (2, 1), *arguments, shared_bytes=shared)
    expected = to_panels(transpose_bits_reference(words, n_bits), Layout.VECTORS)
    assert np.array_equal(panels[:9].cpu().numpy().view(np.uint32).reshape(-1), expected)
    assert (panels[9] == -1).all()


def test_nothing_is_transposed(launcher, on):
    assert transpose_bits(launcher, on(np.zeros((0, 2), np.uint32)), 40).shape == (40, 0)
    assert transpose_to_panels(launcher, on(np.zeros((5, 0), np.uint32)), 0).shape == (0, 1, 32)


def test_wrong_arguments_are_named(launcher, on):
    with pytest.raises(ValueError, match="words: expected last axis 2 for 40 bits"):
        transpose_bits(launcher, on(np.zeros((5, 3), np.uint32)), 40)
    with pytest.raises(ValueError, match=r"words: expected shape \(n_rows, n_words\)"):
        transpose_bits(launcher, on(np.zeros((5, 1, 2), np.uint32)), 40)


REGISTERS = 64
"""Of 4 blocks of 256 threads, which the 9 KB of shared memory of each leave room for."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_are_transposed_by_shuffles(architecture):
    for machine in machine_code("transpose", architecture).values():
        assert machine.count("SHFL") == 8 * 5
        assert machine.count("VOTE") == 0
        assert machine.count("CALL") == machine.stack_bytes == 0
        assert machine.n_registers <= REGISTERS

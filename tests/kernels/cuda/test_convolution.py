"""Convolutions of packed signs on CUDA against the slow twin; the machine code."""

import numpy as np
import pytest
import torch

from kernels import cuda_convolution, pack_bits
from kernels.convolution_call import BORDERS
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_convolution import (
    conv_panels,
    convolve,
    convolve_bits,
    default_path,
    default_tile,
    spread_groups,
)
from kernels.reference_convolution import convolve as reference
from kernels.reference_convolution import threshold_bits

PATHS = ("b1", "s8", "direct")
TILES = ("wide", "narrow")

# N, H, W; channels and output channels of a group, groups; kernel, stride, padding.
SHAPES = [
    ((3, 9, 7), (1, 5, 1), (3, 3), (1, 1), (1, 1)),
    ((1, 5, 11), (3, 70, 1), (5, 3), (1, 2), (2, 1)),
    ((2, 6, 5), (31, 33, 1), (1, 1), (2, 1), (0, 0)),
    ((2, 4, 5), (33, 3, 2), (3, 3), (1, 1), (1, 1)),
    ((1, 13, 6), (64, 65, 1), (3, 3), (2, 2), (1, 0)),
    ((1, 5, 5), (130, 32, 2), (3, 2), (1, 1), (2, 1)),
    ((2, 5, 4), (128, 31, 1), (3, 3), (1, 1), (1, 1)),
    ((5, 6, 6), (1, 1, 37), (3, 3), (1, 1), (1, 1)),
    ((1, 7, 8), (31, 2, 3), (2, 5), (3, 1), (0, 4)),
]


@pytest.fixture
def launcher(make_launcher):
    """Of a capability that has the b1 instruction."""
    launcher = make_launcher((8, 0))
    if launcher.capability > (9, 0):
        pytest.skip(f"no b1 instruction on {launcher.capability}")
    return launcher


@pytest.fixture(params=TILES)
def tile(request, monkeypatch):
    """The tile that the kernels take, whatever the shape."""
    monkeypatch.setattr(cuda_convolution, "default_tile", lambda *_: request.param)
    return request.param


def operands(images, channels, kernel):
    """Signs (N, H, W, C), weights (n_out, KH, KW, C / groups), as bits."""
    group_channels, group_out, groups = channels
    rng = np.random.default_rng([*images, *channels, *kernel])
    signs = rng.random((*images, groups * group_channels)) < 0.6
    return signs, rng.random((groups * group_out, *kernel, group_channels)) < 0.4


def packed(launcher, on, signs, weights, groups):
    """The same as words on the device."""
    panels = conv_panels(launcher, on(pack_bits(weights)), weights.shape[3], groups)
    return on(pack_bits(signs)), panels


def levels(sums):
    """Thresholds among the sums, with extreme ones, and flips."""
    rng = np.random.default_rng(sums.shape)
    threshold = rng.choice(sums.reshape(-1), sums.shape[3]).astype(np.int32)
    threshold[::7], threshold[3::11] = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    return threshold, rng.random(sums.shape[3]) < 0.5


def check(launcher, on, shape, border, path):
    """Sums and bits of one convolution against numpy."""
    images, channels, kernel, stride, padding = shape
    groups = channels[2]
    signs, weights = operands(images, channels, kernel)
    words, panels = packed(launcher, on, signs, weights, groups)
    sums = reference(
        *(2 * signs.astype(np.int64) - 1, 2 * weights.astype(np.int64) - 1),
        *(stride, padding, BORDERS[border], groups),
    )
    dtype = (torch.int32, torch.float32)[images[0] % 2]
    values = convolve(launcher, words, panels, stride, padding, border, path=path, out_dtype=dtype)
    assert values.dtype == dtype
    assert np.array_equal(values.cpu().numpy(), sums)
    threshold, flip = levels(sums)
    fills_words = groups == 1 or channels[1] % 32 == 0
    bits = convolve_bits(
        *(launcher, words, panels, on(threshold), on(flip), stride, padding, border),
        path=path if fills_words else None,
    )
    wanted = pack_bits(threshold_bits(sums, threshold, flip))
    assert np.array_equal(bits.cpu().numpy().view(np.uint32), wanted)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("path", PATHS)
def test_ragged_convolutions_equal_numpy(launcher, on, path, border):
    step = 2 if path == "s8" else 1  # the slow one on the CPU; copies are those of b1
    for shape in SHAPES[::step]:
        check(launcher, on, shape, border, path)


@pytest.mark.parametrize("path", ["b1", "s8"])
def test_tiles(launcher, on, tile, path):
    """More pixels and channels than a tile, more words than two steps of the pipeline."""
    check(launcher, on, ((2, 8, 9), (70, 130, 1), (5, 5), (1, 1), (2, 2)), "zero", path)


def test_images_that_begin_between_16_bytes(launcher, on):
    signs, weights = operands((2, 4, 4), (128, 8, 1), (3, 3))
    words, panels = packed(launcher, on, signs, weights, 1)
    memory = torch.full((1 + words.numel(),), -1, dtype=torch.int32, device=launcher.device)
    shifted = memory[1:].view(words.shape)
    shifted.copy_(words)
    expected = convolve(launcher, words, panels, padding=1, path="b1")
    assert torch.equal(convolve(launcher, shifted, panels, padding=1, path="b1"), expected)


def test_spread_groups_pads_every_group(launcher, on):
    signs = np.random.default_rng(0).random((2, 3, 2, 3 * 45)) < 0.5
    spread = spread_groups(launcher, on(pack_bits(signs)), 45, 3)
    wanted = pack_bits(signs.reshape(2, 3, 2, 3, 45)).reshape(2, 3, 2, 6)
    assert np.array_equal(spread.cpu().numpy().view(np.uint32), wanted)


@pytest.mark.parametrize("path", PATHS)
def test_no_images(launcher, on, path):
    signs, weights = operands((0, 4, 4), (33, 5, 1), (3, 3))
    words, panels = packed(launcher, on, signs, weights, 1)
    assert convolve(launcher, words, panels, padding=1, path=path).shape == (0, 4, 4, 5)


def test_default_paths_and_tiles(launcher, on):
    def panels(n_out, kernel, channels, groups):
        words = torch.zeros((n_out, *kernel, -(-channels // 32)), dtype=torch.int32)
        return conv_panels(launcher, words.to(launcher.device), channels, groups)

    plain = panels(256, (3, 3), 256, 1)
    assert [default_path(c, plain) for c in ((8, 0), (9, 0), (10, 0))] == ["b1", "b1", "s8"]
    assert default_path((8, 0), panels(64, (3, 3), 1, 64)) == "direct"
    narrow_groups = panels(48, (3, 3), 24, 2)
    assert default_path((9, 0), narrow_groups) == "b1"
    assert default_path((9, 0), narrow_groups, is_bits=True) == "direct"
    assert default_path((8, 0), panels(8, (99, 99), 32, 1)) == "direct"
    assert default_tile(54 * 128, plain, 4) == "wide"
    assert default_tile(53 * 128, plain, 4) == "narrow"
    assert default_tile(1 << 20, panels(64, (3, 3), 256, 1), 4) == "narrow"
    assert default_tile(1 << 20, panels(256, (7, 7), 1024, 1), 4) == "narrow"


def test_errors_name_the_way_out(make_launcher, launcher, on):
    signs, weights = operands((1, 4, 4), (33, 6, 2), (3, 3))
    words, panels = packed(launcher, on, signs, weights, 2)
    with pytest.raises(TypeError, match="pack them first"):
        convolve(launcher, words.float(), panels)
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\) for 66 channels"):
        convolve(launcher, words[..., :2].contiguous(), panels)
    with pytest.raises(ValueError, match="padding < kernel"):
        convolve(launcher, words, panels, padding=3)
    with pytest.raises(ValueError, match="expected one of minus_one, zero"):
        convolve(launcher, words, panels, border="one")
    with pytest.raises(ValueError, match="expected one of b1, s8, direct"):
        convolve(launcher, words, panels, path="b2")
    with pytest.raises(TypeError, match="int32 or float32"):
        convolve(launcher, words, panels, out_dtype=torch.float64)
    threshold, flip = on(np.zeros(12, np.int32)), on(np.zeros(12, bool))
    with pytest.raises(ValueError, match="groups of whole words"):
        convolve_bits(launcher, words, panels, threshold, flip, path="b1")
    with pytest.raises(ValueError, match=r"flip: expected torch.bool of shape \(12,\)"):
        convolve_bits(launcher, words, panels, threshold, threshold)
    with pytest.raises(ValueError, match="divisor of n_out = 12"):
        conv_panels(launcher, panels.words, 33, 5)
    with pytest.raises(ValueError, match="for 70 channels of a group"):
        conv_panels(launcher, panels.words, 70, 2)


def test_b1_is_refused_where_it_is_emulated(make_launcher, on):
    launcher = make_launcher((10, 0))
    if launcher.capability <= (9, 0):
        pytest.skip(f"b1 instructions on {launcher.capability}")
    signs, weights = operands((1, 4, 4), (33, 30, 1), (3, 3))
    words, panels = packed(launcher, on, signs, weights, 1)
    with pytest.raises(ValueError, match="compute capability up to"):
        convolve(launcher, words, panels, path="b1")
    sums = reference(2 * signs.astype(np.int64) - 1, 2 * weights.astype(np.int64) - 1)
    assert np.array_equal(convolve(launcher, words, panels).cpu().numpy(), sums)


BUDGETS = {"wide": 255, "narrow": 128}
"""Registers of a thread: 256 threads once, and 128 threads four times, have 65536."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture):
    kernels = machine_code("convolution", architecture)
    paths = {"s8": "IMMA.16832.S8.S8"}
    if architecture != "sm_100":
        paths["b1"] = "BMMA.168256.AND.POPC"
    assert set(kernels) == {f"convolve_{path}_{tile}" for path in paths for tile in TILES}
    for path, instruction in paths.items():
        for tile in TILES:
            code = kernels[f"convolve_{path}_{tile}"]
            fragments = 4 * {"wide": 4, "narrow": 2}[tile]
            # Of every 256 bits one instruction for each fragment of sums, and one that counts ones.
            parts = 8 if path == "s8" else 1
            assert code.count(instruction) % (parts * (fragments + 1)) == 0
            assert code.count(instruction) > 0
            assert code.count("LDGSTS.E.128") > 0  # columns; rows by way of L1
            assert code.count("LDSM.16.M88.4") > 0
            assert code.count("POPC") == 0
            assert code.stack_bytes == 0
            assert code.count("CALL") == 0
            assert code.n_registers <= BUDGETS[tile]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code_of_direct_kernels(architecture):
    kernels = machine_code("convolution_direct", architecture)
    assert kernels["convolve_direct"].count("POPC") > 0
    for code in kernels.values():
        assert code.stack_bytes == 0
        assert code.count("CALL") == 0
    assert kernels["convolve_direct"].n_registers <= 64
    assert kernels["spread_groups"].n_registers <= 32

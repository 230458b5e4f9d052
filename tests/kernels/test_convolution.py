"""Convolutions of bits and of int8: every back end against signs and zeros written out."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference_convolution as reference
from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.convolution import (
    Border,
    ConvWeights,
    FloatConvolution,
    convolve,
    convolve_bits,
    convolve_int8,
    convolve_int8_bits,
)
from kernels.convolution_call import BORDERS
from kernels.host import KernelLibrary, host_library
from kernels.packing import pack_bits
from kernels.panels import Layout

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
KERNELS = ((3, 3), (1, 1), (5, 5), (2, 3))
HERE = [name for name in BACKENDS if name in available_backends()]
COMPILED = [name for name in HERE if name != "reference"]
CHANNELS = ((64, 64, 1), (33, 70, 1), (96, 39, 3), (40, 24, 4), (6, 12, 6), (70, 70, 70))
"""Channels in, channels out, groups: whole words, ragged, one word each, parts of words, and
depthwise with two channels out and with one."""


@dataclass(frozen=True)
class Case:
    """One convolution of random signs, and what has to come out."""

    bits: NDArray[np.bool_]
    weights: NDArray[np.bool_]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    border: Border = "minus_one"
    groups: int = 1
    pool: tuple[int, int] = (1, 1)

    def expected(self) -> NDArray[np.int64]:
        images, weights = 2 * self.bits.astype(np.int64) - 1, 2 * self.weights.astype(np.int64) - 1
        outside = -1 if self.border == "minus_one" else 0
        sums = reference.convolve(images, weights, self.stride, self.padding, outside, self.groups)
        return reference.max_pool(sums, self.pool)

    def check(self, layout: Layout | None = None, library: KernelLibrary | None = None) -> None:
        """Compare integers, and bits after a bias and thresholds; pad bits are in the words."""
        images, sums = pack_bits(self.bits), self.expected()
        weights = ConvWeights.of(self.weights, self.groups, layout, library=library)
        geometry = (self.stride, self.padding, self.border)
        ours = convolve(images, weights, *geometry, pool=self.pool, library=library)
        assert np.array_equal(ours, sums)
        rng = np.random.default_rng(weights.n_out)
        bias = rng.integers(-9, 10, weights.n_out, dtype=np.int32)
        level = rng.integers(-9, 10, weights.n_out, dtype=np.int32)
        flip = rng.random(weights.n_out) < 0.5
        packed = convolve_bits(
            images, weights, level, flip, *geometry, pool=self.pool, bias=bias, library=library
        )
        assert np.array_equal(packed, pack_bits((sums + bias >= level) ^ flip))


def draw(
    seed: int,
    kernel: tuple[int, int],
    channels: tuple[int, int, int],
    size: tuple[int, int] = (6, 7),
    n: int = 1,
    **options: object,
) -> Case:
    rng = np.random.default_rng(seed)
    n_in, n_out, groups = channels
    bits = rng.random((n, *size, n_in)) < 0.5
    weights = rng.random((n_out, *kernel, n_in // groups)) < 0.5
    return Case(bits, weights, groups=groups, **options)  # type: ignore[arg-type]


def test_the_reference_is_the_sum_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, (1, 4, 5, 4)), rng.integers(-3, 4, (6, 3, 2, 2))
    sums = reference.convolve(x, w, (2, 1), (1, 1), -1, 2)
    assert sums.shape == (1, 2, 6, 6)
    for y, column, o in product(range(2), range(6), range(6)):
        expected = 0
        for i, j, c in product(range(3), range(2), range(2)):
            row, at = 2 * y + i - 1, column + j - 1
            inside = 0 <= row < 4 and 0 <= at < 5
            expected += w[o, i, j, c] * (x[0, row, at, o // 3 * 2 + c] if inside else -1)
        assert sums[0, y, column, o] == expected


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", HERE)
def test_every_back_end_is_exact(name: str, kernel: tuple[int, int], border: Border) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2)
    with use_backend(name):
        for stride, channels in product(((1, 1), (2, 2), (2, 1)), CHANNELS):
            draw(1, kernel, channels, stride=stride, padding=padding, border=border).check()


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("name", COMPILED)
def test_every_back_end_reads_every_layout(name: str, layout: Layout) -> None:
    with use_backend(name):
        for border, channels in product(BORDERS, CHANNELS):
            options = {"padding": (1, 1), "border": border}
            draw(2, (3, 3), channels, (5, 9), n=2, **options).check(layout)
        draw(3, (4, 6), (130, 20, 1), (4, 6)).check(layout)  # a dense layer: one span
        draw(4, (1, 1), (128, 33, 1), (3, 3)).check(layout)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("n", SIZES)
def test_every_number_of_channels(n: int, name: str) -> None:
    with use_backend(name):
        draw(n, (2, 2), (n, 40, 1), (3, 3), padding=(1, 0), border="zero").check()
        draw(n, (2, 2), (40, n, 1), (3, 3), padding=(0, 1)).check()
        draw(n, (3, 3), (n, n, n), (4, 4), padding=(1, 1), border="zero").check()


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("pool", [(2, 2), (1, 3), (3, 2), (5, 6)])
def test_pools_take_the_largest_sum(name: str, pool: tuple[int, int]) -> None:
    with use_backend(name):
        for border, channels in product(BORDERS, CHANNELS):
            options = {"padding": (1, 1), "border": border, "pool": pool}
            draw(5, (3, 3), channels, (9, 8), **options).check()


@pytest.mark.parametrize("name", COMPILED)
def test_kernels_that_are_larger_than_the_image(name: str) -> None:
    with use_backend(name):
        for border in BORDERS:
            draw(6, (5, 5), (33, 20, 1), (1, 2), padding=(2, 3), border=border).check()
            draw(6, (5, 5), (20, 20, 20), (2, 1), padding=(4, 4), border=border).check()
            draw(6, (7, 3), (64, 16, 2), (3, 9), padding=(3, 2), border=border).check()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_drawn_shapes(data: st.DataObject) -> None:
    def draw_pair(low: int, high: int) -> tuple[int, int]:
        side = st.integers(low, high)
        return data.draw(side), data.draw(side)

    kernel, stride, pool = draw_pair(1, 5), draw_pair(1, 3), draw_pair(1, 2)
    padding = (data.draw(st.integers(0, kernel[0] - 1)), data.draw(st.integers(0, kernel[1] - 1)))
    least = [
        k - 2 * p + s * (q - 1) for k, p, s, q in zip(kernel, padding, stride, pool, strict=True)
    ]
    size = tuple(max(1, n) + data.draw(st.integers(0, 6)) for n in least)
    groups = data.draw(st.integers(1, 4))
    n_in = groups * data.draw(st.sampled_from((1, 5, 32, 33, 64)))
    n_out = groups * data.draw(st.sampled_from((1, 7, 16, 33, 65)))
    case = draw(
        data.draw(st.integers(0, 99)), kernel, (n_in, n_out, groups), (size[0], size[1]),
        stride=stride, padding=padding, pool=pool, border=data.draw(st.sampled_from(list(BORDERS))),
    )  # fmt: skip
    layout = data.draw(st.sampled_from((None, *Layout)))
    with use_backend(data.draw(st.sampled_from(COMPILED))):
        case.check(layout)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("channels", CHANNELS)
def test_no_byte_beyond_memory_is_written(name: str, channels: tuple[int, int, int]) -> None:
    library, code = host_library(), BACKENDS[name].code
    assert code is not None
    for border, pool, kind in product((-1, 0), ((1, 1), (2, 3)), (1, 2, 3)):
        shape = [kind, 0, channels[2], border, *channels[:2], 7, 9, 3, 3, 1, 1, 1, 1, *pool]
        shape = np.array([*shape, 7 // pool[0], 9 // pool[1]], np.int64)
        n_bytes = library.call("bsk_convolution_scratch", code, shape)
        n_out = int(shape[16] * shape[17]) * 4 * channels[1]
        scratch, out = np.full(n_bytes + 64, 7, np.uint8), np.full(n_out + 64, 7, np.uint8)
        images = np.zeros(63 * 4 * channels[0], np.uint8)
        weights = np.zeros(channels[1] * 9 * 4 * channels[0], np.uint8)
        library.call("bsk_convolve", code, shape, images, weights, 0, 0, scratch, out, 0, 1)
        assert np.all(scratch[n_bytes:] == 7)
        assert np.all(out[n_out:] == 7)


def integers(seed: int, dtype: type, shape: tuple[int, ...]) -> NDArray[np.integer]:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32])
@pytest.mark.parametrize("name", HERE)
def test_int8_weights_are_exact(name: str, dtype: type) -> None:
    with use_backend(name):
        for kernel, channels, border in product(
            KERNELS, ((3, 17, 1), (40, 70, 1), (6, 9, 3)), BORDERS
        ):
            for stride, pool in (((1, 1), (1, 1)), ((2, 1), (1, 2))):
                check_int8(7, dtype, kernel, channels, border, stride, pool)


def check_int8(
    seed: int,
    dtype: type,
    kernel: tuple[int, int],
    channels: tuple[int, int, int],
    border: Border = "minus_one",
    stride: tuple[int, int] = (1, 1),
    pool: tuple[int, int] = (1, 1),
    size: tuple[int, int] = (6, 7),
    library: KernelLibrary | None = None,
) -> None:
    n_in, n_out, groups = channels
    weights = integers(seed, np.int8, (n_out, *kernel, n_in // groups))
    outside, padding = 0, (kernel[0] // 2, kernel[1] // 2)
    if dtype is np.uint32:
        bits = np.random.default_rng(seed).random((2, *size, n_in)) < 0.5
        images, numbers, outside = pack_bits(bits), 2 * bits.astype(np.int64) - 1, BORDERS[border]
    else:
        images = numbers = integers(seed, dtype, (2, *size, n_in))
    sums = reference.convolve(numbers, weights, stride, padding, outside, groups)
    sums = reference.max_pool(sums, pool)
    ours = convolve_int8(
        images, weights, stride, padding, border, groups=groups, pool=pool, library=library
    )
    assert np.array_equal(ours, sums)
    level, flip = sums[0, 0, 0].astype(np.int32), np.arange(n_out) % 2 == 0
    packed = convolve_int8_bits(
        images, weights, level, flip, stride, padding, border,
        groups=groups, pool=pool, library=library,
    )  # fmt: skip
    assert np.array_equal(packed, pack_bits((sums >= level) ^ flip))


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("n", SIZES)
def test_int8_weights_with_every_number_of_channels(n: int, name: str) -> None:
    with use_backend(name):
        for dtype in (np.uint8, np.uint32):
            check_int8(n, dtype, (1, 1), (n, 5, 1), size=(1, 1))  # one position: no panels
            check_int8(n, dtype, (1, 2), (n, 5, 1), size=(3, 3))
            check_int8(n, dtype, (2, 1), (5, n, 1), size=(3, 3))


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("n_positions", [1, 12])
def test_the_largest_sums_do_not_overflow(name: str, n_positions: int) -> None:
    """Partial sums of 16 bits are widened in time: after 2048 and 2032 values on some back ends."""
    k, size = 6001, (n_positions, 1)
    weights = np.full((3, 1, 1, k), -128, np.int8)
    weights[1] = 127
    with use_backend(name):
        for value in (0, 255):
            ours = convolve_int8(np.full((1, *size, k), value, np.uint8), weights)
            assert np.array_equal(
                ours[0, -1, 0], [-128 * value * k, 127 * value * k, -128 * value * k]
            )
        for bit in (False, True):
            ours = convolve_int8(pack_bits(np.full((1, *size, k), bit)), weights)
            sign = 2 * bit - 1
            assert np.array_equal(
                ours[0, -1, 0], [-128 * sign * k, 127 * sign * k, -128 * sign * k]
            )


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("channels", [5, 64])
def test_float_images(name: str, channels: int) -> None:
    rng = np.random.default_rng(8)
    images = rng.standard_normal((3, 5, 6, channels)).astype(np.float32)
    images[0, 0, 0, :3] = (0.25, 0.0, -0.0)
    case = Case(images >= 0.25, rng.random((20, 3, 3, channels)) < 0.5, padding=(1, 1))
    level, flip = np.arange(-10, 10, dtype=np.int32), rng.random(20) < 0.5
    with use_backend(name):
        weights = ConvWeights.of(case.weights)
        plain = FloatConvolution(weights, (5, 6), padding=1, level=0.25)
        assert np.array_equal(plain(images), case.expected())
        out = np.empty((3, 5, 6, 20), np.int32)
        assert plain(images, out) is out
        assert np.array_equal(out, case.expected())
        packed = FloatConvolution(
            weights, (5, 6), padding=1, level=0.25, threshold=level, flip=flip
        )(images)
        assert np.array_equal(packed, pack_bits((case.expected() >= level) ^ flip))


def test_batches_do_not_depend_on_threads() -> None:
    case = draw(9, (3, 3), (64, 64, 1), n=7, padding=(1, 1), border="zero")
    images, weights = pack_bits(case.bits), ConvWeights.of(case.weights)
    for n_threads in (1, 2, 3):
        sums = convolve(images, weights, 1, 1, "zero", n_threads=n_threads)
        assert np.array_equal(sums, case.expected())
    assert convolve(images[:0], weights).shape == (0, 4, 5, 64)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("channels", CHANNELS)
def test_weights_come_back(layout: Layout, channels: tuple[int, int, int]) -> None:
    bits = draw(10, (2, 3), channels).weights
    assert np.array_equal(ConvWeights.of(bits, channels[2], layout).bits(), bits)


def test_what_does_not_fit_is_named() -> None:
    images = np.zeros((1, 5, 5, 2), np.uint32)
    weights = ConvWeights.of(np.zeros((4, 3, 3, 40), np.bool_))
    with pytest.raises(TypeError, match="bits: expected dtype bool"):
        ConvWeights.of(np.zeros((4, 3, 3, 40), np.int8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="groups: expected a divisor of n_out = 4, got 3"):
        ConvWeights.of(np.zeros((4, 3, 3, 40), np.bool_), 3)
    with pytest.raises(ValueError, match=r"images: expected last axis 2 \(40 channels"):
        convolve(images[..., :1], weights)
    with pytest.raises(TypeError, match="images: expected dtype uint32, got int32"):
        convolve(images.view(np.int32), weights)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"0 <= padding < kernel, got .* padding 3 and kernel 3"):
        convolve(images, weights, 1, 3)
    with pytest.raises(ValueError, match="expected room for one output, got height 5"):
        convolve(images, weights, pool=4)
    with pytest.raises(ValueError, match="border: expected one of minus_one, zero, got 'one'"):
        convolve(images, weights, border="one")  # type: ignore[arg-type]
    level, flip = np.zeros(4, np.int32), np.zeros(4, np.bool_)
    with pytest.raises(ValueError, match=r"threshold: expected int32 of shape \(4,\)"):
        convolve_bits(images, weights, level[:3], flip)
    with pytest.raises(ValueError, match=r"flip: expected bool \(4,\)"):
        convolve_bits(images, weights, level, flip.astype(np.int32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weights: expected dtype int8"):
        convolve_int8(images, np.zeros((4, 3, 3, 40)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images: expected dtype uint8, int8 or uint32"):
        convolve_int8(images.astype(np.int16), np.zeros((4, 3, 3, 2), np.int8))
    with pytest.raises(
        ValueError, match="weights: expected sums that fit int32, got 100000 products"
    ):
        convolve_int8(np.zeros((1, 1, 1, 100_000), np.uint8), np.zeros((1, 1, 1, 100_000), np.int8))

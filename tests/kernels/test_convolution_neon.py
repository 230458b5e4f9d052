"""Convolutions on emulated aarch64: exact, no read outside of arrays, and how much they cost."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import reference_convolution as reference
from kernels.build import build_library
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
from kernels.emulate import EmulatedLibrary
from kernels.host import Argument, KernelLibrary
from kernels.packing import pack_bits
from kernels.panels import Layout, to_panels

pytestmark = pytest.mark.arm

NEON, DOTPROD = 3, 4


class Counter:
    """A library that remembers how many instructions its last call took."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self._library, self.instructions = library, 0

    def call(self, name: str, *arguments: Argument) -> int:
        result, self.instructions = self._library.count(name, *arguments)
        return result


class WithDotProduct(Counter):
    """A library that runs as the back end that only its caller can choose."""

    def call(self, name: str, *arguments: Argument) -> int:
        result = super().call(name, *arguments)
        return result | 1 << DOTPROD if name == "bsk_backends" else result


@pytest.fixture(scope="module")
def dot_product() -> Iterator[WithDotProduct]:
    path = build_library("aarch64-linux", part="kernels")
    with EmulatedLibrary(path, dot_product=True) as emulated:
        yield WithDotProduct(emulated)


@pytest.fixture(scope="module")
def library() -> Iterator[EmulatedLibrary]:
    with EmulatedLibrary(build_library("aarch64-linux", part="kernels")) as emulated:
        yield emulated


def signs(bits: NDArray[np.bool_]) -> NDArray[np.int64]:
    return 2 * bits.astype(np.int64) - 1


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 5), (2, 3)])
def test_bits_are_exact(library: EmulatedLibrary, kernel: tuple[int, int], border: Border) -> None:
    rng, padding = np.random.default_rng(1), (kernel[0] // 2, kernel[1] // 2)
    ways = (
        ((1, 1), (1, 1), Layout.VECTORS),
        ((1, 2), (1, 1), Layout.VECTORS),
        ((2, 1), (2, 2), Layout.ROWS),
    )
    for n_in, n_out, groups in ((128, 40, 1), (33, 70, 1), (96, 39, 3), (40, 24, 4), (70, 70, 70)):
        bits, weights = (
            rng.random((1, 5, 6, n_in)) < 0.5,
            rng.random((n_out, *kernel, n_in // groups)) < 0.5,
        )
        for stride, pool, layout in ways:
            outside = BORDERS[border]
            sums = reference.convolve(signs(bits), signs(weights), stride, padding, outside, groups)
            sums = reference.max_pool(sums, pool)
            packed = ConvWeights.of(weights, groups, layout)
            geometry = (stride, padding, border)
            ours = convolve(pack_bits(bits), packed, *geometry, pool=pool, library=library)
            assert np.array_equal(ours, sums)
            level, flip = np.zeros(n_out, np.int32), np.arange(n_out) % 3 == 0
            ours_bits = convolve_bits(
                pack_bits(bits), packed, level, flip, *geometry, pool=pool, library=library
            )
            assert np.array_equal(ours_bits, pack_bits((sums >= 0) ^ flip))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32])
@pytest.mark.parametrize("backend", ["library", "dot_product"])
def test_int8_weights_are_exact(backend: str, dtype: type, request: pytest.FixtureRequest) -> None:
    library: KernelLibrary = request.getfixturevalue(backend)
    rng, limits = np.random.default_rng(2), np.iinfo(dtype)
    layers = ((3, 33, 1), (70, 10, 1), (6, 4, 2), (1, 17, 1), (16, 65, 1))
    cases = product(((1, 1), (3, 3)), ((1, 1), (5, 6)), layers)
    for kernel, size, (n_in, n_out, groups) in cases:
        size = (max(size[0], kernel[0]), max(size[1], kernel[1]))
        weights = rng.integers(-128, 128, (n_out, *kernel, n_in // groups), np.int8)
        images = numbers = rng.integers(limits.min, limits.max, (1, *size, n_in), dtype, True)
        if dtype is np.uint32:
            bits = rng.random((1, *size, n_in)) < 0.5
            images, numbers = pack_bits(bits), signs(bits)
        for padding in (0, kernel[0] // 2):
            border = -1 if dtype is np.uint32 else 0
            ours = convolve_int8(images, weights, 1, padding, groups=groups, library=library)
            sums = reference.convolve(numbers, weights, (1, 1), (padding,) * 2, border, groups)
            assert np.array_equal(ours, sums)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_the_largest_int8_sums_are_exact(dot_product: WithDotProduct, dtype: type) -> None:
    """uint8 data are taken as x - 128, and 128 * (sum of the weights) comes on top."""
    for number, weight in product((np.iinfo(dtype).min, np.iinfo(dtype).max), (-128, 127)):
        weights = np.full((17, 1, 1, 4099), weight, np.int8)
        sums = convolve_int8(np.full((1, 3, 3, 4099), number, dtype), weights, library=dot_product)
        assert np.array_equal(sums, np.full((1, 3, 3, 17), 4099 * int(number) * weight))


@pytest.mark.parametrize("backend", ["library", "dot_product"])
def test_the_largest_sums_do_not_overflow(backend: str, request: pytest.FixtureRequest) -> None:
    """A lane of 16 bits takes 2032 products of -1 and -128."""
    library: KernelLibrary = request.getfixturevalue(backend)
    weights, bits = np.full((5, 1, 1, 4100), -128, np.int8), np.zeros((1, 2, 3, 4100), np.bool_)
    sums = convolve_int8(pack_bits(bits), weights, library=library)
    assert np.array_equal(sums, np.full((1, 2, 3, 5), 128 * 4100))


def test_the_base_path_never_takes_the_dot_product(library: EmulatedLibrary) -> None:
    forced = WithDotProduct(library)
    image, weights = np.zeros((1, 5, 5, 1), np.uint8), np.zeros((8, 3, 3, 1), np.int8)
    with pytest.raises(RuntimeError, match="exception"):  # here it is no instruction
        convolve_int8(image, weights, library=forced)
    convolve_int8(image, weights, library=library)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("size", "channels"), [(14, 256), (28, 128), (56, 64)])
def test_a_whole_layer_costs_little_more_than_its_product(
    library: EmulatedLibrary, size: int, channels: int, border: Border
) -> None:
    """Packing of float32, 3x3 convolution and threshold, against the product of its patches."""
    rng, counter = np.random.default_rng(3), Counter(library)
    bits = rng.random((channels, 3, 3, channels)) < 0.5
    image = rng.standard_normal((1, size, size, channels)).astype(np.float32)
    layer = FloatConvolution(
        ConvWeights.of(bits, layout=Layout.VECTORS), (size, size), padding=1, border=border,
        threshold=np.zeros(channels, np.int32), flip=np.zeros(channels, np.bool_), library=counter,
    )  # fmt: skip
    ours = layer(image)
    whole_layer = counter.instructions
    outside = BORDERS[border]
    sums = reference.convolve(signs(image >= 0), signs(bits), (1, 1), (1, 1), outside)
    assert np.array_equal(ours, pack_bits(sums >= 0))

    columns = pack_bits(bits.reshape(channels, -1))
    rows = rng.integers(0, 2**32, (size * size, columns.shape[1]), np.uint32)
    out = np.empty((size * size, channels), np.int32)
    counter.call(
        "bsk_matmul", NEON, Layout.VECTORS, 0, 9 * channels, rows, rows.shape[1],
        to_panels(columns, Layout.VECTORS), channels, out, 0, len(rows), 0, channels // 8,
    )  # fmt: skip
    product_alone = counter.instructions
    assert whole_layer < 1.25 * product_alone


@pytest.mark.parametrize(("backend", "most"), [("library", 250_000), ("dot_product", 190_000)])
def test_a_first_layer_on_pixels_costs_little(
    backend: str, most: int, request: pytest.FixtureRequest
) -> None:
    """784 positions, 9 products for each of 32 channels; 1.5 million with one patch at a time."""
    library: KernelLibrary = request.getfixturevalue(backend)
    rng = np.random.default_rng(4)
    counter = library if isinstance(library, WithDotProduct) else Counter(library)
    image, weights = (
        rng.integers(0, 256, (1, 28, 28, 1), np.uint8),
        rng.integers(-128, 128, (32, 3, 3, 1), np.int8),
    )
    level, flip = np.zeros(32, np.int32), np.zeros(32, np.bool_)
    ours = convolve_int8_bits(image, weights, level, flip, 1, 1, library=counter)
    assert np.array_equal(ours, pack_bits(reference.convolve(image, weights, padding=(1, 1)) >= 0))
    assert counter.instructions < most

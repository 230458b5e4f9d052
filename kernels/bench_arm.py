"""What the ARM kernels cost on this machine without ARM: instructions counted, cycles modelled.

Instructions are those of the compiled aarch64 library in the emulator, exact and the same in every
run. Cycles are llvm-mca's, for the inner loop of that very library, and nobody's silicon.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from kernels.arm_model import (
    CORES,
    ElementCount,
    Llvm,
    LoopModel,
    ProductCount,
    count_elements,
    count_products,
    find_llvm,
    inner_loop,
    model_cycles,
    model_loop,
)
from kernels.build import build_library
from kernels.convolution import ConvWeights, FloatConvolution
from kernels.emulate import EmulatedLibrary
from kernels.errors import BackendUnavailable
from kernels.host import Argument
from kernels.layout import CHANNEL_WORD, n_words
from kernels.matmul import Panels, matmul
from kernels.panels import Layout

TARGET: Final = "aarch64-linux"
LENGTHS: Final = (1024, 2304, 4096)
"""Bits of a row."""
LAYERS: Final = ((56, 56, 64, 64), (28, 28, 128, 128), (14, 14, 256, 256), (7, 7, 512, 512))
"""Height, width, channels in and out of a 3x3 convolution with padding 1."""
PRODUCT_BITS = 128
_REGISTER_BYTES = {"q": 16, "d": 8, "s": 4}


@dataclass(frozen=True)
class LayerCount:
    """Instructions of a whole layer: float32 in, packed bits out, threshold per channel."""

    shape: tuple[int, int, int, int]
    """As in :data:`LAYERS`."""
    instructions: int
    product_instructions: int
    """Of the matrix product with as many multiplications, packed already, int32 out."""
    ratio: float
    """The former by the latter."""
    per_product: float
    """Instructions of the layer for each 128 bits multiplied."""


@dataclass(frozen=True)
class LoadModel:
    """Loads alone on one core, modelled; from the first cache."""

    core: str
    bytes_per_cycle: float


@dataclass(frozen=True)
class ArmReport:
    """A whole run."""

    target: str
    products: tuple[ProductCount, ...]
    elements: tuple[ElementCount, ...]
    layers: tuple[LayerCount, ...]
    loops: tuple[LoopModel, ...]
    loads: tuple[LoadModel, ...]
    bytes_per_product: float | None
    """What the inner loop loads for 128 bits multiplied."""
    not_modelled: str
    """Why there are no ``loops`` and ``loads``; empty if there are."""


class CountingLibrary:
    """An emulated library that adds up the instructions of its calls."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self._library = library
        self.instructions = 0

    def call(self, name: str, *arguments: Argument) -> int:
        """Call the function ``name`` and count, unless it only asks what there is."""
        result, n = self._library.count(name, *arguments)
        if name != "bsk_backends":
            self.instructions += n
        return result


def run_arm(*, quick: bool = False, say: Callable[[str], object] = lambda line: None) -> ArmReport:
    """Count the instructions of the ARM kernels, and model their inner loop.

    Parameters
    ----------
    quick
        One length and one layer only.
    say
        Takes the lines of the report as they come.

    Returns
    -------
    ArmReport
        Everything counted and modelled; without llvm-mca only counted.

    Raises
    ------
    BackendUnavailable
        If the extra ``arm`` is not installed.
    """
    path = build_library(TARGET, part="kernels")
    library = EmulatedLibrary(path)
    try:
        products = count_products(library, LENGTHS[:1] if quick else LENGTHS)
        elements = count_elements(library)
        _say_all(say, _count_lines(products, elements))
        layers = []
        for shape in LAYERS[-1:] if quick else LAYERS:
            layers.append(count_layer(library, shape))
            _say_all(say, _layer_lines(layers[-1]))
    finally:
        library.close()
    counted = (TARGET, products, elements, tuple(layers))
    try:
        llvm = find_llvm()
    except BackendUnavailable as error:
        say(f"cycles not modelled: {error}")
        return ArmReport(*counted, (), (), None, str(error))
    loops = model_loop(path, llvm)
    _say_all(say, _loop_lines(loops))
    loads = model_loads(llvm)
    n_bytes = loaded_bytes(inner_loop(path, llvm)) / loops[0].n_products
    return ArmReport(*counted, loops, loads, n_bytes, "")


def count_layer(library: EmulatedLibrary, shape: tuple[int, int, int, int]) -> LayerCount:
    """Instructions of one 3x3 layer and of its product alone.

    Parameters
    ----------
    library
        Built with ``part="kernels"`` for aarch64.
    shape
        Height, width, channels in and out; padding is 1.
    """
    height, width, n_in, n_out = shape
    k, n_pixels = 9 * n_in, height * width
    weights = ConvWeights.of(np.zeros((n_out, 3, 3, n_in), np.bool_), layout=Layout.VECTORS)
    levels, flips = np.zeros(n_out, np.int32), np.zeros(n_out, np.bool_)
    counted = CountingLibrary(library)
    layer = FloatConvolution(
        weights, (height, width), padding=1, threshold=levels, flip=flips, library=counted
    )
    counted.instructions = 0
    layer(np.zeros((1, height, width, n_in), np.float32))

    alone, words = CountingLibrary(library), n_words(k, CHANNEL_WORD)
    columns = Panels.of(np.zeros((n_out, words), np.uint32), k, Layout.VECTORS)
    matmul(np.zeros((n_pixels, words), np.uint32), columns, library=alone)
    return LayerCount(
        shape,
        counted.instructions,
        alone.instructions,
        counted.instructions / alone.instructions,
        counted.instructions / (n_pixels * n_out * k / PRODUCT_BITS),
    )


def loaded_bytes(loop: Sequence[str]) -> int:
    """Bytes that the vector loads of a loop read."""
    total = 0
    for line in loop:
        if single := re.match(r"ld[rp]\s+([qds]).*\[", line):
            registers = 2 if line.startswith("ldp") else 1
            total += registers * _REGISTER_BYTES[single[1]]
        elif several := re.match(r"ld1\s+\{([^}]*)\}", line):
            total += 16 * (several[1].count(",") + 1)
    return total


def model_loads(llvm: Llvm) -> tuple[LoadModel, ...]:
    """What every core of :data:`~kernels.arm_model.CORES` loads in a cycle, modelled."""
    loads = [f"ldr q{i}, [x0, #{16 * i}]" for i in range(16)]
    n_bytes = loaded_bytes(loads)
    return tuple(LoadModel(core, n_bytes / model_cycles(loads, core, llvm)) for core in CORES)


def _say_all(say: Callable[[str], object], lines: Iterator[str]) -> None:
    for line in lines:
        say(line)


def _count_lines(
    products: Sequence[ProductCount], elements: Sequence[ElementCount]
) -> Iterator[str]:
    yield f"{TARGET}, instructions counted in the emulator"
    for p in products:
        yield (
            f"  product of 128 bits, rows of {p.n_bits:5}: {p.gross:6.3f}, "
            f"without the fixed cost of a tile {p.marginal:6.3f}"
        )
    for element in elements:
        yield f"  {element.operation}: {element.per_element:.3f} an element"


def _layer_lines(layer: LayerCount) -> Iterator[str]:
    yield (
        f"  3x3 layer {'x'.join(map(str, layer.shape))}: {layer.instructions:,}, "
        f"{layer.ratio:.3f} of its product alone, {layer.per_product:.3f} for 128 bits"
    )


def _loop_lines(loops: Sequence[LoopModel]) -> Iterator[str]:
    yield f"cycles for a product of 128 bits in the inner loop, {loops[0].source}"
    for loop in loops:
        yield (
            f"  {loop.core:12} {loop.cycles_per_product:6.3f}, "
            f"{loop.bound / loop.cycles_per_product:6.1%} of what its pipes allow ({loop.bound})"
        )

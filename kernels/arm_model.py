"""What the ARM kernels cost without an ARM processor: counted, and modelled.

*Counted* are instructions of the compiled aarch64 library in the emulator; they are exact and the
same in every run. *Modelled* are cycles of the shipped object's inner loop by llvm-mca's table of
a core; no silicon is involved, caches are taken to hit. The proxies are those of LLVM's tables:
neoverse-n1 stands for Cortex-A76 too, neoverse-v1 for Cortex-X1.

One product is 128 bits of a row against 128 bits of a column. Its floor is 3 vector instructions
(xor, count, add), that is 1.5 cycles on two pipes of 128 bits, 0.75 on four, 3 on one.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kernels.backends import BACKENDS
from kernels.emulate import EmulatedLibrary
from kernels.errors import BackendUnavailable
from kernels.panels import WIDTH, Layout

CORES: Final = {"neoverse-n1": 1.5, "neoverse-v1": 0.75, "cortex-a55": 3.0, "cortex-a53": 3.0}
"""Core -> cycles per product that its vector pipes allow."""
LLVM_VERSIONS: Final = ("-19", "-18", "-17", "-16", "-15", "-14", "")
"""Suffixes of the tools, the newest tables first."""
TILE_ROWS: Final = 6
"""Rows of the widest tile, ``BS_TILE_ROWS`` of ``c/tile.h``."""
_TILE_PANELS = 4
_NEON = BACKENDS["neon"].code or 0
_PRODUCT_BITS = 128
_ITERATIONS = 100  # of the modelled loop: the start fades below 1 %


@dataclass(frozen=True)
class ProductCount:
    """Instructions of the tile per product of 128 bits."""

    n_bits: int
    """Length of the rows."""
    n_rows: int
    gross: float
    """All instructions of a call with 4 panels, over its products."""
    marginal: float
    """What the products of twice the length add, over their number: no fixed cost."""


@dataclass(frozen=True)
class ElementCount:
    """Instructions of a pass over an array, per element."""

    operation: str
    per_element: float


@dataclass(frozen=True)
class LoopModel:
    """The inner loop on one core, modelled."""

    core: str
    cycles_per_product: float
    bound: float
    """Cycles per product that the vector pipes allow."""
    instructions_per_product: float
    n_products: int
    """Products of one turn of the loop."""
    source: str
    """Who says so, e.g. ``"modelled by llvm-mca 19.1.7"``."""


@dataclass(frozen=True)
class Llvm:
    """The two tools of one LLVM release."""

    mca: str
    objdump: str
    version: str


def count_products(
    library: EmulatedLibrary,
    lengths: Sequence[int] = (1024, 2304, 4096),
    *,
    n_rows: int = TILE_ROWS,
) -> tuple[ProductCount, ...]:
    """Instructions per product of the tile at several lengths of rows.

    Parameters
    ----------
    library
        Built with ``part="kernels"`` for aarch64.
    lengths
        Bits of a row, multiples of 32.
    n_rows
        1 to :data:`TILE_ROWS`.

    Raises
    ------
    ValueError
        If a length or ``n_rows`` is not as above.
    """
    if not 1 <= n_rows <= TILE_ROWS:
        raise ValueError(f"n_rows: expected 1 to {TILE_ROWS}, got {n_rows}")
    if wrong := [n for n in lengths if n < 32 or n % 32]:
        raise ValueError(f"lengths: expected positive multiples of 32, got {wrong[0]}")

    def count(n_bits: int) -> int:
        n_words, n_columns = n_bits // 32, _TILE_PANELS * WIDTH[Layout.VECTORS]
        rows = np.zeros((n_rows, n_words), np.uint32)
        panels = np.zeros((n_columns, -(-n_words // 4) * 4), np.uint32)
        out = np.zeros((n_rows, n_columns), np.int32)
        numbers = (_TILE_PANELS, n_words, n_bits, out, n_columns)
        where = (_NEON, int(Layout.VECTORS), 0, rows, n_rows, n_words, panels)
        return library.count("bsk_tile", *where, *numbers)[1]

    def products(n_bits: int) -> float:
        return n_rows * _TILE_PANELS * WIDTH[Layout.VECTORS] * n_bits / _PRODUCT_BITS

    def one(n_bits: int) -> ProductCount:
        once, twice = count(n_bits), count(2 * n_bits)
        n = products(n_bits)
        return ProductCount(n_bits, n_rows, once / n, (twice - once) / n)

    return tuple(map(one, lengths))


def count_elements(library: EmulatedLibrary, n: int = 1024) -> tuple[ElementCount, ...]:
    """Instructions per element of packing and of thresholds, without the fixed cost of a call.

    Parameters
    ----------
    library
        Built with ``part="kernels"`` for aarch64.
    n
        Elements, a multiple of 32; as many again are counted and subtracted.
    """

    def pack(name: str, dtype: type[np.generic], threshold: float) -> ElementCount:
        def count(n: int) -> int:
            x, out = np.zeros(n, dtype), np.zeros(n // 32, np.uint32)
            return library.count(name, _NEON, x, n, threshold, out, 0, 1)[1]

        return ElementCount(name.removeprefix("bsk_"), (count(2 * n) - count(n)) / n)

    def count_thresholds(n: int) -> int:
        arrays = [np.zeros(n, np.int32) for _ in range(3)]
        return library.count("bsk_threshold", _NEON, *arrays, n, np.zeros(n // 32, np.uint32))[1]

    return (
        pack("bsk_pack_f32", np.float32, 0.0),
        pack("bsk_pack_u8", np.uint8, 128),
        pack("bsk_pack_i8", np.int8, 0),
        ElementCount("threshold", (count_thresholds(2 * n) - count_thresholds(n)) / n),
    )


def find_llvm() -> Llvm:
    """The newest llvm-mca with the disassembler of the same release.

    Raises
    ------
    BackendUnavailable
        If there is none.
    """
    for suffix in LLVM_VERSIONS:
        mca, objdump = shutil.which(f"llvm-mca{suffix}"), shutil.which(f"llvm-objdump{suffix}")
        if mca and objdump:
            found = re.search(r"LLVM version (\S+)", _output([mca, "--version"]))
            return Llvm(mca, objdump, found[1] if found else "unknown")
    raise BackendUnavailable("llvm-mca, llvm-objdump: not found; apt-get install llvm-19")


def inner_loop(library: Path, llvm: Llvm) -> tuple[str, ...]:
    """Instructions of the loop that multiplies, taken from a library by disassembly.

    It is the loop with the most ``cnt`` among those that end in a branch back to their start,
    hold no other branch, and xor. Its last instruction branches to the label ``loop``.

    Raises
    ------
    ValueError
        If there is no such loop.
    """
    arguments = ["--disassemble", "--no-show-raw-insn", str(library)]
    lines = re.findall(
        r"^\s*([0-9a-f]+):\s+(\S.*)$", _output([llvm.objdump, *arguments]), re.MULTILINE
    )
    addresses = [int(address, 16) for address, _ in lines]
    place = {address: i for i, address in enumerate(addresses)}
    best: tuple[str, ...] = ()
    last_branch = -1
    for i, (_, text) in enumerate(lines):
        target = re.match(r"(b\.\w+|cbn?z)\s+(?:\w+,\s*)?0x([0-9a-f]+)", text)
        if target:
            begin = place.get(int(target[2], 16), i)
            body = tuple(text for _, text in lines[begin:i])
            if last_branch < begin < i and _counts(body) > _counts(best) and "eor" in str(body):
                head = text[: target.start(2) - 2]
                best = (*map(_without_comment, body), f"{head}loop")
        if re.match(r"(b|bl|ret|br|cbn?z|tbn?z|b\.\w+)\b", text):
            last_branch = i
    if not best:
        raise ValueError(f"library: expected a loop with cnt and eor, found none in {library}")
    return best


def model_loop(library: Path, llvm: Llvm | None = None) -> tuple[LoopModel, ...]:
    """Cycles per product of the inner loop on each of :data:`CORES`, modelled by llvm-mca.

    Parameters
    ----------
    library
        Shared library for aarch64 as it ships.
    llvm
        Default: :func:`find_llvm`.

    Raises
    ------
    BackendUnavailable
        If the tools are missing.
    ValueError
        If the library has no inner loop.
    RuntimeError
        If llvm-mca refuses the loop.
    """
    llvm = llvm or find_llvm()
    loop = inner_loop(library, llvm)
    n_products = _counts(loop)

    def one(core: str) -> LoopModel:
        return LoopModel(
            core=core,
            cycles_per_product=model_cycles(loop, core, llvm) / n_products,
            bound=CORES[core],
            instructions_per_product=len(loop) / n_products,
            n_products=n_products,
            source=f"modelled by llvm-mca {llvm.version}",
        )

    return tuple(map(one, CORES))


def model_cycles(loop: Sequence[str], core: str, llvm: Llvm) -> float:
    """Cycles of one turn of a loop on a core, modelled; its label is ``loop``.

    Raises
    ------
    RuntimeError
        If llvm-mca refuses the instructions or the core.
    """
    text = "loop:\n" + "\n".join(loop) + "\n"
    flags = ["-mtriple=aarch64", f"-mcpu={core}", f"-iterations={_ITERATIONS}"]
    report = _output([llvm.mca, *flags, "-all-views=false", "-summary-view"], text)
    cycles = re.search(r"Total Cycles:\s+(\d+)", report)
    if cycles is None:
        raise RuntimeError(f"{llvm.mca}: expected a number of cycles, got {report[:80]!r}")
    return int(cycles[1]) / _ITERATIONS


def _counts(loop: Sequence[str]) -> int:
    return sum(line.startswith("cnt") for line in loop)


def _without_comment(line: str) -> str:
    return line.partition("//")[0].rstrip()


def _output(command: list[str], text: str = "") -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise RuntimeError(f"{Path(command[0]).name}: {lines[-1]}")
    return result.stdout

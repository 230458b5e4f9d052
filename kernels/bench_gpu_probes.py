"""Micro-benchmarks of a GPU: rates of its matrix products, of popcounts, and of copying.

The kernels are in ``cuda/probes.cu`` and, for products of a warpgroup, ``cuda/probes_wgmma.cu``.
A probe repeats one instruction on the same operands, so what it must yield is known exactly:
operands are bits, small integers, and bfloat16 whose sums a float32 represents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.cuda_launch import Launcher
from kernels.panels import Layout, to_panels

ROW_WORDS: Final = 8
"""Words of a row of an operand: 256 bits, 32 bytes, 16 bfloat16."""
_POPC_STEP: Final = 0x9E3779B9
_COPY_WORDS: Final = 4096
"""Words that a block copies."""
_THREADS: Final = 256


@dataclass(frozen=True)
class Maker:
    """Who makes products together."""

    source: str
    n_threads: int
    n_rows: int
    n_columns: int
    """Of one product."""
    n_products: int
    """In one loop."""


LANE: Final = Maker("probes", 1, 1, 1, 16)
WARP: Final = Maker("probes", 32, 16, 8, 8)
WARPGROUP: Final = Maker("probes_wgmma", 128, 64, 256, 4)


@dataclass(frozen=True)
class Probe:
    """One micro-benchmark."""

    title: str
    kernel: str
    element: str
    """Of the operands: b1, s8, bf16, or u32 for popcounts."""
    maker: Maker
    first: tuple[int, int] = (8, 0)
    last: tuple[int, int] | None = None
    """Least and greatest capability with the instruction; None if there is no greatest yet."""


PROBES: Final[Mapping[str, Probe]] = {
    "mma b1": Probe("mma.sync m16n8k256 b1 and.popc", "probe_mma_b1", "b1", WARP, last=(9, 0)),
    "wgmma b1": Probe(
        "wgmma m64n256k256 b1 and.popc", "probe_wgmma_b1", "b1", WARPGROUP, (9, 0), (9, 0)
    ),
    "mma s8": Probe("mma.sync m16n8k32 s8", "probe_mma_s8", "s8", WARP),
    "wgmma s8": Probe("wgmma m64n256k32 s8", "probe_wgmma_s8", "s8", WARPGROUP, (9, 0), (9, 0)),
    "mma bf16": Probe("mma.sync m16n8k16 bf16", "probe_mma_bf16", "bf16", WARP),
    "wgmma bf16": Probe(
        "wgmma m64n256k16 bf16", "probe_wgmma_bf16", "bf16", WARPGROUP, (9, 0), (9, 0)
    ),
    "popc": Probe("xor, popc, add", "probe_popc", "u32", LANE),
}
"""Name -> micro-benchmark of a rate; counted 2 for each pair of a bit, byte or bfloat16."""

ROW_LENGTH: Final = {"b1": 256, "s8": 32, "bf16": 16, "u32": 32}
"""Element -> elements of a row of an operand (of a word, for popcounts)."""


@dataclass(frozen=True)
class Prepared:
    """A probe with operands on a device."""

    run: Callable[[], None]
    amount: int
    """Operations, or bytes read and written, of one run."""
    check: Callable[[], None]
    """Raises RuntimeError if the last run did not yield what it must."""


def is_available(name: str, capability: tuple[int, int]) -> bool:
    """Whether a device has the instruction of a probe."""
    probe = PROBES[name]
    return probe.first <= capability and (probe.last is None or capability <= probe.last)


def prepare_probe(launcher: Launcher, name: str, *, n_blocks: int, n_loops: int) -> Prepared:
    """Make operands and results of a probe.

    Parameters
    ----------
    launcher
        Where it runs.
    name
        Key of :data:`PROBES`.
    n_blocks
        Blocks of 256 threads.
    n_loops
        How often each thread repeats its products.

    Raises
    ------
    ValueError
        If the device has no such instruction.
    """
    probe = PROBES[name]
    if not is_available(name, launcher.capability):
        raise ValueError(
            f"{name}: expected a device that has {probe.title}, "
            f"got capability {launcher.capability}"
        )
    maker = probe.maker
    n_each = _THREADS // maker.n_threads * n_blocks
    per_product = 2 * maker.n_rows * maker.n_columns * ROW_LENGTH[probe.element]
    amount = n_each * n_loops * maker.n_products * per_product
    if probe.element == "u32":
        run, check = _prepare_popc(launcher, n_blocks, n_loops)
    else:
        run, check = _prepare_products(launcher, name, n_blocks, n_loops)
    return Prepared(run, amount, check)


def _prepare_products(
    launcher: Launcher, name: str, n_blocks: int, n_loops: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    probe = PROBES[name]
    maker = probe.maker
    a, b = (_operand(probe.element, rows, rows) for rows in (maker.n_rows, maker.n_columns))
    products = (_values(a, probe.element) @ _values(b, probe.element).T) * (
        n_loops * maker.n_products
    )
    is_group = maker is WARPGROUP
    if is_group:
        words = [to_panels(rows, Layout.VECTORS) for rows in (a, b)]
        expected = products
    else:
        words = [a.reshape(-1), b.reshape(-1)]
        expected = _fragment(products)
    device_words = [_on(launcher, each) for each in words]
    dtype = torch.float32 if probe.element == "bf16" else torch.int32
    n_each = n_blocks * _THREADS // maker.n_threads
    result = torch.full((n_each, *expected.shape), -1, dtype=dtype, device=launcher.device)
    shared = (maker.n_rows + maker.n_columns) * 4 * ROW_WORDS if is_group else 0

    def run() -> None:
        launcher.launch(
            maker.source,
            probe.kernel,
            n_blocks,
            n_loops,
            *device_words,
            result,
            shared_bytes=shared,
        )

    return run, lambda: _check(name, result, torch.from_numpy(expected).to(result))


def _prepare_popc(
    launcher: Launcher, n_blocks: int, n_loops: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    x = np.random.default_rng(1).integers(0, 2**32, (32, LANE.n_products), dtype=np.uint32)
    words = _on(launcher, x.reshape(-1))
    result = torch.full((n_blocks * 8, 32), -1, dtype=torch.int32, device=launcher.device)

    def run() -> None:
        launcher.launch(
            LANE.source, PROBES["popc"].kernel, n_blocks, n_loops, words, 1, _POPC_STEP, result
        )

    def check() -> None:
        y = (1 + np.arange(n_loops, dtype=np.uint64) * _POPC_STEP).astype(np.uint32)
        sums = np.zeros(32, np.int64)
        for chain in range(LANE.n_products):
            sums += np.bitwise_count(x[:, chain, None] ^ y).sum(1, dtype=np.int64)
        _check("popc", result, torch.from_numpy(sums.astype(np.int32)).to(result))

    return run, check


def prepare_copy(launcher: Launcher, n_bytes: int) -> Prepared:
    """Copy ``n_bytes``, a multiple of 16, within the memory of the device.

    Raises
    ------
    ValueError
        If ``n_bytes`` is not a multiple of 16.
    """
    if n_bytes % 16:
        raise ValueError(f"n_bytes: expected a multiple of 16, got {n_bytes}")
    n_words = n_bytes // 4
    source = torch.arange(n_words, dtype=torch.int32, device=launcher.device)
    target = torch.full_like(source, -1)

    def run() -> None:
        grid = -(-n_words // _COPY_WORDS)
        launcher.launch("probes", "probe_copy", grid, source, target, n_words)

    return Prepared(run, 2 * n_bytes, lambda: _check("copy", target, source))


def _check(name: str, result: Tensor, expected: Tensor) -> None:
    if not bool((result == expected).all()):
        n = int((result != expected).sum())
        raise RuntimeError(f"{name}: {n} of {result.numel()} results are not what they must be")


def _operand(element: str, n_rows: int, seed: int) -> NDArray[np.uint32]:
    """Random rows of 8 words."""
    generator = np.random.default_rng(seed)
    if element != "bf16":
        return generator.integers(0, 2**32, (n_rows, ROW_WORDS), dtype=np.uint32)
    # -1, 0 or 1 in bfloat16: sums stay exact up to 2^24 terms.
    small = generator.integers(-1, 2, (n_rows, 2 * ROW_WORDS)).astype(np.float32)
    return (small.view(np.uint32) >> 16).astype(np.uint16).view(np.uint32)


def _values(words: NDArray[np.uint32], element: str) -> NDArray[np.int32]:
    """The elements of operands as integers."""
    if element == "b1":
        return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.int32)
    if element == "s8":
        return words.view(np.int8).astype(np.int32)
    return (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.int32)


def _fragment(products: NDArray[np.int32]) -> NDArray[np.int32]:
    """Products of 16 x 8 in the order of the registers of a warp: (32 lanes, 4)."""
    lane, i = np.divmod(np.arange(128), 4)
    rows, columns = lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2
    return np.ascontiguousarray(products[rows, columns].reshape(32, 4))


def _on(launcher: Launcher, words: NDArray[np.uint32]) -> Tensor:
    return torch.from_numpy(words.view(np.int32).copy()).to(launcher.device)

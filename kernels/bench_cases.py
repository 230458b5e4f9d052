"""The table of what is timed, and how the work of each case is counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One kind of work; the shape of a case means what ``axes`` say."""

    title: str
    axes: str
    n_operations: Callable[..., int]
    """Of the numbers of the shape: 2 for a multiplication and an addition, or units drawn."""
    n_bytes: Callable[..., float]
    """Of the numbers of the shape: operands as the kernel takes them, and the result."""
    counts: str = "2MNK"
    reads_once: bool = False
    """Whether an operand is used for a single row, so that bandwidth limits as well as ports."""


def _conv_operations(height: int, width: int, n_in: int, n_out: int) -> int:
    return 2 * height * width * n_in * n_out * 9


def _conv_bytes(height: int, width: int, n_in: int, n_out: int) -> float:
    return height * width * (n_in / 8 + 4 * n_out) + 9 * n_in * n_out / 8


OPERATIONS: Final[Mapping[str, Operation]] = {
    "gemm": Operation(
        "matrix product, packed operands, int32 result",
        "M, N, K",
        lambda m, n, k: 2 * m * n * k,
        lambda m, n, k: (m + n) * k / 8 + 4 * m * n,
    ),
    "gemm_float": Operation(
        "the same from float32 rows, packing included",
        "M, N, K",
        lambda m, n, k: 2 * m * n * k,
        lambda m, n, k: 4 * m * k + n * k / 8 + 4 * m * n,
    ),
    "gemv": Operation(
        "one packed row, packed columns",
        "N, K",
        lambda n, k: 2 * n * k,
        lambda n, k: (n + 1) * k / 8 + 4 * n,
        reads_once=True,
    ),
    "conv": Operation(
        "3x3 convolution of one packed image, int32 result",
        "H, W, C_in, C_out",
        _conv_operations,
        _conv_bytes,
    ),
    "conv_float": Operation(
        "the same from a float32 image, packing included",
        "H, W, C_in, C_out",
        _conv_operations,
        lambda h, w, n_in, n_out: _conv_bytes(h, w, n_in, n_out) + h * w * n_in * (4 - 1 / 8),
    ),
    "sampler": Operation(
        "field -> sigmoid -> uniform < p -> packed bits",
        "rows, units",
        lambda rows, n: rows * n,
        lambda rows, n: rows * n * (4 + 1 / 8),
        counts="units",
    ),
    "statistics": Operation(
        "v^T h of packed states, int32 result",
        "batch, visible, hidden",
        lambda batch, n_v, n_h: 2 * batch * n_v * n_h,
        lambda batch, n_v, n_h: batch * (n_v + n_h) / 8 + 4 * n_v * n_h,
    ),
}
"""Name -> kind of work."""


@dataclass(frozen=True)
class Case:
    """One line of the benchmark."""

    op: str
    """Key of :data:`OPERATIONS`."""
    shape: Shape
    is_quick: bool = False
    """Whether it stays in the short run; every operation has one such case."""

    @property
    def name(self) -> str:
        """For people and pictures."""
        return f"{self.op} {'x'.join(map(str, self.shape))}"

    @property
    def n_operations(self) -> int:
        """How much one call does."""
        return OPERATIONS[self.op].n_operations(*self.shape)

    @property
    def n_bytes(self) -> int:
        """Least traffic of one call with memory."""
        return round(OPERATIONS[self.op].n_bytes(*self.shape))


_IMAGES = ((56, 56, 64, 64), (28, 28, 128, 128), (14, 14, 256, 256), (7, 7, 512, 512))

CASES: Final = (
    Case("gemm", (512, 512, 512), is_quick=True),
    Case("gemm", (1024, 1024, 1024)),
    Case("gemm", (4096, 4096, 4096)),
    Case("gemm_float", (512, 512, 512), is_quick=True),
    Case("gemm_float", (1024, 1024, 1024)),
    Case("gemm_float", (4096, 4096, 4096)),
    Case("gemv", (4096, 4096), is_quick=True),
    *(Case("conv", shape, is_quick=shape[0] == 14) for shape in _IMAGES),
    *(Case("conv_float", shape, is_quick=shape[0] == 14) for shape in _IMAGES),
    Case("sampler", (512, 1024), is_quick=True),
    Case("statistics", (512, 784, 500), is_quick=True),
)
"""Everything that ``python -m kernels.bench`` times."""

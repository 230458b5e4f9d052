"""What every case of the benchmark of a GPU works with: operands, timing, rates so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels import cuda_matmul, cuda_packing
from kernels.bench_gpu_timing import Contender, time_on_device
from kernels.bench_timing import Timing
from kernels.cuda_launch import Launcher

_CEILINGS: Final = {True: ("mma b1", "wgmma b1"), False: ("mma s8",)}
"""Whether a device has b1 -> micro-benchmarks that bound its binary products."""


@dataclass(frozen=True)
class Measured:
    """What a case found."""

    timings: Mapping[str, Timing]
    values: Mapping[str, float]
    """Name of a row -> its figure."""


@dataclass(frozen=True)
class Setting:
    """Where a case runs."""

    launcher: Launcher
    cache_bytes: int
    n_samples: int
    rates: Mapping[str, float]
    """Of the micro-benchmarks, 1e12 a second, by their names."""

    @property
    def ceilings(self) -> tuple[str, ...]:
        """Micro-benchmarks that bound binary products here."""
        return _CEILINGS[self.launcher.capability <= (9, 0)]

    def random(self, *shape: int) -> Tensor:
        """Random signs, float32."""
        bits = torch.randint(0, 2, shape, device=self.launcher.device)
        return (2 * bits - 1).float()

    def packed(self, signs: Tensor) -> Tensor:
        """Words of signs."""
        words = cuda_packing.pack(self.launcher, signs)
        assert isinstance(words, Tensor)
        return words

    def paths(self, m: int) -> list[str]:
        """Paths of binary products of m rows on this device; POPC for few rows only."""
        return [
            name
            for name, path in cuda_matmul.PATHS.items()
            if path.first <= self.launcher.capability
            and (path.last is None or self.launcher.capability <= path.last)
            and (name != "popc" or m <= 64)
        ]

    def time(self, contenders: Mapping[str, Contender]) -> dict[str, Timing]:
        """As :func:`kernels.bench_gpu_timing.time_on_device`."""
        return time_on_device(contenders, n_samples=self.n_samples)

    def compiled(
        self, function: Callable[[Tensor], Tensor], x: Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        """The function by torch.compile, None where it cannot be compiled."""
        compiled = torch.compile(function)
        try:
            compiled(x)
        except Exception:  # of any kind: compilers of others
            return None
        return compiled


def check(what: str, is_right: bool) -> None:
    """Stop a case that computes something else.

    Raises
    ------
    RuntimeError
        If it does.
    """
    if not is_right:
        raise RuntimeError(f"{what}: the result is not what it must be")

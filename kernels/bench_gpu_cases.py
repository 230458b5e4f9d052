"""What is promised of the kernels on a GPU, and how each promise is measured.

Every case checks what it computes before it is timed. Products are of signs, so that a float
reference is exact; samplers are compared with their own probabilities.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from kernels import cuda_gibbs, cuda_lattice, cuda_matmul, cuda_packing
from kernels.bench_gpu_models import measure_layer, measure_training
from kernels.bench_gpu_report import Row, rate
from kernels.bench_gpu_setting import Measured, Setting, check
from kernels.bench_gpu_timing import Contender, n_copies
from kernels.bench_timing import Timing
from kernels.philox import Purpose

GEMV_SIZE: Final = 8192
GEMM_SIZE: Final = 8192
CHAINS, VISIBLE, HIDDEN = 4096, 784, 1024
LATTICE_SIZE: Final = 16384
LATTICE_BETA: Final = 0.3
_ENERGY_TOLERANCE: Final = 2e-3
"""Of a site: 30 times what one state of 16384^2 spins scatters, and what is left of the start."""
_SWEEPS: Final = 50
_PROBABILITY_TOLERANCE: Final = 1e-2
"""A sum of 784 products of bfloat16 weights of size 0.1, in float32 on both sides, then rounded."""


def measure_gemv(setting: Setting) -> Measured:
    """One packed row times packed columns, beside a bfloat16 row times a bfloat16 matrix."""
    n = k = GEMV_SIZE
    launcher = setting.launcher
    n_sets = n_copies(n * k // 8, setting.cache_bytes)
    x = setting.random(1, k)
    weights = [setting.random(n, k) for _ in range(n_sets)]
    a = setting.packed(x)
    panels = [cuda_packing.to_panels(launcher, setting.packed(w)) for w in weights]
    expected = x @ weights[0].T
    matrices = [w.bfloat16() for w in weights[: n_copies(2 * n * k, setting.cache_bytes)]]
    row = x.bfloat16()
    del weights

    def product(panels: Tensor) -> Tensor:
        return cuda_matmul.matmul(launcher, a, panels, k, n)

    check("GEMV", torch.equal(product(panels[0]), expected.to(torch.int32)))
    timings = setting.time(
        {
            "packed": Contender([partial(product, p) for p in panels]),
            "cuBLAS bf16": Contender([partial(torch.matmul, row, w.T) for w in matrices]),
        }
    )
    return Measured(timings, {"gemv": _ratio(timings, "cuBLAS bf16", "packed")})


def measure_gemm(setting: Setting) -> Measured:
    """A square product on every path of this device, with bits and with integers as result."""
    m = n = k = GEMM_SIZE
    launcher = setting.launcher
    x, w = setting.random(m, k), setting.random(n, k)
    a, columns = setting.packed(x), setting.packed(w)
    panels = cuda_packing.to_panels(launcher, columns)
    ones = cuda_packing.row_popcounts(launcher, a), cuda_packing.row_popcounts(launcher, columns)
    threshold = torch.randint(-64, 65, (n,), dtype=torch.int32, device=launcher.device)
    flip = torch.rand(n, device=launcher.device) < 0.5
    row, matrix = x.bfloat16(), w.bfloat16()
    some = slice(0, m, m // 64)
    values = (x[some].double() @ w.T.double()).to(torch.int32)
    bits = cuda_packing.pack(launcher, ((values >= threshold) ^ flip).to(torch.uint8), 0.5)
    contenders = {"cuBLAS bf16": Contender([lambda: row @ matrix.T])}
    for path in setting.paths(m):

        def run_bits(path: str = path) -> Tensor:
            return cuda_matmul.matmul_bits(
                *(launcher, a, panels, k, n, threshold, flip),
                path=path,
                row_popcounts=ones[0],
                column_popcounts=ones[1],
            )

        def run_values(path: str = path) -> Tensor:
            return cuda_matmul.matmul(
                *(launcher, a, panels, k, n),
                path=path,
                row_popcounts=ones[0],
                column_popcounts=ones[1],
            )

        check(f"GEMM, {path}, integers", torch.equal(run_values()[some], values))
        check(f"GEMM, {path}, bits", torch.equal(run_bits()[some], bits))
        contenders |= {
            f"{path} bits": Contender([run_bits]),
            f"{path} int32": Contender([run_values]),
        }
    timings = setting.time(contenders)
    best = {
        kind: min(t.median_seconds for name, t in timings.items() if name.endswith(kind))
        for kind in ("bits", "int32")
    }
    baseline = timings["cuBLAS bf16"].median_seconds
    found = {"gemm bits": baseline / best["bits"], "gemm int32": baseline / best["int32"]}
    ceiling = max(
        (r for name, r in setting.rates.items() if name in setting.ceilings), default=None
    )
    if ceiling is not None:
        found["gemm of ceiling"] = rate(2 * m * n * k, best["bits"]) / ceiling
    return Measured(timings, found)


def measure_gibbs(setting: Setting) -> Measured:
    """Visible given hidden, hidden given visible, beside the same as a chain of torch operators."""
    launcher, device = setting.launcher, setting.launcher.device
    weights = (0.1 * torch.randn(VISIBLE, HIDDEN, device=device)).bfloat16()
    padded = cuda_gibbs.padded_weights(weights)
    biases = {n: 0.1 * torch.randn(n, device=device) for n in (VISIBLE, HIDDEN)}
    hidden = setting.packed(setting.random(CHAINS, HIDDEN))
    visible = setting.packed(setting.random(CHAINS, VISIBLE))

    def half(states: Tensor, n_in: int, n_out: int, out: Tensor, p: Tensor | None = None) -> None:
        is_visible = n_out == VISIBLE
        cuda_gibbs.half_step(
            launcher,
            states,
            n_in,
            padded,
            biases[n_out],
            transposed=is_visible,
            seed=1,
            purpose=Purpose.GIBBS_VISIBLE if is_visible else Purpose.GIBBS_HIDDEN,
            step=1,
            probabilities=p,
            out=out,
        )

    for n_in, n_out, given, drawn in (
        (HIDDEN, VISIBLE, hidden, visible),
        (VISIBLE, HIDDEN, visible, hidden.clone()),
    ):
        p = torch.empty((CHAINS, n_out), device=device)
        half(given, n_in, n_out, drawn, p)
        matrix = weights.float().T if n_out == VISIBLE else weights.float()
        on = cuda_packing.unpack(launcher, given, n_in, torch.float32)
        error = (torch.sigmoid(on @ matrix + biases[n_out]) - p).abs().max()
        check("Gibbs, probabilities", bool(error < _PROBABILITY_TOLERANCE))
        states = cuda_packing.unpack(launcher, drawn, n_out, torch.float32)
        scatter = 5 * math.sqrt(float((p * (1 - p)).sum()))
        check("Gibbs, states", abs(float((states - p).sum())) < scatter)

    def fused() -> None:
        half(hidden, HIDDEN, VISIBLE, visible)
        half(visible, VISIBLE, HIDDEN, hidden)

    narrow = {n: bias.bfloat16() for n, bias in biases.items()}
    state = cuda_packing.unpack(launcher, hidden, HIDDEN, torch.bfloat16)

    def chain(h: Tensor) -> Tensor:
        v = torch.bernoulli(torch.sigmoid(h @ weights.T + narrow[VISIBLE]))
        return torch.bernoulli(torch.sigmoid(v @ weights + narrow[HIDDEN]))

    contenders = {
        "fused": Contender([fused]),
        "torch bf16 eager": Contender([lambda: chain(state)]),
    }
    compiled = setting.compiled(chain, state)
    if compiled is not None:
        contenders["torch bf16 compile"] = Contender([lambda: compiled(state)])
    timings = setting.time(contenders)
    found = {"gibbs eager": _ratio(timings, "torch bf16 eager", "fused")}
    if compiled is not None:
        found["gibbs compile"] = _ratio(timings, "torch bf16 compile", "fused")
    return Measured(timings, found)


def measure_lattice(setting: Setting) -> Measured:
    """Sweeps of a square Ising lattice; its energy against Onsager's."""
    launcher, n = setting.launcher, LATTICE_SIZE
    shape = (1, n, n // 64)
    black, white = (
        torch.randint(-(2**31), 2**31, shape, device=launcher.device).to(torch.int32)
        for _ in range(2)
    )
    thresholds = (ising_thresholds(LATTICE_BETA),)
    cuda_lattice.sweep(launcher, black, white, thresholds, seed=1, n_sweeps=_SWEEPS)
    totals = cuda_lattice.count_totals(launcher, black, white, in_time=False)
    energy = 2 * int(totals[1, 0]) / n**2 - 2
    check("Ising, energy", abs(energy - onsager_energy(LATTICE_BETA)) < _ENERGY_TOLERANCE)

    def sweep() -> None:
        cuda_lattice.sweep(launcher, black, white, thresholds, seed=1, first_sweep=_SWEEPS)

    timings = setting.time({"sweep": Contender([sweep])})
    return Measured(timings, {"lattice": n**2 / timings["sweep"].median_seconds / 1e9})


def ising_thresholds(beta: float) -> tuple[int, ...]:
    """Of 24-bit uniforms, for 0 to 4 neighbours up: p = 1 / (1 + exp(-2 beta (2 n - 4)))."""
    low = [round(2**24 / (1 + math.exp(-2 * beta * (2 * n - 4)))) for n in range(2)]
    return *low, 2**23, 2**24 - low[1], 2**24 - low[0]


def onsager_energy(beta: float) -> float:
    """Energy of a site of the infinite square lattice, J = 1; Onsager (1944)."""
    factor = 2 * math.tanh(2 * beta) ** 2 - 1
    a, b = 1.0, abs(factor)  # k'^2 = 1 - k^2 of the modulus k = 2 sinh(2 beta) / cosh(2 beta)^2
    for _ in range(12):  # the arithmetic-geometric mean: digits double each time
        a, b = (a + b) / 2, math.sqrt(a * b)
    integral = math.pi / (2 * a)  # K(k)
    return -(1 + 2 / math.pi * factor * integral) / math.tanh(2 * beta)


def _ratio(timings: Mapping[str, Timing], baseline: str, ours: str) -> float:
    return timings[baseline].median_seconds / timings[ours].median_seconds


@dataclass(frozen=True)
class Case:
    """Something measured in one go, and the promises that it decides."""

    measure: Callable[[Setting], Measured]
    rows: tuple[Row, ...]


_TIMES: Final = "times as fast"

CASES: Final = (
    Case(
        measure_gemv,
        (Row("gemv", "GEMV 8192 x 8192, packed, to cuBLAS bf16", _TIMES, 8.0),),
    ),
    Case(
        measure_gemm,
        (
            Row("gemm bits", "GEMM 8192^3, packed result, to cuBLAS bf16", _TIMES, 2.0),
            Row("gemm int32", "GEMM 8192^3, int32 result, to cuBLAS bf16", _TIMES, None),
            Row("gemm of ceiling", "GEMM 8192^3, of the fastest rate above", "share", 0.7),
        ),
    ),
    Case(
        measure_gibbs,
        (
            Row("gibbs eager", "Gibbs sweep 784 x 1024, 4096 chains, to eager bf16", _TIMES, 2.5),
            Row("gibbs compile", "the same to torch.compile, bf16", _TIMES, 2.5),
        ),
    ),
    Case(
        measure_lattice,
        (Row("lattice", "Ising lattice 16384 x 16384", "flips/ns", 400.0),),
    ),
    Case(
        measure_layer,
        (
            Row("layer bytes", "binary layer, saved bytes of plain STE by ours", "times", 8.0),
            Row("layer time", "binary layer, training step, to bf16 autocast STE", _TIMES, 1.0),
        ),
    ),
    Case(
        measure_training,
        (Row("rbm", "RBM step 784 x 4096, batch 8192, to torch bf16", _TIMES, 2.0),),
    ),
)
"""Everything that is promised of a GPU."""

"""How fast a training step is, and how much it saves for backward, beside plain torch.

``python -m bnn.bench [--quick] [--batch N] [--json]``

One net twice (:mod:`bnn.bench_nets`), one thread, steps in turns. The floor is what the gradients
of the three binary convolutions cost as torch's own convolutions of floats.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.bench_nets import CONVOLUTIONS, N_CLASSES, SIZE, PackedNet, PlainNet
from bnn.layers import channels_last
from kernels import Purpose, uniform
from kernels.backends import current_backend
from kernels.bench_timing import threads

BATCH = 128
STEPS, QUICK_STEPS = 15, 3
WARM_UP = 2
"""Steps that are not counted: memory is taken and kernels are chosen in them."""


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """One run of the bench; times in milliseconds, medians and smallest."""

    plain_ms: float
    plain_min_ms: float
    packed_ms: float
    packed_min_ms: float
    speedup: float
    """Median of the ratios of steps that ran one after the other."""
    floor_ms: float
    """Both gradients of the binary convolutions, as convolutions of floats by torch."""
    plain_saved_bytes: int
    packed_saved_bytes: int
    memory_ratio: float
    n_steps: int
    batch: int
    backend: str
    precision: str
    matmul: str
    torch: str
    processor: str

    def lines(self) -> list[str]:
        """The report as it is printed."""
        return [
            f"training step, batch {self.batch}, one thread, {self.n_steps} steps in turns",
            f"  plain torch   {self.plain_ms:8.1f} ms  (min {self.plain_min_ms:.1f})",
            f"  bnn           {self.packed_ms:8.1f} ms  (min {self.packed_min_ms:.1f})",
            f"  speed-up      {self.speedup:8.2f}",
            f"  float gradients of the binary convolutions alone {self.floor_ms:.1f} ms",
            f"saved for backward: plain {self.plain_saved_bytes:,} bytes, "
            f"bnn {self.packed_saved_bytes:,}, 1/{self.memory_ratio:.1f}",
            f"bits: {self.backend}; gradients: {self.precision}; float products: {self.matmul}",
            f"torch {self.torch}; {self.processor}",
        ]


def run_training(*, quick: bool = False, batch: int = BATCH, seed: int = 0) -> TrainingReport:
    """Time both nets in turns, and count what they save.

    Parameters
    ----------
    quick
        Few steps: to see that it runs.
    batch
        Images per step.
    seed
        Of weights and images.

    Returns
    -------
    TrainingReport
        What was measured.
    """
    images, labels = _data(batch, seed)
    n_steps = QUICK_STEPS if quick else STEPS
    with threads(1):
        plain, packed = PlainNet(seed), PackedNet(seed)
        saved = [saved_bytes(net, images, labels) for net in (plain, packed)]
        steps = [_trainer(net, images, labels) for net in (plain, packed)]
        pairs = [(_seconds(steps[0]), _seconds(steps[1])) for _ in range(WARM_UP + n_steps)]
        pairs = pairs[WARM_UP:]
        floor = _floor(batch, n_steps)
    ours, theirs = [p[1] for p in pairs], [p[0] for p in pairs]
    return TrainingReport(
        plain_ms=1e3 * median(theirs),
        plain_min_ms=1e3 * min(theirs),
        packed_ms=1e3 * median(ours),
        packed_min_ms=1e3 * min(ours),
        speedup=median(a / b for a, b in pairs),
        floor_ms=1e3 * floor,
        plain_saved_bytes=saved[0],
        packed_saved_bytes=saved[1],
        memory_ratio=saved[0] / saved[1],
        n_steps=n_steps,
        batch=batch,
        backend=current_backend().name,
        precision="float32",
        matmul=f"fp32 precision {torch.get_float32_matmul_precision()}",
        torch=torch.__version__,
        processor=_processor(),
    )


def saved_bytes(net: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Bytes of the distinct storages that a forward pass and its loss keep for backward.

    Parameters and the images themselves are left out.
    """
    storages: dict[int, int] = {}
    owned = {p.untyped_storage().data_ptr() for p in net.parameters()}
    owned.add(images.untyped_storage().data_ptr())
    kept: list[Tensor] = []  # a storage that is freed might be counted twice at one address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(net(images), labels)
    del loss
    return sum(storages.values())


def _data(batch: int, seed: int) -> tuple[Tensor, Tensor]:
    draws = uniform(seed, Purpose.DIAGNOSTICS, batch * (SIZE * SIZE + 1))[0]
    values = torch.from_numpy(draws)
    images = (values[batch:] * 256).to(torch.uint8).reshape(batch, SIZE, SIZE, 1)
    return images, (values[:batch] * N_CLASSES).long()


def _trainer(net: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of the net: Adam as torch recommends it on a CPU."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _floor(batch: int, n_steps: int) -> float:
    """Median seconds of both gradients of the binary convolutions, as torch computes them."""
    size, calls = SIZE, []
    for n_in, n_out, pool in CONVOLUTIONS:
        if n_in > 1:
            x = channels_last(torch.ones(batch, n_in, size, size))
            weight = channels_last(torch.ones(n_out, n_in, 3, 3))
            gradient = channels_last(torch.ones(batch, n_out, size, size))
            calls.append((gradient, x, weight))
        size //= pool

    def run() -> None:
        for operands in calls:
            torch.ops.aten.convolution_backward(
                *operands, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
            )

    run()
    return median(_seconds(run) for _ in range(n_steps))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bnn.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--batch", type=int, default=BATCH, help="images per step")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    wanted = parser.parse_args()
    report = run_training(quick=wanted.quick, batch=wanted.batch)
    print(json.dumps(asdict(report), indent=1) if wanted.json else "\n".join(report.lines()))


if __name__ == "__main__":
    main()

"""One training step in brevitas: the net of bnn.bench with one-bit weights and activations.

Brevitas simulates bits in floats. Same topology, batch, optimizer and thread as ``bnn.bench``; first
and last layer have 8-bit weights. Prints one JSON object.

    python tests/benchmarks/peers/bnn/brevitas_training_step.py
"""

import argparse
import json
import time
from importlib.metadata import version
from statistics import median

import brevitas.nn as qnn
import torch
import torch.nn.functional as F
from brevitas.quant import (
    Int8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
)
from torch import nn

from bnn.bench import BATCH
from bnn.bench_nets import CONVOLUTIONS, N_CLASSES, N_DENSE, N_FLAT, SIZE

WARM_UP = 2


def sign() -> nn.Module:
    """One-bit activation, ±1, with the clipped straight-through gradient."""
    return qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst)


def build() -> nn.Sequential:
    """The net of ``bnn.bench``, layer by layer."""
    layers: list[nn.Module] = []
    for number, (n_in, n_out, pool) in enumerate(CONVOLUTIONS):
        quantizer = SignedBinaryWeightPerTensorConst if number else Int8WeightPerTensorFloat
        layers.append(
            qnn.QuantConv2d(n_in, n_out, 3, padding=1, bias=False, weight_quant=quantizer)
        )
        layers += [nn.MaxPool2d(pool)] if pool > 1 else []
        layers += [nn.BatchNorm2d(n_out), sign()]
    binary, int8 = SignedBinaryWeightPerTensorConst, Int8WeightPerTensorFloat
    layers += [
        nn.Flatten(),
        qnn.QuantLinear(N_FLAT, N_DENSE, bias=False, weight_quant=binary),
        nn.BatchNorm1d(N_DENSE),
        sign(),
        qnn.QuantLinear(N_DENSE, N_CLASSES, bias=False, weight_quant=int8),
        nn.BatchNorm1d(N_CLASSES),
    ]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def main() -> None:
    """Time steps and print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    n_steps = parser.parse_args().steps
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(N_CLASSES, (BATCH,), generator=generator)
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    seconds = []
    for _ in range(WARM_UP + n_steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    record = {
        "library": "brevitas",
        "version": version("brevitas"),
        "step_ms": round(1e3 * median(seconds[WARM_UP:]), 2),
        "n_steps": n_steps,
        "batch": BATCH,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()

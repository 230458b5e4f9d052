"""The bench of training steps: that it measures what it says, not how fast this machine is."""

import json
import subprocess
import sys

import torch
import torch.nn.functional as F

from bnn.bench import run_training
from bnn.bench_nets import PackedNet, PlainNet

RELATIVE = 1e-6  # float32 beside float64, relative to the largest gradient of a parameter


def test_both_nets_are_one_topology_with_the_same_weights() -> None:
    plain, packed = PlainNet(3), PackedNet(3)
    ours = [p for p in packed.parameters() if p.dim() > 1]
    theirs = [*plain.kernels, plain.dense, plain.head]
    assert [p.numel() for p in ours] == [p.numel() for p in theirs]
    assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(ours, theirs, strict=True))
    images = torch.zeros(4, 28, 28, 1, dtype=torch.uint8)
    assert packed(images).shape == plain(images).shape == (4, 10)


def test_both_nets_learn_the_same_at_first() -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 28, 28, 1), generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, 10, (32,), generator=draws)
    losses = []
    for net in (PlainNet(1), PackedNet(1)):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(6):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 1.7 < 2.3  # chance is log 10 = 2.3
    assert abs(losses[0] - losses[1]) < 0.2


def test_the_report_is_of_one_run() -> None:
    report = run_training(quick=True, batch=4)
    assert report.batch == 4
    assert 0 < report.packed_min_ms <= report.packed_ms
    assert 0 < report.plain_min_ms <= report.plain_ms
    assert report.floor_ms > 0
    assert report.memory_ratio == report.plain_saved_bytes / report.packed_saved_bytes
    assert any("1/" in line for line in report.lines())


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "bnn.bench", "--quick", "--batch", "8", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(result.stdout)
    assert report["batch"] == 8
    assert report["precision"] == "float32"
    assert report["plain_saved_bytes"] > report["packed_saved_bytes"] > 0


def _gradients(net, images, labels) -> list[torch.Tensor]:
    net.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    return [p.grad for p in net.parameters()]


def test_a_whole_step_has_the_gradients_of_plain_modules_in_float64() -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 28, 28, 1), generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, 10, (8,), generator=draws)
    module = PackedNet(4)
    ours = _gradients(module, images, labels)
    theirs = _gradients(module.double(), images, labels)  # in float64 nothing is fused or packed
    largest = [float(b.abs().max()) for b in theirs]
    errors = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
    relative = [a / b for a, b in zip(errors, largest, strict=True) if b > 1e-12]
    assert len(relative) >= len(largest) - 1  # a bias before a normalisation has no gradient
    assert max(relative) <= RELATIVE, relative

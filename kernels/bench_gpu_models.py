"""Training on a GPU beside plain torch: a binary layer, and a restricted Boltzmann machine."""

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import cuda_gibbs, cuda_packing, torch_ops
from kernels.bench_gpu_setting import Measured, Setting, check
from kernels.bench_gpu_timing import Contender
from kernels.cuda_statistics import batch_products
from kernels.philox import Purpose

IMAGES, CHANNELS, SIZE, KERNEL = 256, 128, 30, 3
_GRADIENT_TOLERANCE: Final = 1e-2
"""Of the norm: gradients of both are sums of products rounded to bfloat16, 2^-9 each."""
BATCH, VISIBLE, HIDDEN = 8192, 784, 4096
_RATE: Final = 0.05


def ste_sign(x: Tensor) -> Tensor:
    """Signs, whose gradient is that of x cut off at -1 and 1."""
    clipped = x.clamp(-1, 1)  # lets the gradient pass at -1 and 1, which hardtanh does not
    return clipped + (torch.where(x >= 0, 1.0, -1.0).to(x.dtype) - clipped).detach()


def saved_bytes(function: Callable[[], Tensor], *excluded: Tensor) -> int:
    """Bytes that the backward pass of a function keeps, each tensor once, parameters not at all."""
    kept: dict[int, int] = {}
    own = {tensor.data_ptr() for tensor in excluded}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function()
    del result
    return sum(kept.values())


def measure_layer(setting: Setting) -> Measured:
    """Forward and backward of a convolution of signs; bfloat16 activations, channels last."""
    device = setting.launcher.device
    x = torch.randn(IMAGES, CHANNELS, SIZE, SIZE, device=device, dtype=torch.bfloat16)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weight = (0.5 * torch.randn(CHANNELS, CHANNELS, KERNEL, KERNEL, device=device)).requires_grad_()

    def ours() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):  # gradients of its precision too
            return torch_ops.binary_conv2d(x, weight)

    def plain() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return F.conv2d(ste_sign(x), ste_sign(weight))

    outputs = ours(), plain()
    check("binary layer, output", torch.equal(outputs[0].bfloat16(), outputs[1].bfloat16()))
    seed = torch.randn_like(outputs[1])
    gradients = [torch.autograd.grad(y, (x, weight), seed.to(y.dtype)) for y in outputs]
    for name, a, b in zip(("x", "weight"), *gradients, strict=True):
        error = (a.float() - b.float()).norm() / b.float().norm()
        check(f"binary layer, gradient of {name}", bool(error < _GRADIENT_TOLERANCE))
    memory = {name: saved_bytes(run, weight) for name, run in (("ours", ours), ("plain", plain))}

    def step(forward: Callable[[], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(
            y := forward(), (x, weight), seed if y.dtype == seed.dtype else seed.to(y.dtype)
        )

    timings = setting.time(
        {
            "packed": Contender([step(ours)], is_graph=False),
            "torch bf16 autocast": Contender([step(plain)], is_graph=False),
        }
    )
    times = timings["torch bf16 autocast"].median_seconds / timings["packed"].median_seconds
    return Measured(timings, {"layer bytes": memory["plain"] / memory["ours"], "layer time": times})


class _Machine:
    """Parameters in float32, and what the fields are computed from in bfloat16."""

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(1)
        self.weights = 0.05 * torch.randn(VISIBLE, HIDDEN, device=device, generator=generator)
        self.narrow = self.weights.bfloat16()
        self.visible_bias = torch.zeros(VISIBLE, device=device)
        self.hidden_bias = torch.zeros(HIDDEN, device=device)

    def update(self, weights: Tensor, visible: Tensor, hidden: Tensor) -> None:
        """Follow the gradient, sums over the batch."""
        self.weights.add_(weights, alpha=_RATE / BATCH)
        self.visible_bias.add_(visible, alpha=_RATE / BATCH)
        self.hidden_bias.add_(hidden, alpha=_RATE / BATCH)
        self.narrow.copy_(self.weights)


def measure_training(setting: Setting) -> Measured:
    """One update by CD-1: three half-steps, two products over the batch, new parameters."""
    launcher, device = setting.launcher, setting.launcher.device
    data = setting.packed(setting.random(BATCH, VISIBLE))
    one = torch.ones((BATCH, 1), dtype=torch.int32, device=device)
    ours, theirs = _Machine(device), _Machine(device)

    def draw(states: Tensor, is_visible: bool, step: int) -> Tensor:
        return cuda_gibbs.half_step(
            *(launcher, states, HIDDEN if is_visible else VISIBLE, ours.narrow),
            ours.visible_bias if is_visible else ours.hidden_bias,
            transposed=is_visible,
            seed=1,
            step=step,
            purpose=Purpose.GIBBS_VISIBLE if is_visible else Purpose.GIBBS_HIDDEN,
        )

    def sums(states: Tensor, n: int) -> Tensor:
        return batch_products(launcher, states, n, one, 1)[:, 0]

    def packed_step() -> None:
        hidden = draw(data, False, 0)
        visible = draw(hidden, True, 1)
        again = draw(visible, False, 1)
        first = batch_products(launcher, data, VISIBLE, hidden, HIDDEN)
        second = batch_products(launcher, visible, VISIBLE, again, HIDDEN)
        ours.update(
            first - second,
            sums(data, VISIBLE) - sums(visible, VISIBLE),
            sums(hidden, HIDDEN) - sums(again, HIDDEN),
        )

    rows = cuda_packing.unpack(launcher, data, VISIBLE, torch.bfloat16)

    def torch_draw(states: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        return torch.bernoulli(torch.sigmoid(states @ matrix + bias.bfloat16()))

    def torch_step() -> None:
        hidden = torch_draw(rows, theirs.narrow, theirs.hidden_bias)
        visible = torch_draw(hidden, theirs.narrow.T, theirs.visible_bias)
        again = torch_draw(visible, theirs.narrow, theirs.hidden_bias)
        theirs.update(
            rows.T @ hidden - visible.T @ again,
            (rows - visible).sum(0, dtype=torch.float32),
            (hidden - again).sum(0, dtype=torch.float32),
        )

    hidden = draw(data, False, 0)
    on = cuda_packing.unpack(launcher, hidden, HIDDEN, torch.float32)
    exact = (rows.double().T @ on.double()).to(torch.int32)
    check(
        "RBM, statistics",
        torch.equal(batch_products(launcher, data, VISIBLE, hidden, HIDDEN), exact),
    )
    check("RBM, sums", torch.equal(sums(hidden, HIDDEN), on.sum(0).to(torch.int32)))
    timings = setting.time(
        {
            "packed": Contender([packed_step]),
            "torch bf16": Contender([torch_step]),
        }
    )
    times = timings["torch bf16"].median_seconds / timings["packed"].median_seconds
    return Measured(timings, {"rbm": times})

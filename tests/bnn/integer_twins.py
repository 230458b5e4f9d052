"""What the tests of the integer network share: awkward parameters, and the four evaluations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import bnn
from bnn.integer import IntegerNet
from bnn.quantizers import RPReLU, RSign
from kernels import BackendUnavailable, Runtime, run_model, write_model
from kernels.build import build_library


def randomise(net: nn.Module, seed: int) -> None:
    """Fill all parameters: both signs of gamma and a zero, shifts, slopes and biases."""
    rng = np.random.default_rng(seed)

    def fill(tensor: torch.Tensor, values: NDArray[np.float64]) -> None:
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.asarray(values)))

    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            fill(parameter, rng.normal(scale=0.5, size=parameter.shape))
        elif name.endswith("bias"):
            fill(parameter, rng.normal(size=parameter.shape))
    for module in net.modules():
        if hasattr(module, "running_var"):
            n = len(module.running_var)
            gamma = rng.normal(size=n)
            gamma[0] = 0.0
            fill(module.weight, gamma)
            fill(module.bias, rng.normal(scale=0.5, size=n))
            fill(module.running_mean, rng.normal(scale=2.0, size=n))
            fill(module.running_var, rng.uniform(10, 50, size=n))
        if isinstance(module, RSign):
            fill(module.shift, rng.normal(scale=0.3, size=module.shift.shape))
        if isinstance(module, RPReLU):
            fill(module.shift_in, rng.normal(scale=0.3, size=module.shift_in.shape))
            fill(module.shift_out, rng.normal(scale=0.3, size=module.shift_out.shape))
        if isinstance(module, RPReLU | nn.PReLU):
            slope = module.slope if isinstance(module, RPReLU) else module.weight
            fill(slope, rng.uniform(-0.2, 0.6, size=slope.shape))


def runtime_library() -> Path:
    try:
        return build_library()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def images_of(shape: tuple[int, ...], n: int = 9, seed: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def assert_twins_agree(integer_net: IntegerNet, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Torch in floats, torch in int64, numpy and C return the same integers."""
    model = bnn.to_model(integer_net)
    logits = integer_net(images)
    assert logits.dtype == np.int32
    np.testing.assert_array_equal(logits, integer_net(images, exact=True, batch_size=2))
    np.testing.assert_array_equal(logits, run_model(model, images))
    np.testing.assert_array_equal(logits, Runtime(write_model(model), runtime_library())(images))
    return logits

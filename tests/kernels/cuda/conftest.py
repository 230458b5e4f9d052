"""Where the CUDA kernels run in these tests: thread by thread on the CPU, and on a GPU if any.

``BITSPIN_SHIM_CHECKER`` names what watches the kernels on the CPU; test_sanitizers.py sets it.
"""

import os
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from kernels.cuda_launch import Launcher, launcher_for, missing
from kernels.cuda_shim import ORDERS, Checker, Order, ShimLauncher

MakeLauncher = Callable[..., Launcher]


def _gpu() -> Launcher:
    reason = missing()
    if reason:
        pytest.skip(reason)
    return launcher_for(torch.device("cuda"))


@pytest.fixture(params=[*ORDERS, pytest.param("gpu", marks=pytest.mark.gpu)])
def make_launcher(request: pytest.FixtureRequest) -> MakeLauncher:
    """``make_launcher(capability)``: a launcher; on a GPU the capability is the device's own."""

    def make(capability: tuple[int, int] = (8, 0)) -> Launcher:
        if request.param == "gpu":
            return _gpu()
        checker = cast(Checker, os.environ.get("BITSPIN_SHIM_CHECKER", "none"))
        return ShimLauncher(capability, order=cast(Order, request.param), seed=1, checker=checker)

    return make


@pytest.fixture
def launcher(make_launcher: MakeLauncher) -> Launcher:
    """A launcher of the least capability that kernels are written for."""
    return make_launcher()


@pytest.fixture
def on(launcher: Launcher) -> Callable[[Any], torch.Tensor]:
    """``on(array)``: the array as a tensor on the launcher's device; uint32 becomes int32."""

    def move(array: Any) -> torch.Tensor:
        if not isinstance(array, torch.Tensor):
            array = torch.from_numpy(array.view("int32") if array.dtype == "uint32" else array)
        return array.to(launcher.device)

    return move

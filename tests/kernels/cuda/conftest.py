"""Where the CUDA kernels run in these tests: thread by thread on the CPU, and on a GPU if any.

``BITSPIN_SHIM_CHECKER`` names what watches the kernels on the CPU, ``BITSPIN_SHIM_CASES`` how many
cases of each test are run then, spread evenly; test_sanitizers.py sets them.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from kernels.cuda_launch import Launcher
from kernels.cuda_shim import ORDERS, Checker, Order, ShimLauncher

MakeLauncher = Callable[..., Launcher]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep ``BITSPIN_SHIM_CASES`` cases of each test, the first and the last among them."""
    wanted = int(os.environ.get("BITSPIN_SHIM_CASES", "0"))
    if not wanted:
        return
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if "forward" in item.name:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = [
        cases[round(i * (len(cases) - 1) / max(wanted - 1, 1))]
        for cases in tests.values()
        for i in range(wanted)
    ]
    items[:] = [item for item in items if item in set(kept)]


def _gpu() -> Launcher:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("no CuPy: pip install 'bitspin[cuda13]'")
    from kernels.cuda_launch import CupyLauncher

    return CupyLauncher(torch.device("cuda", torch.cuda.current_device()))


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

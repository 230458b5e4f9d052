"""What the doctor says of a GPU, on machines that have one and that have none."""

import sys
from types import SimpleNamespace

import pytest
import torch

from flows import doctor


@pytest.fixture
def h100(monkeypatch):
    """A machine with an H100 and CuPy, as far as the doctor asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    runtime = SimpleNamespace(driverGetVersion=lambda: 13020)
    cupy = SimpleNamespace(__version__="14.2.0", cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr("kernels.cuda_launch.missing", lambda: None)
    monkeypatch.setattr(doctor, "_version", {"cupy-cuda13x": "14.2.0"}.get)


def test_a_gpu_is_named_with_driver_cupy_architecture_and_paths(h100):
    finding = doctor._cuda()
    assert finding.is_present
    for part in ("NVIDIA H100 80GB HBM3", "sm_90a", "CUDA 13.2", "CuPy 14.2.0", "1 rows popc"):
        assert part in finding.detail


def test_a_gpu_without_cupy_is_told_what_installs_it(h100, monkeypatch):
    monkeypatch.setattr("kernels.cuda_launch.missing", lambda: "no CuPy")
    finding = doctor._cuda()
    assert not finding.is_present
    assert finding.remedy == "pip install 'bitspin[cuda13]'"


def test_two_cupys_are_one_too_many(h100, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "14.2.0")
    finding = doctor._cuda()
    assert not finding.is_present
    assert "cupy-cuda12x" in finding.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_claimed():
    assert doctor._cuda() == doctor.Finding("GPU", False, "none that torch can use", "")


def test_a_missing_compiler_is_said_with_what_installs_it(monkeypatch):
    from kernels.errors import BackendUnavailable

    def absent():
        raise BackendUnavailable("NVRTC is missing")

    assert doctor._cuda_compiler().detail.startswith("NVRTC ")
    monkeypatch.setattr("kernels.cuda_compile.nvrtc_version", absent)
    assert not doctor._cuda_compiler().is_present

"""Where a training runs: what is reserved for it, and what is said when it is not there."""

from dataclasses import replace

import pytest
import torch

from kernels.errors import BackendUnavailable
from workers.config import RunConfig
from workers.device import GPU_STEPS, check_device, check_gpus, gpus_of_step, training_device
from workers.runtime import ClusterConfig, ClusterError
from workers.steps import STEPS

CUDA = RunConfig(device="cuda")
GROUP = replace(CUDA, cluster=ClusterConfig(n_workers=2))
FOREIGN = replace(CUDA, cluster=ClusterConfig(address="127.0.0.1:6379"))
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def test_another_device_is_refused_by_the_configuration():
    with pytest.raises(ValueError, match="device: expected cpu or cuda, got 'gpu'"):
        RunConfig(device="gpu")


def test_training_steps_reserve_a_gpu_and_a_group_reserves_its_own():
    assert set(GPU_STEPS) < set(STEPS)
    assert [gpus_of_step(name, CUDA) for name in STEPS] == [
        int(name in GPU_STEPS) for name in STEPS
    ]
    assert not any(gpus_of_step(name, RunConfig()) for name in STEPS)
    assert gpus_of_step("train_bnn", GROUP) == 0
    # A launcher that held a GPU while its group waits for all of them would wait forever.
    assert gpus_of_step("train_twin", GROUP) == 0
    assert gpus_of_step("train_rbm", GROUP) == 1


def test_on_the_cpu_nothing_is_checked_or_compiled():
    check_device(RunConfig())
    check_gpus(RunConfig())
    assert training_device(RunConfig()) == torch.device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()


@without_gpu
def test_a_local_cluster_without_a_gpu_is_refused_before_it_starts():
    with pytest.raises(ClusterError, match=r"device = cuda: expected a CUDA device.*use the CPU"):
        check_device(CUDA)
    check_device(FOREIGN)  # is asked when connected


@without_gpu
def test_a_worker_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    with pytest.raises(BackendUnavailable, match="expected a CUDA device"):
        training_device(CUDA)


@pytest.mark.parametrize(
    ("found", "is_enough"), [({}, False), ({"GPU": 1.0}, False), ({"GPU": 2.0}, True)]
)
def test_the_cluster_is_asked_for_a_gpu_per_worker(monkeypatch, found, is_enough):
    monkeypatch.setattr("ray.cluster_resources", lambda: found)
    if is_enough:
        check_gpus(GROUP)
    else:
        with pytest.raises(ClusterError, match=f"expected 2 GPUs in the cluster, got {len(found)}"):
            check_gpus(GROUP)


def test_every_kernel_is_compiled_before_training_on_a_gpu(monkeypatch):
    prepared = []

    class Launcher:
        device = torch.device("cuda", 1)  # the current one, in a group

        def prepare(self):
            prepared.append("all")

    def launcher_for(device):
        assert device.index is None
        return Launcher()

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr("kernels.cuda_launch.launcher_for", launcher_for)
    try:
        assert training_device(CUDA) == torch.device("cuda", 1)
        assert prepared == ["all"]
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)

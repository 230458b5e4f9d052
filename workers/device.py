"""Where a training's tensors live: on the CPU, or on the GPU that Ray has given this worker."""

import os
from typing import TYPE_CHECKING, Final

import torch

from workers.runtime import ClusterError

if TYPE_CHECKING:
    from workers.config import RunConfig

DEVICES: Final = ("cpu", "cuda")
"""What a configuration may name."""
GPU_STEPS: Final = ("train_bnn", "train_twin", "train_rbm")
"""Steps whose work is done on ``RunConfig.device``; all others are small or exact in float64."""
GROUP_STEPS: Final = ("train_bnn", "train_twin")
"""Steps that ``cluster.n_workers`` workers share, if it is more than one."""


def is_launcher(name: str, config: "RunConfig") -> bool:
    """Whether the task of a step only starts a group and waits for it."""
    return name in GROUP_STEPS and config.cluster.n_workers > 1


def gpus_of_step(name: str, config: "RunConfig") -> int:
    """GPUs that Ray reserves for the task of a step; a group's workers have their own."""
    is_own = config.device == "cuda" and name in GPU_STEPS
    return int(is_own and not is_launcher(name, config))


def check_device(config: "RunConfig") -> None:
    """Make sure, before anything is started, that this machine has the GPU that is asked for.

    Raises
    ------
    ClusterError
        If a local cluster could not; a foreign one is asked by :func:`check_gpus`.
    """
    if config.device == "cpu" or config.cluster.address != "local":
        return
    from kernels.cuda_launch import missing

    reason = missing()
    if reason:
        raise ClusterError(f"device = cuda: {reason}")


def check_gpus(config: "RunConfig") -> None:
    """Make sure that the cluster, once connected, has the GPUs of the largest step.

    Raises
    ------
    ClusterError
        If it has fewer; smaller steps can wait in turn.
    """
    if config.device == "cpu":
        return
    import ray

    needed = config.cluster.n_workers
    found = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if found < needed:
        raise ClusterError(
            f"device = cuda: expected {needed} GPUs in the cluster, got {found}; "
            "add GPU nodes, lower cluster.n_workers, or --set device=cpu"
        )


def training_device(config: "RunConfig") -> torch.device:
    """Device of this worker's training; on a GPU all kernels are compiled before it returns.

    On a GPU torch is told to use deterministic algorithms only, so that a training that is killed
    and continued ends with the same bytes; an operation that has none raises.

    Raises
    ------
    BackendUnavailable
        If the device or CuPy is missing in this worker.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read by cuBLAS when it starts
    from kernels.cuda_launch import launcher_for

    # Ray shows a task only the GPU that it reserved; workers of a group see each other's GPUs, and
    # Ray has made the own one current.
    launcher = launcher_for(torch.device("cuda"))
    launcher.prepare()
    torch.use_deterministic_algorithms(True)
    # Kernels write all of an output.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return launcher.device

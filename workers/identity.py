"""What makes two runs the same run: configuration, data, code and machine arithmetic.

The run key names the run's directory, its checkpoints and its Prefect run, so a second start with
equal ingredients finds the first one's work, and a change in any of them starts anew.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import torch

from workers.storage import Json

_ROOMS = ("kernels", "bnn", "rbm", "workers")
_SOURCES = (".py", ".c", ".h", ".cu", ".cuh", ".toml")


@cache
def code_digest() -> str:
    """SHA-256 over names and contents of the sources of kernels, bnn, rbm and workers."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        root = Path(str(import_module(room).__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.suffix in _SOURCES:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{room}/{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def machine_arithmetic(threads_per_worker: int, device: str = "cpu") -> dict[str, Json]:
    """What float results depend on beside configuration, data and code (conventions, section 4).

    The GPU is this machine's; a cluster whose driver has none is taken to have one kind.
    """
    record: dict[str, Json] = {
        "torch": torch.__version__,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads_per_worker": threads_per_worker,
    }
    if device == "cuda":
        record["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "a GPU"
    return record


def run_key(config: Mapping[str, Json], data_digest: str, arithmetic: Mapping[str, Json]) -> str:
    """Sixteen hex digits of SHA-256 over everything that decides the run's bytes.

    Parameters
    ----------
    config
        Canonical configuration: every field spelled out, nothing that only says where to run.
    data_digest
        SHA-256 over the payload digests of the data.
    arithmetic
        Record of :func:`machine_arithmetic`.
    """
    identity = {
        "config": config,
        "data": data_digest,
        "code": code_digest(),
        "arithmetic": arithmetic,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

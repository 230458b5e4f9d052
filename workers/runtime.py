"""The Ray cluster of a run: always an explicit address, checked before anything is started."""

import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from workers.config import RunConfig
    from workers.context import RunContext
    from workers.storage import Json

_ROOMS = ("kernels", "bnn", "rbm", "workers", "flows")
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 20.0  # with the connection test under the 30 s after which a user gives up
_OBJECT_STORE_BYTES = 512 * 2**20
_MAX_RETRIES = 3
_STORAGE_SECONDS = 60.0  # until a node has unpacked the code and looked

_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "0",
    # A worker without a GPU request must not see CUDA_VISIBLE_DEVICES blanked behind our back.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or cannot run what was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Where the work runs. Nothing here changes a result, and nothing here is in the run key."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    address: str = "local"
    """"local" starts a cluster of this machine's cores; else "host:port" or "ray://host:port"."""
    n_workers: int = 1
    """Workers that share the logical shards of the classifier and its twin; `train bnn` takes all
    cores of a local cluster if it is not given."""
    n_cpus: int | None = None
    """Cores of a local cluster; all that this process may use if not given."""

    checkpoint_seconds: float = 5.0
    """At least this long between two checkpoints of a training: what a kill can cost."""

    def __post_init__(self) -> None:
        if not self.checkpoint_seconds >= 0:
            raise ValueError(
                f"checkpoint_seconds: expected 0 or more, got {self.checkpoint_seconds}"
            )
        if self.n_workers < 1:
            raise ValueError(f"n_workers: expected at least 1, got {self.n_workers}")
        if self.n_cpus is not None and self.n_cpus < 1:
            raise ValueError(f"n_cpus: expected at least 1, got {self.n_cpus}")
        if self.address != "local":
            split_address(self.address)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``ray://host:port``.

    Raises
    ------
    ValueError
        If the address has another form, "auto" included: it may join somebody else's cluster.
    """
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("gcs", "ray") or not parts.hostname or port is None:
        raise ValueError(f"address: expected local, host:port or ray://host:port, got {address!r}")
    return parts.hostname, port


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_reachable(config: ClusterConfig) -> None:
    """Make sure that the cluster answers; a local one is started later and always does.

    Raises
    ------
    ClusterError
        If the address does not answer within 30 s.
    """
    if config.address != "local":
        _probe(config.address)


@contextmanager
def cluster(config: ClusterConfig) -> Iterator[None]:
    """Connect to Ray for the length of the block, and leave nothing running behind.

    Raises
    ------
    ClusterError
        If the cluster holds fewer cores than ``n_workers``; see also :func:`check_reachable`.
    """
    _set_environment(config)
    _connect(config)
    import ray

    try:
        _check_cores(config)
        yield
    finally:
        ray.shutdown()


def _set_environment(config: ClusterConfig) -> None:
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    own_secret = "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ
    # Ray reads its mode of authentication when it is imported; afterwards it is too late.
    if config.address == "local" and own_secret and "ray" not in sys.modules:
        # A secret of this run alone, instead of a token file in the user's home.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _connect(config: ClusterConfig) -> None:
    import ray

    if config.address != "local":
        with tempfile.TemporaryDirectory() as code:
            _copy_rooms(Path(code))
            ray.init(
                address=config.address,
                runtime_env={"working_dir": code},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        return
    ray.init(
        address="local",
        num_cpus=config.n_cpus or max(available_cores(), config.n_workers),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _copy_rooms(code: Path) -> None:
    """Copy the packages side by side: what the workers of a foreign cluster run."""
    for room in _ROOMS:
        source = Path(str(import_module(room).__file__)).parent
        shutil.copytree(source, code / room, ignore=shutil.ignore_patterns("__pycache__"))


def check_storage(run_dir: Path, config: ClusterConfig) -> None:
    """Make sure that every node of a foreign cluster sees the run's directory.

    Raises
    ------
    ClusterError
        If one does not; it is named.
    """
    if config.address == "local":
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(Path.is_dir)
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if not node["Alive"]:
            continue
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        seen = look.options(scheduling_strategy=there).remote(run_dir)
        if not ray.get(seen, timeout=_STORAGE_SECONDS):
            raise ClusterError(
                f"run directory: expected every node to see {run_dir}, got none of it on "
                f"{node['NodeManagerAddress']}; set BITSPIN_HOME to storage that all nodes share"
            )


def _check_cores(config: ClusterConfig) -> None:
    import ray

    cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    if cores < config.n_workers:
        raise ClusterError(
            f"cluster: expected {config.n_workers} cores for n_workers, got {cores} at "
            f"{config.address}; lower --set cluster.n_workers or add nodes"
        )


def _probe(address: str) -> None:
    """Fail in time where ``ray.init`` would wait: a TCP connection, then a join in a child."""
    host, port = split_address(address)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"ray address: expected a cluster at {address}, got {error.strerror or error}; "
            "start one there (ray start --head) or leave --ray-address out for a local one"
        ) from error
    script = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, address],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"ray address: expected a Ray cluster at {address}, got no answer to a join in "
            f"{_PROBE_SECONDS:.0f} s; check that the port is Ray's"
        ) from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ClusterError(f"ray address: expected to join {address}, got: {last[0]}")


def share(context: "RunContext") -> Any:
    """Put what every step needs into the cluster's object store; returns Ray's reference."""
    import ray

    return ray.put(context)


def start_step(name: str, context_ref: Any, config: "RunConfig") -> Any:
    """Start a step of :mod:`workers.steps` on the cluster; returns Ray's reference to its values.

    A step whose worker dies is started again by Ray, up to three times; it goes on from its newest
    checkpoint.
    """
    import ray

    from workers.device import gpus_of_step, is_launcher
    from workers.steps import STEPS, do_step

    # A group's launcher only waits; its workers hold the cores.
    n_cpus = 0 if is_launcher(name, config) else 1
    n_gpus = gpus_of_step(name, config)
    remote = ray.remote(num_cpus=n_cpus, num_gpus=n_gpus, max_retries=_MAX_RETRIES)(do_step)
    return remote.options(name=STEPS[name].title).remote(name, context_ref)


def wait_for(reference: Any, seconds: float) -> bool:
    """Wait for a step, ``seconds`` at most; whether it has ended."""
    import ray

    done, _ = ray.wait([reference], timeout=seconds)
    return bool(done)


def step_values(reference: Any) -> "dict[str, Json]":
    """Values of an ended step; an error of the step is raised as itself, not as Ray's wrapper."""
    import ray

    try:
        values: dict[str, Json] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return values

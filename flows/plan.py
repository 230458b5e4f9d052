"""A run before and while it is done: its name, its directory, and who may write to it."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from bnn.models import MODELS
from flows.config_file import ConfigError, canonical, validate
from flows.runs import IDENTITY, RESULT, RunError, RunSummary
from flows.settings import runs_directory
from workers.config import RunConfig
from workers.datasets import ImageData, load, load_default, load_user_data
from workers.identity import machine_arithmetic, run_key
from workers.splits import stratified_split
from workers.steps import steps_of
from workers.storage import Json, read_json, write_bytes, write_json
from workers.train_bnn import check_network
from workers.train_rbm import unit_grid

_FREE_BYTES = 300 * 2**20  # checkpoints, pictures and libraries of one run, with room to spare
_WAIT_SECONDS = 10.0  # what a killed run may take until its processes are gone


@dataclass(frozen=True, eq=False)
class Plan:
    """A run before it is started: configuration, verified data, and the name they give it."""

    config: RunConfig
    data: ImageData
    run_key: str
    run_dir: Path
    title: str
    identity: dict[str, Json]
    seconds: float
    """What loading and verifying the data took."""

    @property
    def is_finished(self) -> bool:
        """Whether the run has published its result."""
        return (self.run_dir / RESULT).is_file()

    @property
    def is_started(self) -> bool:
        """Whether there is anything on disk to continue from."""
        return (self.run_dir / IDENTITY).is_file()


def load_data(config: RunConfig) -> ImageData:
    """Load the named data by :mod:`workers.datasets`, which says what can fail, and split it."""
    data = _load_parts(config)
    return stratified_split(data, config.data.seed) if config.data.split == "stratified" else data


def _load_parts(config: RunConfig) -> ImageData:
    if config.data.path is not None:
        return load_user_data(Path(config.data.path), seed=config.data.seed)
    if config.data.name == "auto":
        return load_default()
    return load(config.data.name)


@cache
def make_plan(config: RunConfig, forced_key: str | None = None) -> Plan:
    """Verify the data and derive the run's key, once per process; nothing is written.

    Parameters
    ----------
    config
        What to train and where.
    forced_key
        Continue the run of this key although code or machine have changed since.

    Raises
    ------
    DataError
        If the data cannot be used.
    ConfigError
        If the classifier cannot be built or trained for them.
    """
    started = time.monotonic()
    data = load_data(config)
    seconds = round(time.monotonic() - started, 3)
    try:
        check_network(config, data)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    arithmetic = machine_arithmetic(config.threads_per_worker, config.device)
    tree = canonical(config)
    # The digest stands for the data: the same bytes found elsewhere are the same run.
    decisive: dict[str, Json] = {**tree, "data": {"seed": config.data.seed}}
    key = forced_key or run_key(decisive, data.digest, arithmetic)
    title = title_of(config, data)
    identity: dict[str, Json] = {
        "run_key": key,
        "title": title,
        "config": {**tree, "tensorboard": config.tensorboard},
        "data_digest": data.digest,
        "arithmetic": arithmetic,
    }
    return Plan(config, data, key, runs_directory() / key, title, identity, seconds)


def title_of(config: RunConfig, data: ImageData) -> str:
    """What a run trains, in a line for a person."""
    words = "binary convnet" if config.bnn.model == "binary_conv_net" else config.bnn.model
    widths = "-".join(str(n) for n in config.bnn.widths or MODELS[config.bnn.model].default_widths)
    title = f"{data.name}: {words.replace('_', ' ')} {widths}"
    if config.recipe is not None:
        title = f"recipe {config.recipe}, seed {config.bnn.seed}, {title}"
    if "train_rbm" in steps_of(config):
        height, width = unit_grid(data)
        title += f", RBM {height * width}x{config.rbm.n_hidden}"
    return title


def check_run_directory(run_dir: Path) -> None:
    """Refuse a place where a run could not be kept, before any work is done.

    Raises
    ------
    RunError
        If the directory cannot be written to, or less than 300 MB are free.
    """
    probe = run_dir / f".probe-{os.getpid()}"
    try:
        write_bytes(probe, b"probe")
        probe.unlink()
        free = shutil.disk_usage(run_dir).free
    except OSError as error:
        raise RunError(
            f"run directory: expected to write to {run_dir}, got: {error.strerror or error}; "
            "set BITSPIN_HOME to a directory that is yours"
        ) from error
    if free < _FREE_BYTES:
        raise RunError(
            f"run directory: expected {_FREE_BYTES >> 20} MB free at {run_dir}, got "
            f"{free >> 20} MB; free some, or set BITSPIN_HOME to another disk"
        )


@contextmanager
def owned(plan: Plan, *, fresh: bool) -> Iterator[None]:
    """Own the run's directory for the length of the block; ``fresh`` sets old work aside.

    The lock is the kernel's, so it ends with its owner, however that one ends.

    Raises
    ------
    RunError
        If another process works on the run, or the directory cannot be written to.
    """
    check_run_directory(plan.run_dir)
    lock = plan.run_dir.parent / f".{plan.run_key}.lock"
    with lock.open("w") as stream:
        _lock(stream.fileno(), plan.run_key)
        if fresh and plan.is_started:
            _set_aside(plan.run_dir)
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        if not plan.is_started:
            created = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(plan.run_dir / IDENTITY, {**plan.identity, "created": created})
        yield


def _lock(descriptor: int, key: str) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if time.monotonic() > deadline:
                raise RunError(
                    f"run {key}: another process is working on it; wait for it or stop it first"
                ) from error
            time.sleep(0.2)
        else:
            return


def _set_aside(run_dir: Path) -> None:
    """Keep the last result of a run that is done afresh as ``<run_key>.previous``."""
    previous = run_dir.with_name(f"{run_dir.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    run_dir.rename(previous)


def stored_config(run: RunSummary, cluster: Mapping[str, Json]) -> RunConfig:
    """Configuration that a run was started with, to be continued on ``cluster``."""
    tree = read_json(run.run_dir / IDENTITY).get("config")
    if not isinstance(tree, dict):
        raise ConfigError(f"{run.run_dir / IDENTITY}: expected a configuration, got none")
    return validate({**tree, "cluster": dict(cluster)})

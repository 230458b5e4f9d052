"""The configuration of a run: one section per part, each beside the code it configures."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from bnn import QUANTIZERS, TrainConfig
from bnn.models import MODELS
from rbm import PCDConfig, QBMConfig, TBMConfig
from workers.device import DEVICES
from workers.runtime import ClusterConfig
from workers.splits import SPLITS

JOB_NAMES = ("everything", "bnn")
"""What a run can be about; the steps of each are in :mod:`workers.steps`."""
_PYDANTIC: dict[str, object] = {"extra": "forbid", "use_attribute_docstrings": True}


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    known = sorted(choices)
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}{hint}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What to learn from."""

    __pydantic_config__: ClassVar[dict[str, object]] = _PYDANTIC

    name: str = "auto"
    """fashion-mnist, mnist, digits, fsdd, or auto for the best image set that is at hand."""
    path: str | None = None
    """Your own data instead: a folder of images, an .npz or a .csv file."""
    split: str = "given"
    """given: the parts that the data comes in; stratified: a quarter of every class is the test."""
    seed: int = 0
    """Of the split into training and test part, where one is drawn."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split: expected {' or '.join(SPLITS)}, got {self.split!r}")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed: expected 0 <= seed < 2**64, got {self.seed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig(TrainConfig):
    """The binary network and its twin: shape and training."""

    model: str = "binary_conv_net"
    """Architecture, by its name in bnn.models.MODELS."""
    widths: tuple[int, ...] = ()
    """Output channels of the stages, multiples of 32 fill the words of the kernels; empty: the
    model's own."""
    quantizer: str = "ste_sign"
    """Pseudo-gradient of the activations, by its name in bnn.QUANTIZERS."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        _check_choice("model", self.model, MODELS)
        _check_choice("quantizer", self.quantizer, QUANTIZERS)
        if self.widths and min(self.widths) < 1:
            raise ValueError(f"widths: expected positive numbers, got {self.widths}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig(PCDConfig):
    """The restricted Boltzmann machine: size, training, likelihood estimate."""

    n_hidden: int = 256
    """Hidden units."""
    n_ais_chains: int = 100
    """Annealing runs of the likelihood estimate."""
    n_temperatures: int = 5000
    """Temperatures of each annealing run."""

    def __post_init__(self) -> None:
        PCDConfig.__post_init__(self)
        for name in ("n_hidden", "n_ais_chains", "n_temperatures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """How the shipped binaries are checked."""

    __pydantic_config__: ClassVar[dict[str, object]] = _PYDANTIC

    n_arm_images: int = 256
    """Test images that the emulated ARM binary classifies; the host does all of them."""

    def __post_init__(self) -> None:
        if self.n_arm_images < 1:
            raise ValueError(f"n_arm_images: expected at least 1, got {self.n_arm_images}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything about a run. All but ``cluster`` and ``tensorboard`` is part of its key."""

    __pydantic_config__: ClassVar[dict[str, object]] = _PYDANTIC

    job: str = "everything"
    """What the run is about: everything, or bnn for the binary network and its twin alone."""
    recipe: str | None = None
    """Recipe of the zoo that the other values come from; its expected accuracy is printed."""
    data: DataConfig = field(default_factory=DataConfig)
    """What to learn from."""
    bnn: ClassifierConfig = field(default_factory=ClassifierConfig)
    """The binary network and its full-precision twin."""
    rbm: MachineConfig = field(default_factory=MachineConfig)
    """The restricted Boltzmann machine."""
    tbm: TBMConfig = field(default_factory=TBMConfig)
    """The transductive Boltzmann machine on 4x4 digits."""
    qbm: QBMConfig = field(default_factory=QBMConfig)
    """The quantum Boltzmann machine and its classical counterpart."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """How the shipped binaries are checked."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Where the work runs."""
    threads_per_worker: int = 1
    """Threads of each worker; float sums depend on it."""
    device: str = "cpu"
    """Where classifier, twin and RBM are trained: cpu, or cuda for one GPU per worker."""
    tensorboard: bool = False
    """Write scalars of the classifier's training into the run's directory for TensorBoard."""

    def __post_init__(self) -> None:
        if self.job not in JOB_NAMES:
            raise ValueError(f"job: expected {' or '.join(JOB_NAMES)}, got {self.job!r}")
        if self.device not in DEVICES:
            raise ValueError(f"device: expected {' or '.join(DEVICES)}, got {self.device!r}")
        if self.threads_per_worker < 1:
            raise ValueError(
                f"threads_per_worker: expected at least 1, got {self.threads_per_worker}"
            )
        if self.cluster.n_workers > self.bnn.n_shards:
            raise ValueError(
                f"cluster.n_workers: expected at most bnn.n_shards = {self.bnn.n_shards}, "
                f"got {self.cluster.n_workers}"
            )

"""The configuration of a run: one section per part, each beside the code it configures."""

from dataclasses import dataclass, field
from typing import ClassVar

from bnn import TrainConfig
from rbm import PCDConfig, QBMConfig, TBMConfig
from workers.device import DEVICES
from workers.runtime import ClusterConfig

_PYDANTIC: dict[str, object] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What to learn from."""

    __pydantic_config__: ClassVar[dict[str, object]] = _PYDANTIC

    name: str = "auto"
    """fashion-mnist, mnist, digits, or auto for the best of these that is at hand."""
    path: str | None = None
    """Your own data instead: a folder of images, an .npz or a .csv file."""
    seed: int = 0
    """Of the split into training and test part, where your data has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig(TrainConfig):
    """The binary network and its twin: shape and training."""

    widths: tuple[int, ...] = (32, 64, 128)
    """Output channels of the stages; multiples of 32 fill the words of the kernels."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths: expected one or more positive numbers, got {self.widths}")


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
    """Everything about a run. All but ``cluster`` decides its bytes and is part of its key."""

    __pydantic_config__: ClassVar[dict[str, object]] = _PYDANTIC

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

    def __post_init__(self) -> None:
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

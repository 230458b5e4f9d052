"""The configuration of a training: everything that its bytes depend on but data and network."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

_BATCH = 128
_SMALL_BATCH = 64
_FEW_IMAGES = 10_000
_LARGEST_RATE = 1e6
"""Adam moves a weight by about its rate at most, so below this no update leaves float32."""

ScheduleName = Literal["cosine", "linear", "step", "constant"]
OptimizerName = Literal["adam", "bop", "bop_2nd_order", "bop_2nd_order_unbiased"]
ObjectiveName = Literal[
    "cross_entropy",
    "binary_cross_entropy",
    "crammer_singer",
    "focal",
    "hinge",
    "logistic",
    "softmax_focal",
    "squared_hinge",
]
ClassWeightsName = Literal["equal", "inverse_frequency", "effective_number"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a network is trained; everything that its final bytes depend on but data and network."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    epochs: int | None = None
    """Passes over the training data; None: fewer, the more data there is."""
    steps: int | None = None
    """Steps of the whole training, instead of epochs."""
    minutes: float | None = None
    """Training time instead of epochs: a few timed steps at the start turn it into steps."""
    batch_size: int | None = None
    """Images per step, a multiple of n_shards; None: 128, or 64 below 10,000 images, and two per
    shard or more."""
    n_shards: int = 2
    """Logical shards per batch: the largest useful number of workers. Part of the result."""
    learning_rate: float = 0.005
    """Peak rate of Adam, reached after the warm-up, from where it follows the schedule."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises linearly."""
    schedule: ScheduleName = "cosine"
    """The rate after the warm-up: along a cosine or a line to 0, in steps, or constant."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Schedule "step": shares of the way after the warm-up at which the rate falls."""
    milestone_factor: float = 0.1
    """Schedule "step": what the rate is multiplied by at each milestone."""
    optimizer: OptimizerName = "adam"
    """Of the binary weights: Adam on latent weights, or flips without them; the rest gets Adam."""
    bop_gamma: float | None = None
    """Peak adaptivity rate of the flips, on the same schedule; None: the optimizer's own."""
    bop_tau: float | None = None
    """Threshold of the flips; None: the optimizer's own."""
    real_rate_factor: float = 1.0
    """Rate of all parameters that are not binarised, as a multiple of learning_rate."""
    weight_decay: float = 0.0
    """Decoupled decay of real and int8 weights; never of latent weights, biases and norms."""
    loss: ObjectiveName = "cross_entropy"
    """What is minimised; all but the first and softmax_focal treat the classes one by one."""
    margin: float = 1.0
    """Margin of hinge, squared_hinge and crammer_singer, in units of the logits."""
    focal_gamma: float = 2.0
    """Focus of focal and softmax_focal; 0 is the cross-entropy."""
    label_smoothing: float = 0.0
    """Share of every label that cross_entropy spreads evenly over all classes."""
    class_weights: ClassWeightsName = "equal"
    """Weight of a sample by the size of its class in the training data."""
    distillation_weight: float = 0.0
    """Share of the loss that is the cross-entropy to a teacher; at 1 labels are not looked at."""
    distillation_temperature: float = 1.0
    """Divides the logits of both networks before they are compared."""
    real_weights_fraction: float = 0.0
    """Share of the steps that come first and train with real weights and binary activations."""
    shift_pixels: int = 0
    """Augmentation: images move by up to so many pixels along both axes, every epoch anew."""
    horizontal_flip: bool = False
    """Augmentation: every other image, by chance, is mirrored left to right."""
    cutout_pixels: int = 0
    """Augmentation: side of a square that is overwritten at a random place; 0 is none."""
    background: int = 0
    """Value of the pixels that a shift or a cutout leaves behind."""
    averaging_decay: float = 0.0
    """Decay per step of the moving average of the weights that is the result; 0 is none."""
    seed: int = 0
    """Of the order of the data and of the augmentation."""

    def __post_init__(self) -> None:
        _check_amounts(self)
        _check_choices(self)
        _check_rates(self)
        _check_pixels(self)
        _check_combinations(self)
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed: expected 0 <= seed < 2**64, got {self.seed}")

    def n_epochs(self, n_samples: int) -> int:
        """Passes over ``n_samples`` images: ``epochs``, or :func:`recommended_epochs`."""
        return recommended_epochs(n_samples) if self.epochs is None else self.epochs

    def images_per_step(self, n_samples: int) -> int:
        """Batch size for ``n_samples`` images, a multiple of ``n_shards``.

        Small data need more steps, not larger ones; data smaller than a batch are one batch.
        """
        usual = _SMALL_BATCH if n_samples < _FEW_IMAGES else _BATCH
        wanted = self.batch_size or max(usual, 2 * self.n_shards)
        return min(wanted, n_samples) // self.n_shards * self.n_shards


def recommended_epochs(n_samples: int) -> int:
    """Choose the number of passes over the data: fewer, the more data there is.

    About 120,000 image visits, but between 2 and 40 passes: 40 for 1,347 digits, 2 for the 60,000
    images of Fashion-MNIST, where the default network then gets 89 to 90 %.

    Raises
    ------
    ValueError
        If ``n_samples`` is not positive.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples: expected 1 or more, got {n_samples}")
    return min(40, max(2, round(120_000 / n_samples)))


def _check_amounts(config: TrainConfig) -> None:
    for name in ("epochs", "steps", "batch_size", "n_shards"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    if config.batch_size is not None and (
        config.batch_size % config.n_shards or config.batch_size < 2 * config.n_shards
    ):
        raise ValueError(
            f"batch_size: expected a multiple of n_shards = {config.n_shards} with two images "
            f"or more per shard, got {config.batch_size}"
        )
    if config.minutes is not None and not 0 < config.minutes < math.inf:
        raise ValueError(f"minutes: expected a positive number, got {config.minutes}")
    lengths = ("epochs", "steps", "minutes")
    given = [name for name in lengths if getattr(config, name) is not None]
    if len(given) > 1:
        raise ValueError(f"{', '.join(given)}: expected one of them, got {len(given)}")


def _check_choices(config: TrainConfig) -> None:
    choices = {
        "schedule": ScheduleName,
        "optimizer": OptimizerName,
        "loss": ObjectiveName,
        "class_weights": ClassWeightsName,
    }
    for name, choice in choices.items():
        if getattr(config, name) not in get_args(choice):
            raise ValueError(
                f"{name}: expected one of {', '.join(get_args(choice))}, "
                f"got {getattr(config, name)!r}"
            )


def _check_rates(config: TrainConfig) -> None:
    if not 0 < config.learning_rate < _LARGEST_RATE:
        raise ValueError(
            f"learning_rate: expected a positive number below {_LARGEST_RATE:g}, "
            f"got {config.learning_rate}"
        )
    shares = ("warmup_fraction", "label_smoothing", "real_weights_fraction", "averaging_decay")
    for name in shares:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}: expected 0 <= {name} < 1, got {getattr(config, name)}")
    for name in ("real_rate_factor", "margin", "distillation_temperature"):
        if not 0 < getattr(config, name) <= _LARGEST_RATE:
            raise ValueError(f"{name}: expected a positive number, got {getattr(config, name)}")
    for name in ("weight_decay", "focal_gamma", "bop_tau"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected 0 or more, got {value}")
    if config.bop_gamma is not None and not 0 < config.bop_gamma <= 1:
        raise ValueError(f"bop_gamma: expected 0 < bop_gamma <= 1, got {config.bop_gamma}")
    for name in ("distillation_weight", "milestone_factor"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}: expected 0 <= {name} <= 1, got {getattr(config, name)}")
    if config.weight_decay * config.learning_rate * config.real_rate_factor >= 1:
        raise ValueError(
            f"weight_decay: expected less than 1 / (learning_rate * real_rate_factor), "
            f"got {config.weight_decay}; a larger one turns weights round"
        )
    inside = all(0 < share < 1 for share in config.milestones)
    if not inside or list(config.milestones) != sorted(set(config.milestones)):
        raise ValueError(
            f"milestones: expected rising shares between 0 and 1, got {config.milestones}"
        )


def _check_pixels(config: TrainConfig) -> None:
    for name in ("shift_pixels", "cutout_pixels"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name}: expected 0 or more, got {getattr(config, name)}")
    if not 0 <= config.background <= 255:
        raise ValueError(f"background: expected 0 ... 255, got {config.background}")


def _check_combinations(config: TrainConfig) -> None:
    if config.label_smoothing and config.loss != "cross_entropy":
        raise ValueError(
            f"label_smoothing: expected 0 with loss {config.loss}, got {config.label_smoothing}; "
            "only cross_entropy takes soft labels here"
        )
    if config.optimizer != "adam" and config.real_weights_fraction:
        raise ValueError(
            f"real_weights_fraction: expected 0 with optimizer {config.optimizer}, which holds no "
            f"latent weights, got {config.real_weights_fraction}; use adam"
        )
    has_flip_options = config.bop_gamma is not None or config.bop_tau is not None
    if config.optimizer == "adam" and has_flip_options:
        raise ValueError(
            f"bop_gamma, bop_tau: expected none with optimizer adam, got {config.bop_gamma} and "
            f"{config.bop_tau}; set optimizer to bop or bop_2nd_order"
        )

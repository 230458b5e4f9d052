"""Training by logical shards: the same bytes on any number of workers."""

from bnn.training.config import TrainConfig, recommended_epochs
from bnn.training.diagnosis import NotFiniteError
from bnn.training.distillation import distillation_loss
from bnn.training.fitting import fit
from bnn.training.objectives import OBJECTIVES
from bnn.training.schedules import SCHEDULES
from bnn.training.shards import Gather
from bnn.training.step_info import StepInfo
from bnn.training.trainer import Trainer

__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "Gather",
    "NotFiniteError",
    "StepInfo",
    "TrainConfig",
    "Trainer",
    "distillation_loss",
    "fit",
    "recommended_epochs",
]

"""Binary neural networks: layers, training by logical shards, the integer network, export."""

from bnn import losses, metrics, optimizers
from bnn.evaluation import Agreement, Evaluation, agreement, evaluate, predict_logits
from bnn.export import export, to_model
from bnn.folding import integerize
from bnn.integer import IntegerLayer, IntegerNet
from bnn.models import BinaryConvNet
from bnn.quantizers import QUANTIZERS, approx_sign, sign, ste_sign
from bnn.summary import Summary, summary
from bnn.training import (
    StepInfo,
    TrainConfig,
    Trainer,
    fit,
    recommended_epochs,
)
from kernels import Runtime

__all__ = [
    "QUANTIZERS",
    "Agreement",
    "BinaryConvNet",
    "Evaluation",
    "IntegerLayer",
    "IntegerNet",
    "Runtime",
    "StepInfo",
    "Summary",
    "TrainConfig",
    "Trainer",
    "agreement",
    "approx_sign",
    "evaluate",
    "export",
    "fit",
    "integerize",
    "losses",
    "metrics",
    "optimizers",
    "predict_logits",
    "recommended_epochs",
    "sign",
    "ste_sign",
    "summary",
    "to_model",
]

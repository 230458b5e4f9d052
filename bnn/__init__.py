"""Binary neural networks: layers, training by logical shards, the integer network, export."""

from bnn import hybrid, layers, losses, metrics, models, optimizers, transfer
from bnn.binarization import Binarization, ModuleClassifier, binarize
from bnn.evaluation import (
    Agreement,
    Evaluation,
    LayerAgreement,
    agreement,
    evaluate,
    predict_logits,
)
from bnn.export import export, to_model
from bnn.hybrid import make_hybrid
from bnn.integer import IntegerNet
from bnn.layers import UnclippedWarning, warn_about_unclipped
from bnn.lowering import integerize
from bnn.models import MODELS, BinaryConvNet, Classifier, build_model
from bnn.onnx_export import export_onnx
from bnn.quantizers import (
    QUANTIZER_MODULES,
    QUANTIZERS,
    approx_sign,
    sign,
    ste_sign,
)
from bnn.summary import LayerSummary, Summary, summary
from bnn.training import (
    NotFiniteError,
    StepInfo,
    TrainConfig,
    Trainer,
    distillation_loss,
    fit,
    recommended_epochs,
)
from bnn.zoo import ZOO, Recipe
from kernels import Runtime

__all__ = [
    "MODELS",
    "QUANTIZERS",
    "QUANTIZER_MODULES",
    "ZOO",
    "Agreement",
    "Binarization",
    "BinaryConvNet",
    "Classifier",
    "Evaluation",
    "IntegerNet",
    "LayerAgreement",
    "LayerSummary",
    "ModuleClassifier",
    "NotFiniteError",
    "Recipe",
    "Runtime",
    "StepInfo",
    "Summary",
    "TrainConfig",
    "Trainer",
    "UnclippedWarning",
    "agreement",
    "approx_sign",
    "binarize",
    "build_model",
    "distillation_loss",
    "evaluate",
    "export",
    "export_onnx",
    "fit",
    "hybrid",
    "integerize",
    "layers",
    "losses",
    "make_hybrid",
    "metrics",
    "models",
    "optimizers",
    "predict_logits",
    "recommended_epochs",
    "sign",
    "ste_sign",
    "summary",
    "to_model",
    "transfer",
    "warn_about_unclipped",
]

"""Classifiers of one-bit weights and activations, a file per architecture, each with its twin."""

from bnn.models.binary_conv_net import BinaryConvNet, Stage, StageGeometry, stage_geometry
from bnn.models.binary_mlp import BinaryMLP
from bnn.models.binary_vgg import BinaryVGG
from bnn.models.bireal_resnet import BiRealResNet
from bnn.models.classifier import Classifier, check_images
from bnn.models.keyword_spotter import KeywordSpotter
from bnn.models.quicknet import QuickNet
from bnn.models.react_mobilenet import ReActMobileNet
from bnn.models.react_resnet import ReActResNet
from bnn.models.table import MODELS, build_model

__all__ = [
    "MODELS",
    "BiRealResNet",
    "BinaryConvNet",
    "BinaryMLP",
    "BinaryVGG",
    "Classifier",
    "KeywordSpotter",
    "QuickNet",
    "ReActMobileNet",
    "ReActResNet",
    "Stage",
    "StageGeometry",
    "build_model",
    "check_images",
    "stage_geometry",
]

"""Optimizers: the trainer's Adam, flips of binary weights, one per case, weight clipping."""

from bnn.optimizers.adam import Adam
from bnn.optimizers.bop import Bop
from bnn.optimizers.bop_2nd_order import Bop2ndOrder
from bnn.optimizers.case import CaseOptimizer, is_latent_weight
from bnn.optimizers.clipping import clip_after_step, clip_weights
from bnn.optimizers.flipping import FlipOptimizer
from bnn.optimizers.table import OPTIMIZERS

__all__ = [
    "OPTIMIZERS",
    "Adam",
    "Bop",
    "Bop2ndOrder",
    "CaseOptimizer",
    "FlipOptimizer",
    "clip_after_step",
    "clip_weights",
    "is_latent_weight",
]

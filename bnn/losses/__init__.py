"""Losses on logits and {0, 1} targets, one file per paper; what they share is in ``reduction``.

Every one is ``loss(logits, targets, weight=None, reduction="mean", *, mask=None,
normalize="elements", ...)``; one more loss = one function and one line in ``LOSSES``.
"""

from collections.abc import Callable

from torch import Tensor

from bnn.losses import resampling
from bnn.losses.cross_entropy import (
    binary_cross_entropy,
    effective_number_weights,
    effective_numbers,
    inverse_frequency_weights,
    label_weights,
    positive_weights,
    smooth_labels,
    unweighted_logits,
)
from bnn.losses.dbe_joint import dbe_joint
from bnn.losses.fbeta import fbeta_bce
from bnn.losses.focal import focal, initial_bias, softmax_focal
from bnn.losses.joint_multilabel import (
    RelationPenalty,
    joint_multilabel,
    relation_term,
    two_way_logits,
)
from bnn.losses.label_relations import correlation_relations, emotion_relations
from bnn.losses.margin import crammer_singer, hinge, logistic, squared_hinge
from bnn.losses.one_sided_margin import decision_boundary, one_sided_margin
from bnn.losses.reduction import Normalize, Reduction
from bnn.losses.unified_focal import unified_focal
from bnn.losses.xtreme_margin import xtreme_margin

__all__ = [
    "LOSSES",
    "Normalize",
    "Reduction",
    "RelationPenalty",
    "binary_cross_entropy",
    "correlation_relations",
    "crammer_singer",
    "dbe_joint",
    "decision_boundary",
    "effective_number_weights",
    "effective_numbers",
    "emotion_relations",
    "fbeta_bce",
    "focal",
    "hinge",
    "initial_bias",
    "inverse_frequency_weights",
    "joint_multilabel",
    "label_weights",
    "logistic",
    "one_sided_margin",
    "positive_weights",
    "relation_term",
    "resampling",
    "smooth_labels",
    "softmax_focal",
    "squared_hinge",
    "two_way_logits",
    "unified_focal",
    "unweighted_logits",
    "xtreme_margin",
]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "binary_cross_entropy": binary_cross_entropy,
    "crammer_singer": crammer_singer,
    "dbe_joint": dbe_joint,
    "fbeta_bce": fbeta_bce,
    "focal": focal,
    "hinge": hinge,
    "joint_multilabel": joint_multilabel,
    "logistic": logistic,
    "one_sided_margin": one_sided_margin,
    "softmax_focal": softmax_focal,
    "squared_hinge": squared_hinge,
    "unified_focal": unified_focal,
    "xtreme_margin": xtreme_margin,
}
"""Name to loss; the acceptance tests run over it."""

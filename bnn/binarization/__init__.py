"""From a user's own module to a binary one, layer by layer, with a report of what was done."""

from bnn.binarization.classifier import ModuleClassifier
from bnn.binarization.conversion import binarize
from bnn.binarization.counterparts import COUNTERPARTS, Counterpart
from bnn.binarization.report import Binarization, Row

__all__ = ["COUNTERPARTS", "Binarization", "Counterpart", "ModuleClassifier", "Row", "binarize"]

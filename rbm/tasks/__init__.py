"""Applications, arrays in and arrays out."""

from rbm.tasks.completion import Completion, complete, upper_half_known, wrong_pixels
from rbm.tasks.densities import bernoulli_mixture, digits_4x4
from rbm.tasks.pictures import filters, sample

__all__ = [
    "Completion",
    "bernoulli_mixture",
    "complete",
    "digits_4x4",
    "filters",
    "sample",
    "upper_half_known",
    "wrong_pixels",
]

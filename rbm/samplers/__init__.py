"""Markov chains as ``init``/``step`` pairs that see a model only through its conditionals."""

from rbm.samplers import clamped, gibbs
from rbm.samplers.clamped import ClampedState
from rbm.samplers.gibbs import GibbsInfo, GibbsState, LayeredModel

__all__ = ["ClampedState", "GibbsInfo", "GibbsState", "LayeredModel", "clamped", "gibbs"]

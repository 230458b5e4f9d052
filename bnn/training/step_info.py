"""The record of one step."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """What one step saw, before its update, and which signs the update changed."""

    step: int
    """Number of the step, from 0."""
    epoch: int
    """Number of the pass over the data, from 0."""
    loss: float
    """What is minimised, mean over the batch; by default cross-entropy in nats per image."""
    accuracy: float
    """Share of the batch classified correctly, in training mode."""
    learning_rate: float
    """Rate that the update used."""
    flip_ratio: float = 0.0
    """Share of all binary weights whose sign the update changed; 0 if there are none."""
    flip_ratios: dict[str, float] = field(default_factory=dict)
    """The same share for each binary weight tensor, by the name of the parameter."""

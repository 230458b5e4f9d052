"""The update of all parameters: Adam, and for binary weights flips if they are asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnn.optimizers import OPTIMIZERS, Adam, FlipOptimizer, is_latent_weight
from bnn.training.config import TrainConfig


class ParameterUpdate:
    r"""Moves parameters against their gradients; its whole state is named tensors.

    Latent weights are moved by Adam with rate :math:`\eta`, or flipped by one of ``OPTIMIZERS``;
    all others are moved by Adam with :math:`\eta' = \eta` ``real_rate_factor``. Of those, weights
    of two axes and more decay [1]_:

    .. math:: w \leftarrow (1 - \eta' \lambda) w + \Delta

    Parameters
    ----------
    named
        Parameters by name, in the order of their gradients.
    config
        Names the optimizer and gives its options.

    References
    ----------
    .. [1] Loshchilov, Hutter (2019), Decoupled weight decay regularization, arXiv:1711.05101.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], config: TrainConfig) -> None:
        self._parameters = list(named.values())
        self._is_latent = [is_latent_weight(name, p) for name, p in named.items()]
        self._latent = {name: p for name, p in named.items() if is_latent_weight(name, p)}
        self._flips: FlipOptimizer | None = None
        if config.optimizer != "adam" and self._latent:
            self._flips = _flip_optimizer(self._latent, config)
        self._is_flipped = [self._flips is not None and is_latent for is_latent in self._is_latent]
        n_moved = sum(
            parameter.numel()
            for parameter, is_flipped in zip(self._parameters, self._is_flipped, strict=True)
            if not is_flipped
        )
        self._adam = Adam(n_moved, device=self._parameters[0].device)
        self._real_rate_factor = config.real_rate_factor
        self._weight_decay = config.weight_decay

    def tensors(self) -> dict[str, Tensor]:
        """State by name: moments as they are, numbers as float64 tensors of shape ()."""
        found = {
            "adam.first_moment": self._adam.first_moment,
            "adam.second_moment": self._adam.second_moment,
        }
        for name, state in self._flip_states():
            for key, value in state.items():
                found[f"flips.{name}.{key}"] = torch.as_tensor(
                    value, dtype=None if isinstance(value, Tensor) else torch.float64
                )
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`tensors` of an equal update gave."""
        self._adam.first_moment.copy_(tensors["adam.first_moment"])
        self._adam.second_moment.copy_(tensors["adam.second_moment"])
        for name, state in self._flip_states():
            for key, value in state.items():
                saved = tensors[f"flips.{name}.{key}"]
                state[key] = value.copy_(saved) if isinstance(value, Tensor) else float(saved)

    def reset(self) -> None:
        """Forget all gradients, as before the first step."""
        self._adam.first_moment.zero_()
        self._adam.second_moment.zero_()
        for _, state in self._flip_states():
            _zero(state)

    @torch.no_grad()
    def apply(self, gradient: Tensor, *, step: int, rate: float, share: float) -> None:
        """Take in a gradient and move the parameters.

        Parameters
        ----------
        gradient
            Of all parameters in turn, shape (P,).
        step
            Steps since the last :meth:`reset`.
        rate
            Learning rate of Adam.
        share
            ``rate`` as a share of its peak, which the rate of the flips follows.
        """
        gradients = torch.split(gradient, [parameter.numel() for parameter in self._parameters])
        if self._flips is not None:
            self._flip(gradients, share)
            moved = [g for g, f in zip(gradients, self._is_flipped, strict=True) if not f]
            gradient = torch.cat(moved)
        change = self._adam.change(gradient, step, rate)
        options = zip(self._parameters, self._is_latent, self._is_flipped, strict=True)
        for parameter, is_latent, is_flipped in options:
            if is_flipped:
                continue
            part, change = change.tensor_split([parameter.numel()])
            factor = 1.0 if is_latent else self._real_rate_factor
            if self._weight_decay and not is_latent and parameter.dim() > 1:
                parameter.mul_(1 - rate * factor * self._weight_decay)
            parameter.add_(part.reshape(parameter.shape), alpha=factor)

    def _flip(self, gradients: Sequence[Tensor], share: float) -> None:
        assert self._flips is not None
        for group in self._flips.param_groups:
            group["lr"] = share
        for parameter, g, f in zip(self._parameters, gradients, self._is_flipped, strict=True):
            parameter.grad = g.reshape(parameter.shape) if f else None
        self._flips.step()
        self._flips.zero_grad()

    def _flip_states(self) -> list[tuple[str, dict[str, Any]]]:
        if self._flips is None:
            return []
        return [(name, self._flips.state[parameter]) for name, parameter in self._latent.items()]


def _flip_optimizer(latent: Mapping[str, nn.Parameter], config: TrainConfig) -> FlipOptimizer:
    """Build the optimizer, its state there from the start: a checkpoint of step 0 has all names."""
    given = {"gamma": config.bop_gamma, "tau": config.bop_tau}
    options = {name: value for name, value in given.items() if value is not None}
    flips = OPTIMIZERS[config.optimizer]([{"params": list(latent.items()), **options}])
    for parameter in latent.values():
        state = flips.state[parameter]
        flips.signal(torch.zeros_like(parameter, requires_grad=False), state, flips.param_groups[0])
        _zero(state)
    return flips


def _zero(state: dict[str, Any]) -> None:
    """All moments, and all weights of moments, start at 0."""
    for key, value in state.items():
        state[key] = value.zero_() if isinstance(value, Tensor) else 0.0

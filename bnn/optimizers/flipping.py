"""Optimizers that hold no latent weight: a binary weight stays or is flipped, nothing between."""

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from bnn.quantizers import sign


class FlipOptimizer(Optimizer, abc.ABC):
    r"""Flips a binary weight when a signal made of its gradients is strong and agrees with it.

    .. math:: w \leftarrow -w \quad\text{iff}\quad
              |s| > \tau \ \text{and}\ \operatorname{sign}(s) = \operatorname{sign}(w)

    with the signal s of the subclass. Both comparisons are exact: nothing flips at :math:`|s| =
    \tau`. A weight counts by its sign alone, ``sign(0) = +1``, and is ±1 after its first step, so a
    network that was initialised or trained with latent weights can be continued.

    Element by element, without random numbers: equal inputs give equal bytes. Options are read
    from ``param_groups`` at every step, which is how a schedule from outside sets them; ``lr``, 1
    at first, is a factor on gamma, so that the schedulers of ``torch.optim.lr_scheduler`` decay it.

    Parameters
    ----------
    params
        As for every ``torch.optim.Optimizer``; with ``named_parameters()`` errors name a parameter.
    defaults
        Options of a group, ``gamma`` and ``tau`` among them.

    Raises
    ------
    TypeError
        If a parameter is not float32 or float64: a moving average of short floats stands still
        once gamma times its change is below its rounding.
    ValueError
        If an option is outside its range.

    Notes
    -----
    The gradient is the pseudo-gradient at ±1. A quantizer whose slope vanishes there, such as
    ``approx_sign``, gives none and nothing would ever flip; ``ste_sign`` with a clip of 1 or more
    has slope 1. A parameter whose ``grad`` is None is left as it is.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, {**defaults, "lr": 1.0})

    @abc.abstractmethod
    def signal(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """Take ``gradient`` into ``state`` and return s, shape of the parameter."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group whose options, where given, replace the defaults; errors as in the class."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take in the gradients and flip.

        Parameters
        ----------
        closure
            Computes the loss anew with its gradients; optional.

        Returns
        -------
        float or None
            What ``closure`` returned.

        Raises
        ------
        RuntimeError
            If a gradient is sparse or not finite; no weight and no moment is changed then. A moment
            that is not a number would freeze its weight for good, without a sign of it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _check_rate(group)
            for number, parameter in enumerate(group["params"]):
                _check_gradient(_name(group, number), parameter.grad)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    s = self.signal(parameter.grad, self.state[parameter], group)
                    signs = sign(parameter)
                    is_flipped = (s.abs() > group["tau"]) & (sign(s) == signs)
                    parameter.copy_(torch.where(is_flipped, -signs, signs))
        return loss

    def _check_group(self, group: dict[str, Any]) -> None:
        check_rate("gamma", group["gamma"])
        if not 0 <= group["tau"] < torch.inf:
            raise ValueError(f"tau: expected 0 <= tau < inf, got {group['tau']}")
        for number, parameter in enumerate(group["params"]):
            if parameter.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"{_name(group, number)}: expected float32 or float64, got {parameter.dtype}; "
                    "keep binary weights in float32 and convert in the forward pass"
                )


def rate(group: dict[str, Any]) -> float:
    """Rate of the first moment at this step: gamma times its schedule's factor ``lr``."""
    return float(group["gamma"] * group["lr"])


def check_rate(name: str, value: float) -> None:
    """Refuse a rate of a moving average that is not in (0, 1].

    Raises
    ------
    ValueError
        If it is not.
    """
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected 0 < {name} <= 1, got {value}")


def _check_rate(group: dict[str, Any]) -> None:
    """A schedule may end at 0, where the moments stand still, but not leave [0, 1]."""
    if not 0 <= rate(group) <= 1:
        raise ValueError(
            f"gamma * lr: expected 0 to 1, got {group['gamma']} * {group['lr']}; "
            "lr is a factor on gamma that starts at 1"
        )


def _check_gradient(name: str, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if gradient.is_sparse:
        raise RuntimeError(f"{name}: expected a dense gradient, got a sparse one; use sparse=False")
    if not torch.isfinite(gradient).all():
        raise RuntimeError(f"{name}: expected a finite gradient, got inf or nan; check the loss")


def _name(group: dict[str, Any], number: int) -> str:
    return str(group["param_names"][number]) if "param_names" in group else f"parameter {number}"

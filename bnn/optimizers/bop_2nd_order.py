"""Bop2ndOrder: Bop with its moving average in units of the gradient's own spread."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bnn.optimizers.flipping import FlipOptimizer, check_rate, rate


class Bop2ndOrder(FlipOptimizer):
    r"""Bop normalised by the second raw moment, biased or bias-corrected [1]_.

    .. math:: m \leftarrow (1-\gamma) m + \gamma g, \quad
              v \leftarrow (1-\sigma) v + \sigma g^2, \quad
              s = \frac{m}{\sqrt v + \epsilon}, \quad
              w \leftarrow -w \ \text{iff}\ |s| > \tau
              \ \text{and}\ \operatorname{sign}(s) = \operatorname{sign}(w)

    The unbiased variant puts :math:`\hat m = m / c_m` and :math:`\hat v = v / c_v` in place of m
    and v, where c is the same moving average of the constant 1, as in Adam:

    .. math:: c_m \leftarrow (1-\gamma) c_m + \gamma = 1 - (1-\gamma)^t, \qquad
              c_v \leftarrow (1-\sigma) c_v + \sigma = 1 - (1-\sigma)^t

    The powers hold for constant rates, the recurrences also for scheduled ones. A factor on the
    loss cancels (up to epsilon), so unlike that of Bop this tau does not depend on the batch size.

    Parameters
    ----------
    params
        Binary weights, float32 or float64.
    gamma
        Rate of the first moment, in (0, 1]; scheduled as that of :class:`~bnn.optimizers.Bop`.
    sigma
        Rate of the second moment, in (0, 1].
    tau
        Threshold of the normalised moving average, 0 or more, without unit.
    unbiased
        Correct both moments for their start at 0.
    eps
        Added to the root of the second moment, 0 or more.

    Raises
    ------
    TypeError, ValueError
        As :class:`~bnn.optimizers.FlipOptimizer`.

    Notes
    -----
    Formula, epsilon and defaults of the biased variant are those of the authors' public code, whose
    CIFAR-10 runs take gamma 1e-7, sigma 1e-3, tau 1e-6. That code names the unbiased variant but
    does not contain it: its correction is re-derived here from Adam, to which the paper's abstract
    likens it, and its defaults are simply those of the biased one. With gamma below sigma the
    biased signal starts at gamma / sqrt(sigma) where the unbiased one starts at 1, so they
    need different tau. No published accuracy was reproduced.

    References
    ----------
    .. [1] Suarez-Ramirez et al. (2021), A Bop and beyond: a second order optimizer for binarized
       neural networks, arXiv:2104.05124.
    """

    def __init__(
        self,
        params: ParamsT,
        gamma: float = 1e-6,
        sigma: float = 1e-2,
        tau: float = 1e-6,
        *,
        unbiased: bool = False,
        eps: float = 1e-10,
    ) -> None:
        options = {"gamma": gamma, "sigma": sigma, "tau": tau, "unbiased": unbiased, "eps": eps}
        super().__init__(params, options)

    def signal(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """Move ``state["first_moment"]`` and ``state["second_moment"]``; return their ratio."""
        if not state:
            state["first_moment"] = torch.zeros_like(gradient)
            state["second_moment"] = torch.zeros_like(gradient)
            state["first_weight"] = state["second_weight"] = 0.0
        gamma, sigma = rate(group), group["sigma"]
        first_moment: Tensor = state["first_moment"].lerp_(gradient, gamma)
        second_moment: Tensor = state["second_moment"].lerp_(gradient * gradient, sigma)
        # c in the formulas; by its recurrence it is exact where 1 - (1 - gamma)**t would cancel.
        state["first_weight"] += gamma * (1.0 - state["first_weight"])
        state["second_weight"] += sigma * (1.0 - state["second_weight"])
        if group["unbiased"]:
            # A schedule that starts at 0 leaves both the moment and its weight there.
            first_moment = first_moment / (state["first_weight"] or 1.0)
            second_moment = second_moment / state["second_weight"]
        signal: Tensor = first_moment / (second_moment.sqrt() + group["eps"])
        return signal

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_rate("sigma", group["sigma"])
        if not 0 <= group["eps"] < torch.inf:
            raise ValueError(f"eps: expected 0 <= eps < inf, got {group['eps']}")

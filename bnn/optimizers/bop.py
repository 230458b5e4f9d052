"""Bop, the first optimizer without latent weights."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bnn.optimizers.flipping import FlipOptimizer, rate


class Bop(FlipOptimizer):
    r"""Binary optimizer: flips against a moving average of the gradient [1]_.

    .. math:: m \leftarrow (1-\gamma) m + \gamma g, \qquad
              w \leftarrow -w \ \text{iff}\ |m| > \tau
              \ \text{and}\ \operatorname{sign}(m) = \operatorname{sign}(w)

    Gamma acts like a learning rate: the larger, the faster and the noisier. Tau is the inertia of a
    weight and lives on the gradient's scale: for the same flips a loss summed over a batch of B
    needs B times the tau of its mean. Only the binary weights belong here; see
    :class:`~bnn.optimizers.CaseOptimizer` for the others.

    Parameters
    ----------
    params
        Binary weights, float32 or float64.
    gamma
        Adaptivity rate, in (0, 1]; decayed from outside through ``param_groups``: ``gamma``
        itself or its factor ``lr``.
    tau
        Threshold of the moving average, 0 or more, in units of the gradient.

    Raises
    ------
    TypeError, ValueError
        As :class:`~bnn.optimizers.FlipOptimizer`.

    Notes
    -----
    Defaults are those of the authors' code. There, sign(-sign(w m - tau) w) also gives +1 when
    w m equals tau, whatever w was; here the condition is an explicit mask and nothing flips. No
    published accuracy was reproduced.

    References
    ----------
    .. [1] Helwegen et al. (2019), Latent weights do not exist, arXiv:1906.02107.
    """

    def __init__(self, params: ParamsT, gamma: float = 1e-4, tau: float = 1e-8) -> None:
        super().__init__(params, {"gamma": gamma, "tau": tau})

    def signal(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """Move m, ``state["first_moment"]``, towards ``gradient`` and return it."""
        if not state:
            state["first_moment"] = torch.zeros_like(gradient)
        first_moment: Tensor = state["first_moment"]
        return first_moment.lerp_(gradient, rate(group))

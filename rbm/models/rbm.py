r"""Restricted Boltzmann machine with Bernoulli units: parameters, energy, conditionals.

.. math:: E(v, h) = -a^\top v - b^\top h - v^\top W h, \qquad p(v, h) = e^{-E(v, h)} / Z

with v, h in {0, 1}, W of shape (n_visible, n_hidden). Energies are in nats, temperature is 1.
"""

import torch
from torch import Tensor

from kernels.philox import Purpose, normal

# softplus(x) = x beyond this: exp(-40) is below the rounding of 40 in float64.
_SOFTPLUS_LINEAR = 40.0


class RBM:
    """Bernoulli restricted Boltzmann machine.

    Parameters
    ----------
    n_visible, n_hidden
        Number of units of the two layers.
    seed
        Of the initial weights, 64-bit.
    weight_std
        Standard deviation of the initial weights, which are normal with mean 0; both biases
        start at 0.

    Attributes
    ----------
    weights
        Shape (n_visible, n_hidden), float32.
    visible_bias
        Shape (n_visible,).
    hidden_bias
        Shape (n_hidden,).

    Raises
    ------
    ValueError
        If a size is not positive or ``weight_std`` is negative.

    References
    ----------
    .. [1] Hinton (2012), A practical guide to training restricted Boltzmann machines.
    """

    weights: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor

    def __init__(
        self, n_visible: int, n_hidden: int, *, seed: int = 0, weight_std: float = 0.01
    ) -> None:
        for name, size in (("n_visible", n_visible), ("n_hidden", n_hidden)):
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        if not weight_std >= 0.0:
            raise ValueError(f"weight_std: expected weight_std >= 0, got {weight_std}")
        draws = normal(seed, Purpose.INITIAL_WEIGHTS, n_visible * n_hidden)
        self.weights = torch.from_numpy(draws).reshape(n_visible, n_hidden) * weight_std
        self.visible_bias = torch.zeros(n_visible)
        self.hidden_bias = torch.zeros(n_hidden)

    @classmethod
    def from_parameters(cls, weights: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> "RBM":
        """Build a machine that holds the given tensors (not copies), all of one dtype and device.

        Raises
        ------
        ValueError
            If shapes or dtypes do not fit together.
        """
        if weights.ndim != 2:
            raise ValueError(f"weights: expected two axes, got shape {tuple(weights.shape)}")
        for name, bias, size in (
            ("visible_bias", visible_bias, weights.shape[0]),
            ("hidden_bias", hidden_bias, weights.shape[1]),
        ):
            if bias.shape != (size,) or bias.dtype != weights.dtype:
                raise ValueError(
                    f"{name}: expected shape ({size},) and {weights.dtype} as in weights, "
                    f"got {tuple(bias.shape)} and {bias.dtype}"
                )
        machine = cls.__new__(cls)
        machine.weights, machine.visible_bias, machine.hidden_bias = (
            weights,
            visible_bias,
            hidden_bias,
        )
        return machine

    @property
    def n_visible(self) -> int:
        """Number of visible units."""
        return self.weights.shape[0]

    @property
    def n_hidden(self) -> int:
        """Number of hidden units."""
        return self.weights.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of everything computed from them."""
        return self.weights.dtype

    def to(self, target: torch.dtype | torch.device) -> "RBM":
        """Return the machine with parameters of another dtype or on another device."""
        return RBM.from_parameters(
            self.weights.to(target), self.visible_bias.to(target), self.hidden_bias.to(target)
        )

    def energy(self, visible: Tensor, hidden: Tensor) -> Tensor:
        """E(v, h): shapes (..., n_visible) and (..., n_hidden) -> (...), in nats.

        Raises
        ------
        ValueError
            If a last axis does not fit the machine.
        """
        v, h = self._rows("visible", visible), self._rows("hidden", hidden)
        return -(v @ self.visible_bias) - h @ self.hidden_bias - ((v @ self.weights) * h).sum(-1)

    def free_energy(self, visible: Tensor) -> Tensor:
        r"""Negative log of the unnormalised marginal of the visible units.

        .. math:: F(v) = -a^\top v - \sum_j \log(1 + e^{b_j + (W^\top v)_j})

        Parameters
        ----------
        visible
            Shape (..., n_visible), values in {0, 1}, any dtype.

        Returns
        -------
        Tensor
            Shape (...), in nats, dtype of the parameters.

        Raises
        ------
        ValueError
            If the last axis of ``visible`` is not ``n_visible``.
        """
        v = self._rows("visible", visible)
        return -(v @ self.visible_bias) - softplus(self.hidden_field(v)).sum(dim=-1)

    def hidden_free_energy(self, hidden: Tensor) -> Tensor:
        r"""Negative log of the unnormalised marginal of the hidden units, shape (...), in nats.

        .. math:: F(h) = -b^\top h - \sum_i \log(1 + e^{a_i + (W h)_i})
        """
        h = self._rows("hidden", hidden)
        return -(h @ self.hidden_bias) - softplus(self.visible_field(h)).sum(dim=-1)

    def hidden_field(self, visible: Tensor) -> Tensor:
        """Argument b + W'v of the hidden sigmoid: (..., n_visible) -> (..., n_hidden)."""
        return self._rows("visible", visible) @ self.weights + self.hidden_bias

    def visible_field(self, hidden: Tensor) -> Tensor:
        """Argument a + W h of the visible sigmoid: (..., n_hidden) -> (..., n_visible)."""
        return self._rows("hidden", hidden) @ self.weights.T + self.visible_bias

    def p_hidden(self, visible: Tensor) -> Tensor:
        """P(h_j = 1 | v): shape (..., n_visible) -> (..., n_hidden)."""
        return torch.sigmoid(self.hidden_field(visible))

    def p_visible(self, hidden: Tensor) -> Tensor:
        """P(v_i = 1 | h): shape (..., n_hidden) -> (..., n_visible)."""
        return torch.sigmoid(self.visible_field(hidden))

    def _rows(self, name: str, states: Tensor) -> Tensor:
        """``states`` in the parameters' dtype, after a check of the last axis."""
        size = self.n_visible if name == "visible" else self.n_hidden
        if states.ndim < 1 or states.shape[-1] != size:
            raise ValueError(
                f"{name}: expected last axis {size} (n_{name}), got shape {tuple(states.shape)}; "
                "flatten images first"
            )
        return states.to(self.dtype)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) without overflow, to full precision in float32 and float64."""
    return torch.nn.functional.softplus(x, threshold=_SOFTPLUS_LINEAR)

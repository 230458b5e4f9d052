r"""Restricted Boltzmann machine: one hidden layer, so that either layer can be summed out.

.. math:: E(v, h) = -a^\top v - b^\top h - v^\top W h, \qquad p(v, h) = e^{-E(v, h)} / Z

for bits v, h in {0, 1}, W of shape (n_visible, n_hidden); other kinds of units put their
statistics T(v), T(h) in the place of v and h (:mod:`rbm.units`). Energies are in nats.
"""

from typing import Self

from torch import Tensor

from rbm.conditionals import Conditional
from rbm.models.layered import LayeredMachine
from rbm.units import BERNOULLI, Units


class RBM(LayeredMachine):
    """Restricted Boltzmann machine.

    Parameters
    ----------
    n_visible, n_hidden
        Number of units of the two layers.
    visible_units, hidden_units
        Kind of the units, from :mod:`rbm.units`; bits {0, 1} by default.
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

    def __init__(
        self,
        n_visible: int,
        n_hidden: int,
        *,
        visible_units: Units = BERNOULLI,
        hidden_units: Units = BERNOULLI,
        seed: int = 0,
        weight_std: float = 0.01,
    ) -> None:
        units = (visible_units, hidden_units)
        super().__init__((n_visible, n_hidden), units=units, seed=seed, weight_std=weight_std)

    @classmethod
    def from_parameters(
        cls,
        weights: Tensor,
        visible_bias: Tensor,
        hidden_bias: Tensor,
        *,
        visible_units: Units = BERNOULLI,
        hidden_units: Units = BERNOULLI,
    ) -> Self:
        """Build a machine that holds the given tensors (not copies), all of one dtype and device.

        Raises
        ------
        ValueError
            If shapes or dtypes do not fit together.
        """
        units = (visible_units, hidden_units)
        return cls.from_layers([weights], [visible_bias, hidden_bias], units)

    @property
    def weights(self) -> Tensor:
        """W, shape (n_visible, n_hidden)."""
        return self.layer_weights[0]

    @property
    def visible_bias(self) -> Tensor:
        """Shape (n_visible,)."""
        return self.layer_biases[0]

    @property
    def hidden_bias(self) -> Tensor:
        """Shape (n_hidden,)."""
        return self.layer_biases[1]

    @property
    def n_hidden(self) -> int:
        """Number of hidden units."""
        return self.layer_sizes[1]

    def free_energy(self, visible: Tensor) -> Tensor:
        r"""Negative log of the unnormalised marginal of the visible units.

        .. math:: F(v) = -a^\top v - \sum_j \log(1 + e^{b_j + (W^\top v)_j})

        for bits; in general the last term is the log-normaliser of the hidden units.

        Parameters
        ----------
        visible
            Shape (..., n_visible), any dtype.

        Returns
        -------
        Tensor
            Shape (...), in nats, dtype of the parameters.

        Raises
        ------
        ValueError
            If the last axis of ``visible`` is not ``n_visible``.
        """
        return self._marginal(0, visible)

    def hidden_free_energy(self, hidden: Tensor) -> Tensor:
        r"""Negative log of the unnormalised marginal of the hidden units, shape (...), in nats.

        .. math:: F(h) = -b^\top h - \sum_i \log(1 + e^{a_i + (W h)_i})
        """
        return self._marginal(1, hidden)

    def _marginal(self, kept: int, states: Tensor) -> Tensor:
        x = self._states(kept, states)
        own = (self.units[kept].statistics(x) * self.layer_biases[kept]).sum(dim=-1)
        field = self.hidden_field(x) if kept == 0 else self.visible_field(x)
        summed_out = self.units[1 - kept].log_normaliser(field)
        return -self.units[kept].log_base(x) - own - summed_out

    def hidden_field(self, visible: Tensor) -> Tensor:
        """Field b + W'T(v) of the hidden units: (..., n_visible) -> (..., n_hidden)."""
        return self.field(1, (visible, visible))

    def visible_field(self, hidden: Tensor) -> Tensor:
        """Field a + W T(h) of the visible units: (..., n_hidden) -> (..., n_visible)."""
        return self.field(0, (hidden, hidden))

    def hidden_given(self, visible: Tensor) -> Conditional:
        """Distribution of the hidden units given visible states."""
        return self.units[1].conditional(self.hidden_field(visible))

    def visible_given(self, hidden: Tensor) -> Conditional:
        """Distribution of the visible units given hidden states."""
        return self.units[0].conditional(self.visible_field(hidden))

    def p_hidden(self, visible: Tensor) -> Tensor:
        """P(h_j = 1 | v), in general E[h_j | v]: (..., n_visible) -> (..., n_hidden)."""
        return self.hidden_given(visible).mean

    def p_visible(self, hidden: Tensor) -> Tensor:
        """P(v_i = 1 | h), in general E[v_i | h]: (..., n_hidden) -> (..., n_visible)."""
        return self.visible_given(hidden).mean

r"""Machine of layers, each connected to its neighbours: parameters, energy and conditionals.

.. math::
    E(x_0, \ldots, x_L) = -\sum_l \left[ \log b_l(x_l) + c_l^\top T_l(x_l) \right]
    - \sum_l T_l(x_l)^\top W_l\, T_{l+1}(x_{l+1}), \qquad p = e^{-E} / Z

Layer 0 is visible. One hidden layer makes a restricted Boltzmann machine, more a deep one; kinds
of units (b, T) are those of :mod:`rbm.units`. Energies are in nats, temperature is 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from kernels.philox import Purpose, normal
from rbm.conditionals import Conditional
from rbm.units import BERNOULLI, Units


class LayeredMachine:
    """Boltzmann machine whose units are connected between neighbouring layers only.

    Parameters
    ----------
    sizes
        Units of each layer, visible first; at least two layers.
    units
        Kind of each layer; bits {0, 1} if None.
    seed
        Of the initial weights, 64-bit; matrix l is parameter number l.
    weight_std
        Standard deviation of the initial weights, which are normal with mean 0; biases start at 0.

    Attributes
    ----------
    layer_weights
        W_l, shape (sizes[l], sizes[l + 1]), float32.
    layer_biases
        c_l, shape (sizes[l],).
    units
        Kind of each layer.

    Raises
    ------
    ValueError
        If a size is not positive, there are fewer than two, or ``weight_std`` is negative.
    """

    layer_weights: tuple[Tensor, ...]
    layer_biases: tuple[Tensor, ...]
    units: tuple[Units, ...]

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        units: Sequence[Units] | None = None,
        seed: int = 0,
        weight_std: float = 0.01,
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"sizes: expected at least two layers, got {list(sizes)}")
        for name, size in zip(_layer_names(len(sizes)), sizes, strict=True):
            if size < 1:
                raise ValueError(f"n_{name}: expected at least 1, got {size}")
        if not weight_std >= 0.0:
            raise ValueError(f"weight_std: expected weight_std >= 0, got {weight_std}")
        weights = []
        for number, (below, above) in enumerate(pairwise(sizes)):
            draws = normal(seed, Purpose.INITIAL_WEIGHTS, below * above, index=number)
            weights.append(torch.from_numpy(draws).reshape(below, above) * weight_std)
        self._hold(weights, [torch.zeros(size) for size in sizes], units)

    @classmethod
    def from_layers(
        cls,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        units: Sequence[Units] | None = None,
    ) -> Self:
        """Build a machine that holds the given tensors (not copies), all of one dtype and device.

        A bias may have rows of its own for every chain, shape (n_rows, size).

        Raises
        ------
        ValueError
            If shapes or dtypes do not fit together.
        """
        machine = cls.__new__(cls)
        machine._hold(weights, biases, units)
        return machine

    def _hold(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], units: Sequence[Units] | None
    ) -> None:
        _check_parameters(weights, biases)
        self.layer_weights, self.layer_biases = tuple(weights), tuple(biases)
        self.units = tuple(units) if units else (BERNOULLI,) * len(biases)
        if len(self.units) != len(biases):
            raise ValueError(f"units: expected {len(biases)} layers, got {len(self.units)}")

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer, visible first."""
        return tuple(bias.shape[-1] for bias in self.layer_biases)

    @property
    def n_visible(self) -> int:
        """Number of visible units."""
        return self.layer_sizes[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of everything computed from them."""
        return self.layer_weights[0].dtype

    def to(self, target: torch.dtype | torch.device) -> Self:
        """Return the machine with parameters of another dtype or on another device."""
        return self.from_layers(
            [weights.to(target) for weights in self.layer_weights],
            [bias.to(target) for bias in self.layer_biases],
            self.units,
        )

    def parameters(self) -> dict[str, Tensor]:
        """All parameters by name: the tensors themselves, to be updated in place."""
        names = _layer_names(len(self.layer_biases))
        n_weights = len(self.layer_weights)
        numbers = [""] if n_weights == 1 else [f"_{number + 1}" for number in range(n_weights)]
        weights = {f"weights{n}": w for n, w in zip(numbers, self.layer_weights, strict=True)}
        return weights | {f"{n}_bias": b for n, b in zip(names, self.layer_biases, strict=True)}

    def tempered(self, beta: float, base_bias: Tensor | None = None) -> Self:
        r"""Return the machine at inverse temperature beta, on the way from independent units.

        .. math:: W_l \to \beta W_l, \quad c_l \to \beta c_l, \quad
            c_0 \to (1 - \beta)\, a^A + \beta c_0

        Parameters
        ----------
        beta
            0 (independent visible units with fields a^A) to 1 (the machine).
        base_bias
            a^A, shape (n_visible,); zeros if None.
        """
        biases = [beta * bias for bias in self.layer_biases]
        if base_bias is not None:
            biases[0] = biases[0] + (1.0 - beta) * base_bias.to(biases[0])
        return self.from_layers([beta * w for w in self.layer_weights], biases, self.units)

    def energy(self, *layers: Tensor) -> Tensor:
        """E of states of all layers, shapes (..., size) each -> (...), in nats.

        Raises
        ------
        ValueError
            If a last axis does not fit the machine.
        """
        states = [self._states(number, layer) for number, layer in enumerate(layers)]
        statistics = [u.statistics(x) for u, x in zip(self.units, states, strict=True)]
        total = -sum(
            (
                units.log_base(x) + (t * bias).sum(dim=-1)
                for units, x, t, bias in zip(
                    self.units, states, statistics, self.layer_biases, strict=True
                )
            ),
            start=statistics[0].new_zeros(()),
        )
        for number, weights in enumerate(self.layer_weights):
            total = total - ((statistics[number] @ weights) * statistics[number + 1]).sum(dim=-1)
        return total

    def field(self, layer: int, states: Sequence[Tensor]) -> Tensor:
        """Natural parameters of a layer given its neighbours, shape (..., sizes[layer])."""
        total = self.layer_biases[layer]
        if layer > 0:
            below = self._states(layer - 1, states[layer - 1])
            weights = self.layer_weights[layer - 1]
            total = self.units[layer - 1].statistics(below) @ weights + total
        if layer < len(self.layer_weights):
            above = self._states(layer + 1, states[layer + 1])
            total = self.units[layer + 1].statistics(above) @ self.layer_weights[layer].T + total
        return total

    def given(self, layer: int, states: Sequence[Tensor]) -> Conditional:
        """Distribution of a layer given its neighbours; other entries of ``states`` are not read.

        Parameters
        ----------
        layer
            0 is the visible one.
        states
            One per layer, shape (n_rows, size).
        """
        return self.units[layer].conditional(self.field(layer, states))

    def independent(self, base_bias: Tensor, n_rows: int) -> Conditional:
        """Visible units with the given fields and no connections, ``n_rows`` alike."""
        return self.units[0].conditional(base_bias.to(self.layer_biases[0]).expand(n_rows, -1))

    def base_bias(self, visible: Tensor) -> Tensor:
        """Fields of independent visible units fitted to rows of data, shape (n_visible,), float64.

        The start of training and of annealing; smoothed, so that they are finite.
        """
        return self.units[0].base_field(visible)

    def check_visible(self, visible: Tensor) -> None:
        """Refuse what is not rows of states of the visible units.

        Raises
        ------
        ValueError
            If there are no rows, the width does not fit, or a value is not one of the units'.
        """
        if visible.ndim != 2 or visible.shape[0] < 1:
            raise ValueError(
                f"visible: expected at least one row of {self.n_visible} values, "
                f"got shape {tuple(visible.shape)}"
            )
        self.units[0].check("visible", self._states(0, visible))

    def _states(self, layer: int, states: Tensor) -> Tensor:
        """``states`` in the parameters' dtype, after a check of the last axis."""
        size = self.layer_sizes[layer]
        if states.ndim < 1 or states.shape[-1] != size:
            name = _layer_names(len(self.layer_biases))[layer]
            raise ValueError(
                f"{name}: expected last axis {size} (n_{name}), got shape {tuple(states.shape)}; "
                "flatten images first"
            )
        return states.to(self.dtype)


def _layer_names(n_layers: int) -> list[str]:
    """visible, hidden; or visible, hidden_1, hidden_2, ..."""
    if n_layers == 2:
        return ["visible", "hidden"]
    return ["visible", *(f"hidden_{number}" for number in range(1, n_layers))]


def _check_parameters(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    if len(weights) < 1 or len(biases) != len(weights) + 1:
        raise ValueError(
            "weights, biases: expected one bias more than weights, "
            f"got {len(weights)} and {len(biases)}"
        )
    dtype = weights[0].dtype
    for number, matrix in enumerate(weights):
        if matrix.ndim != 2:
            raise ValueError(f"weights: expected two axes, got shape {tuple(matrix.shape)}")
        if number and matrix.shape[0] != weights[number - 1].shape[1]:
            raise ValueError(
                f"weights: expected {weights[number - 1].shape[1]} rows in matrix {number}, "
                f"got shape {tuple(matrix.shape)}"
            )
    sizes = [weights[0].shape[0], *(matrix.shape[1] for matrix in weights)]
    for name, bias, size in zip(_layer_names(len(sizes)), biases, sizes, strict=True):
        if bias.ndim not in (1, 2) or bias.shape[-1] != size or bias.dtype != dtype:
            raise ValueError(
                f"{name}_bias: expected shape ({size},) and {dtype} as in weights, "
                f"got {tuple(bias.shape)} and {bias.dtype}"
            )

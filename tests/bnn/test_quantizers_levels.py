"""Quantizers with other values than ±1: {0, 1}, {-1, 0, 1} and DoReFa's levels."""

import math

import pytest
import torch

from bnn.quantizers import (
    DoReFa,
    SteTern,
    dorefa_activations,
    dorefa_weights,
    ste_heaviside,
    ste_tern,
    twn_threshold,
)
from kernels import Purpose, normal

FLOAT64_TOLERANCE = 1e-12  # a few roundings of numbers near 1


def test_heaviside_is_off_at_zero() -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-30, 1.0, torch.nan])
    assert ste_heaviside(x).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def test_ternary_values_at_its_thresholds() -> None:
    x = torch.tensor([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    assert ste_tern(x, 0.25).tolist() == [-1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert ste_tern(x, 0.0).tolist() == [-1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0]
    assert ste_tern(torch.tensor([0.05, 0.051, -0.051])).tolist() == [0.0, 1.0, -1.0]


def test_twn_threshold_is_seven_tenths_of_the_mean_magnitude() -> None:
    weights = torch.tensor([[-4.0, 1.0], [2.0, -1.0]], requires_grad=True)
    assert float(twn_threshold(weights)) == pytest.approx(1.4)
    y = SteTern("twn")(weights)
    assert y.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    (gradient,) = torch.autograd.grad(y.sum(), weights)
    assert gradient.tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_twn_zeros_of_normal_weights() -> None:
    # Delta = 0.7 sqrt(2/pi) = 0.5585 standard deviations; P(|w| <= 0.5585) = 0.4235.
    weights = torch.from_numpy(normal(1, Purpose.DIAGNOSTICS, 100_000)[0])
    n_zero = int((ste_tern(weights, "twn") == 0).sum())
    expected = math.erf(0.7 / math.sqrt(math.pi))
    assert abs(n_zero / 100_000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 100_000)


@pytest.mark.parametrize("threshold", [-0.1, "best"])
def test_ternary_threshold_is_checked(threshold) -> None:
    with pytest.raises(ValueError, match="threshold: expected a number >= 0 or 'twn', got"):
        SteTern(threshold)
    with pytest.raises(ValueError, match="threshold: expected"):
        ste_tern(torch.zeros(1), threshold)


def test_dorefa_activations_round_to_the_nearest_level() -> None:
    x = torch.tensor([-3.0, 0.0, 0.1, 0.2, 0.4, 0.8, 0.9, 1.0, 7.0])
    assert (3 * dorefa_activations(x)).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    # Half way between two levels: the even one.
    assert dorefa_activations(torch.tensor([0.5]), 1).tolist() == [0.0]
    assert (3 * dorefa_activations(torch.tensor([0.5]), 2)).tolist() == [2.0]


@pytest.mark.parametrize("n_bits", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", ["activations", "weights"])
def test_dorefa_levels(n_bits: int, mode) -> None:
    quantizer = DoReFa(n_bits, mode)
    low = 0.0 if mode == "activations" else -1.0
    x = torch.linspace(-3, 3, 10_001, dtype=torch.float64)
    values = quantizer(x).unique()
    assert quantizer.n_bits == n_bits
    assert values.tolist() == list(quantizer.levels)
    assert (len(values), float(values[0]), float(values[-1])) == (2**n_bits, low, 1.0)
    steps = values.diff()
    assert float((steps - (1 - low) / (2**n_bits - 1)).abs().max()) < FLOAT64_TOLERANCE


def test_dorefa_weights_formula() -> None:
    weights = torch.tensor([-2.0, -0.3, 0.0, 0.2, 1.0], dtype=torch.float64)
    largest = math.tanh(2.0)
    expected = [
        2 * round(3 * (math.tanh(w) / (2 * largest) + 0.5)) / 3 - 1 for w in weights.tolist()
    ]
    assert dorefa_weights(weights, 2).tolist() == pytest.approx(expected, abs=FLOAT64_TOLERANCE)
    assert dorefa_weights(torch.zeros(3), 1).tolist() == [-1.0] * 3  # half way, the even level


def test_dorefa_weights_gradient() -> None:
    weights = torch.tensor([-2.0, -0.3, 0.0, 0.2, 1.0], dtype=torch.float64, requires_grad=True)
    factor = torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(dorefa_weights(weights), weights, factor)
    slopes = [(1 - math.tanh(w) ** 2) / math.tanh(2.0) for w in weights.tolist()]
    expected = [f * s for f, s in zip(factor.tolist(), slopes, strict=True)]
    assert gradient.tolist() == pytest.approx(expected, abs=FLOAT64_TOLERANCE)


def test_dorefa_options_are_checked() -> None:
    for n_bits in (0, 9):
        with pytest.raises(ValueError, match=f"n_bits: expected 1 to 8, got {n_bits}"):
            DoReFa(n_bits)
    with pytest.raises(ValueError, match=r"mode: expected one of .*, got 'gradients'"):
        DoReFa(2, "gradients")

"""Quantizers whose gradient runs through statistics: XNOR-Net, IR-Net, ReCU."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bnn.quantizers import (
    IRNetSign,
    MagnitudeAware,
    ReCUActivations,
    ReCUSign,
    approx_sign,
    ede_schedule,
    ede_sign,
    irnet_sign,
    magnitude,
    magnitude_aware_sign,
    recu_schedule,
    recu_sign,
    sign,
)
from kernels import Purpose, normal, uniform

FLOAT64_TOLERANCE = 1e-12  # a few roundings of numbers near 1
SCHEDULE_TOLERANCE = 1e-5  # of the published values, which have six digits


def normals(*shape: int, index: int = 0) -> Tensor:
    values = normal(5, Purpose.DIAGNOSTICS, math.prod(shape), index=index)
    return torch.from_numpy(values).double().reshape(shape)


def gradient_of(function, x: Tensor, factor: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, factor)
    return gradient


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=FLOAT64_TOLERANCE)


def test_magnitude_and_signs_are_the_closest_scaled_signs() -> None:
    weights = normals(4, 3, 3, 3)
    binary = magnitude_aware_sign(weights)
    assert torch.equal(sign(binary), sign(weights))
    alpha = binary.abs()[:, 0, 0, 0]
    close(alpha, torch.from_numpy(np.abs(weights.numpy()).reshape(4, -1).mean(axis=1)))
    close(alpha, magnitude(weights))
    error = ((weights - binary) ** 2).sum(dim=(1, 2, 3))
    for factor in uniform(0, Purpose.DIAGNOSTICS, 100)[0] * 2:
        assert bool((((weights - float(factor) * binary) ** 2).sum(dim=(1, 2, 3)) >= error).all())
    for i in range(27):
        flipped = binary.flatten(1).clone()
        flipped[:, i] *= -1
        assert bool((((weights.flatten(1) - flipped) ** 2).sum(dim=1) > error).all())


def test_error_of_the_closest_scaled_signs() -> None:
    weights = normals(1, 100_000)
    error = (weights - magnitude_aware_sign(weights)).square().sum() / weights.square().sum()
    assert float(error) == pytest.approx(1 - 2 / math.pi, abs=0.005)


def test_xnor_gradients_by_hand() -> None:
    weights = torch.tensor([[0.5, -2.0, 0.25, -0.25], [0.0, 0.0, 1.0, 1.0]])
    factor = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    detached = gradient_of(MagnitudeAware(), weights, factor)
    assert detached.tolist() == [[0.75, 0.0, 2.25, 3.0], [0.5, 0.5, 0.5, 0.5]]
    exact = gradient_of(MagnitudeAware(scale_gradient="exact"), weights, factor)
    # sum of sign(w) g is -2 and 4, and sign(0) = +1.
    assert exact.tolist() == [[0.25, 0.5, 1.75, 3.5], [1.5, 1.5, 1.5, 1.5]]
    wide = gradient_of(MagnitudeAware(clip=2.0), weights, factor)
    assert wide.tolist() == [[0.75, 1.5, 2.25, 3.0], [0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("scale_gradient", ["detached", "exact"])
def test_xnor_gradient_is_that_of_a_surrogate(scale_gradient) -> None:
    weights, factor = normals(4, 3, 3, 3), normals(4, 3, 3, 3, index=1)

    def surrogate(w: Tensor) -> Tensor:
        clipped = torch.nn.functional.hardtanh(w)  # derivative 1[|w| <= 1]
        signs = clipped + (sign(w) - clipped).detach()
        scale = w.abs().mean(dim=(1, 2, 3), keepdim=True)
        return (scale.detach() if scale_gradient == "detached" else scale) * signs

    def quantizer(w: Tensor) -> Tensor:
        return magnitude_aware_sign(w, scale_gradient=scale_gradient)

    close(quantizer(weights), surrogate(weights))
    close(gradient_of(quantizer, weights, factor), gradient_of(surrogate, weights, factor))


def test_xnor_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"scale_gradient: expected one of .*, got 'diagonal'"):
        MagnitudeAware(scale_gradient="diagonal")
    with pytest.raises(ValueError, match=r"weights: expected shape \(C_out, ...\).* got \(3,\)"):
        magnitude_aware_sign(torch.zeros(3))


@pytest.mark.parametrize(
    ("progress", "t", "k"), [(0, 0.001, 1000), (0.5, 0.1, 10), (0.75, 1, 1), (1, 10, 1)]
)
def test_ede_schedule_values(progress: float, t: float, k: float) -> None:
    assert ede_schedule(progress) == pytest.approx((t, k), rel=SCHEDULE_TOLERANCE)
    x = torch.zeros(1, dtype=torch.float64)
    quantizer = IRNetSign()
    quantizer.set_progress(progress)
    assert (quantizer.t, quantizer.k) == ede_schedule(progress)
    slope = gradient_of(lambda z: ede_sign(z, quantizer.t, quantizer.k), x, torch.ones(1).double())
    assert float(slope) == pytest.approx(max(1, t), rel=SCHEDULE_TOLERANCE)


@pytest.mark.parametrize("progress", [0.5, 0.75, 0.9])
def test_ede_slope_is_the_derivative_of_its_function(progress: float) -> None:
    t, k = ede_schedule(progress)
    x = 2 * normals(1000)
    ones = torch.ones_like(x)
    expected = gradient_of(lambda z: k * torch.tanh(t * z), x, ones)
    close(gradient_of(lambda z: ede_sign(z, t, k), x, ones), expected)


def test_ede_schedule_of_the_paper_and_its_checks() -> None:
    assert ede_schedule(0.5, t_min=0.1) == pytest.approx((1.0, 1.0))
    with pytest.raises(ValueError, match=r"progress: expected epoch / epochs in \[0, 1\], got 2"):
        ede_schedule(2)
    with pytest.raises(ValueError, match="t_min, t_max: expected 0 < t_min <= t_max, got 3 and 2"):
        ede_schedule(0, t_min=3, t_max=2)
    with pytest.raises(ValueError, match="t, k: expected both > 0, got 0 and 1"):
        ede_sign(torch.zeros(1), 0)


def irnet_weights() -> Tensor:
    weights = 0.3 + 0.1 * normals(4, 8, 3, 3)
    weights[1] *= 100
    # An outlier makes the mean magnitude 0.23 and 0.56 of the standard deviation.
    weights[2].view(-1)[0] = 50
    weights[3].view(-1)[0] = 1.5
    return weights


def standardised(weights: Tensor) -> Tensor:
    rows = weights.flatten(1)
    rows = rows - rows.mean(dim=1, keepdim=True)
    return (rows / rows.std(dim=1, keepdim=True)).view_as(weights)


def test_irnet_values() -> None:
    weights = irnet_weights()
    rows = weights.flatten(1).numpy()
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / rows.std(axis=1, ddof=1, keepdims=True)
    scale = 2.0 ** np.round(np.log2(np.abs(rows).mean(axis=1)))
    assert scale.tolist() == [1.0, 1.0, 0.25, 0.5]
    expected = torch.from_numpy(scale[:, None] * np.where(rows >= 0, 1.0, -1.0))
    assert torch.equal(irnet_sign(weights).flatten(1), expected)
    assert torch.equal(irnet_sign(weights.float()).flatten(1), expected.float())


def test_irnet_gradient_is_that_of_a_surrogate() -> None:
    weights, factor = irnet_weights(), normals(4, 8, 3, 3, index=1)
    quantizer = IRNetSign()
    quantizer.set_progress(0.6)
    scale = quantizer(weights).abs()

    def surrogate(w: Tensor) -> Tensor:
        return scale * quantizer.k * torch.tanh(quantizer.t * standardised(w))

    expected = gradient_of(surrogate, weights, factor)
    assert float(expected.abs().max()) > 1
    close(gradient_of(quantizer, weights, factor), expected)


def test_irnet_of_a_dead_channel_is_finite() -> None:
    weights = torch.zeros(2, 6)
    assert irnet_sign(weights).tolist() == [[1.0] * 6] * 2
    gradient = gradient_of(irnet_sign, weights, torch.arange(12.0).reshape(2, 6))
    assert gradient.tolist() == [[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]] * 2
    with pytest.raises(ValueError, match=r"with 2 or more weights of each channel, got \(4, 1\)"):
        irnet_sign(torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("progress", "tau", "ratio"), [(0, 0.85, 1.20397), (0.5, 0.90286, 1.63841), (1, 0.99, 3.91202)]
)
def test_recu_schedule_and_gradient(progress: float, tau: float, ratio: float) -> None:
    assert recu_schedule(progress) == pytest.approx(tau, abs=SCHEDULE_TOLERANCE)
    quantizer = ReCUSign()
    quantizer.set_progress(progress)
    weights, factor = normals(4, 8, 3, 3), normals(4, 8, 3, 3, index=1)
    weights[0].view(-1)[:3] = torch.tensor([6.0, -6.0, 9.0])

    def scaled(w: Tensor) -> Tensor:
        rows = w.flatten(1) - w.flatten(1).mean(dim=1, keepdim=True)
        rows = rows / (rows.var(dim=1, keepdim=True) + 1e-5).sqrt() * 8**0.5
        return rows.view_as(w)

    z = scaled(weights)
    is_within = z.abs() <= ratio * z.abs().mean()
    assert 0 < int((~is_within).sum()) < z.numel() / 2
    assert torch.equal(quantizer(weights), sign(z))
    expected = gradient_of(scaled, weights, factor * is_within)
    torch.testing.assert_close(
        gradient_of(quantizer, weights, factor), expected, rtol=0, atol=FLOAT64_TOLERANCE
    )
    beyond = gradient_of(quantizer, weights, factor * ~is_within)
    assert not beyond.any()


def test_recu_at_one_clamps_nothing_and_is_checked() -> None:
    weights = normals(2, 50)
    weights[0, 0] = 100
    factor = torch.zeros(2, 50).double()
    factor[0, 0] = 1
    assert bool(gradient_of(lambda w: recu_sign(w, 1.0), weights, factor).any())
    assert not gradient_of(lambda w: recu_sign(w, 0.99), weights, factor).any()
    assert recu_sign(torch.zeros(2, 5)).tolist() == [[1.0] * 5] * 2
    for tau in (0.5, 1.01):
        with pytest.raises(ValueError, match=f"tau: expected 0.5 < tau <= 1, got {tau}"):
            recu_sign(weights, tau)
    with pytest.raises(ValueError, match=r"tau_min, tau_max: expected .* got 0.4 and 0.99"):
        ReCUSign(tau_min=0.4)


def test_recu_activations_are_divided_in_training_only() -> None:
    x, factor = 3 + 2 * normals(4, 8, 3, 3), normals(4, 8, 3, 3, index=1)

    def divided(z: Tensor) -> Tensor:
        return z / (z.flatten(1).var(dim=1) + 1e-5).sqrt().view(-1, 1, 1, 1)

    triangle = (2 - 2 * divided(x).abs()).clamp(min=0)
    quantizer = ReCUActivations()
    assert torch.equal(quantizer(x), sign(x))
    close(gradient_of(quantizer, x, factor), gradient_of(divided, x, factor * triangle))
    quantizer.eval()
    assert torch.equal(quantizer(x), sign(x))
    close(gradient_of(quantizer, x, factor), gradient_of(approx_sign, x, factor))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, ...\) with 2 or more"):
        ReCUActivations()(torch.zeros(4, 1))

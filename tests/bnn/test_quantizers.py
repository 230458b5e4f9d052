import numpy as np
import pytest
import torch

from bnn.quantizers import (
    QUANTIZERS,
    approx_sign,
    int8_scale,
    int8_weights,
    int32_bias,
    sign,
    ste_sign,
)

POINTS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
SLOPES = {
    "ste_sign": [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    "approx_sign": [0.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0],
}
# Trapezoids of width 1e-3 miss at most one step at each of the two jumps of the clipped slope.
INTEGRAL_TOLERANCE = 2e-3


def slope(name: str, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(QUANTIZERS[name](x).sum(), x)
    return gradient


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_forward_is_sign_and_zero_is_plus_one(name: str) -> None:
    x = torch.tensor([-3.0, -1e-30, -0.0, 0.0, 1e-30, 3.0])
    assert QUANTIZERS[name](x).tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    assert sign(x).tolist() == QUANTIZERS[name](x).tolist()


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_backward_values(name: str) -> None:
    assert slope(name, torch.tensor(POINTS)).tolist() == SLOPES[name]


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_slope_integrates_to_two(name: str) -> None:
    x = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    assert abs(float(torch.trapezoid(slope(name, x), x)) - 2) < INTEGRAL_TOLERANCE


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_incoming_gradient_is_a_factor(name: str) -> None:
    x = torch.tensor(POINTS, requires_grad=True)
    weights = torch.arange(1.0, 8.0)
    (gradient,) = torch.autograd.grad((QUANTIZERS[name](x) * weights).sum(), x)
    assert gradient.tolist() == [a * b for a, b in zip(SLOPES[name], weights.tolist(), strict=True)]


def test_ste_clip_is_adjustable_and_checked() -> None:
    x = torch.tensor([1.2, 1.25, 1.3], requires_grad=True)
    (gradient,) = torch.autograd.grad(ste_sign(x, clip=1.25).sum(), x)
    assert gradient.tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="clip: expected clip > 0, got 0"):
        ste_sign(x, clip=0.0)


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5, 7), (2, 64, 3, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_ste_slope_is_at_its_place_in_every_shape(shape, dtype, is_channels_last) -> None:
    if is_channels_last and len(shape) != 4:
        return
    generator = torch.Generator().manual_seed(1)
    x = (2 * torch.randn(shape, generator=generator)).to(dtype)
    if is_channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    factor = torch.randn(shape, generator=generator).to(dtype)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ste_sign(x), x, factor)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, torch.where(x.abs() <= 1, factor, 0))


def test_ste_sign_saves_one_bit_of_an_element() -> None:
    x = torch.linspace(-2, 2, 2 * 5 * 96).reshape(2, 96, 5, 1).requires_grad_()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda nothing: nothing):
        ste_sign(x)
    assert sum(t.untyped_storage().nbytes() for t in saved) == x.numel() / 8


def test_approx_sign_keeps_dtype() -> None:
    assert approx_sign(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_int8_weights_are_the_nearest_integers() -> None:
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 2, 2)))
    scale = int8_scale(weights, per_channel=True)
    assert scale.shape == (4, 1, 1, 1)
    rounded = int8_weights(weights, scale)
    assert torch.equal(rounded, rounded.round())
    assert rounded.abs().amax(dim=(1, 2, 3)).tolist() == [127.0] * 4
    assert float((rounded * scale - weights).abs().max()) <= 0.5000001 * float(scale.max())


def test_int8_gradient_is_one_over_scale() -> None:
    weights = torch.tensor([[0.3, -1.27], [2.0, 0.1]], requires_grad=True)
    scale = int8_scale(weights, per_channel=False)
    assert float(scale) == pytest.approx(2.0 / 127)
    (gradient,) = torch.autograd.grad(int8_weights(weights, scale).sum(), weights)
    assert torch.equal(gradient, torch.ones(2, 2) / scale)


def test_int8_scale_of_a_dead_channel_is_one() -> None:
    assert int8_scale(torch.zeros(2, 3), per_channel=True).tolist() == [[1.0], [1.0]]


def test_int32_bias_rounds_without_clipping() -> None:
    bias = torch.tensor([1000.6, -0.4], requires_grad=True)
    result = int32_bias(bias, torch.tensor(0.5))
    assert result.tolist() == [2001.0, -1.0]
    (gradient,) = torch.autograd.grad(result.sum(), bias)
    assert gradient.tolist() == [2.0, 2.0]

import numpy as np
import pytest
import torch

from bnn.quantizers import int8_scale, int8_weights, int32_bias


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

import numpy as np
import pytest
import torch

import bnn
from bnn.folding import fold_norm
from bnn.layers import BatchNorm, Int8Conv2d

N_CHANNELS = 1000


def random_norm(rng: np.random.Generator, scale: float) -> BatchNorm:
    """A thousand channels with every awkward value among them."""
    norm = BatchNorm(N_CHANNELS)
    gamma, beta = rng.normal(size=N_CHANNELS), rng.normal(size=N_CHANNELS)
    gamma[:60] = 0.0
    beta[:20] = 0.0
    beta[20:40] = -np.abs(beta[20:40])
    beta[100:150] *= 1e6
    gamma[150:200] *= 1e-30
    gamma[200:220], beta[200:220] = -1e-38, 3e38
    mean = np.where(np.arange(N_CHANNELS) % 3, rng.normal(size=N_CHANNELS), 0.0) * scale
    mean[300:400] = np.round(mean[300:400])  # thresholds exactly on a sum
    beta[300:400] = 0.0
    var = scale**2 * rng.uniform(0, 2, N_CHANNELS)
    var[400:410] = 0.0
    with torch.no_grad():
        for target, value in (
            (norm.weight, gamma),
            (norm.bias, beta),
            (norm.running_mean, mean),
            (norm.running_var, var),
        ):
            target.copy_(torch.from_numpy(value))
    return norm


def definition(norm: BatchNorm, acc: np.ndarray, unit: float) -> np.ndarray:
    """Float64 normalisation and sign, with sign(0) = +1; acc of shape (n, 1)."""
    mean, var, gamma, beta = (
        t.detach().double().numpy()
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return gamma * ((acc * unit - mean) / np.sqrt(var + norm.eps)) + beta >= 0


@pytest.mark.parametrize("k", [1, 9, 64, 577])
def test_binary_fold_is_exhaustively_exact(k: int) -> None:
    norm = random_norm(np.random.default_rng(k), scale=k**0.5)
    bound = np.full(N_CHANNELS, k)
    threshold, flip = fold_norm(norm, -bound, bound, spacing=2)
    acc = np.arange(-k, k + 1, 2)[:, None]
    np.testing.assert_array_equal((acc >= threshold) ^ flip, definition(norm, acc, 1.0))
    assert threshold.dtype == np.int32
    assert threshold.min() >= -k
    assert threshold.max() <= k + 1


def test_int8_fold_is_exact_around_the_threshold_and_everywhere_near() -> None:
    unit = Int8Conv2d.UNIT
    norm = random_norm(np.random.default_rng(0), scale=0.3)
    low, high = np.full(N_CHANNELS, -40_000), np.full(N_CHANNELS, 50_000)
    threshold, flip = fold_norm(norm, low, high, unit=unit)
    acc = np.arange(-40_000, 50_001, 97)[:, None]
    np.testing.assert_array_equal((acc >= threshold) ^ flip, definition(norm, acc, unit))
    near = np.clip(threshold + np.arange(-3, 4)[:, None], -40_000, 50_000)
    np.testing.assert_array_equal((near >= threshold) ^ flip, definition(norm, near, unit))


def test_constant_channels() -> None:
    norm = BatchNorm(3)
    norm.weight.data.zero_()
    norm.bias.data.copy_(torch.tensor([0.0, -1e-9, 2.0]))
    bound = np.full(3, 9)
    threshold, flip = fold_norm(norm, -bound, bound, spacing=2)
    assert threshold.tolist() == [-9, 10, -9]
    assert flip.tolist() == [False, False, False]


def test_both_signs_of_gamma_with_the_threshold_on_a_sum() -> None:
    norm = BatchNorm(2)
    norm.weight.data.copy_(torch.tensor([1.0, -1.0]))
    norm.running_mean.fill_(3.0)
    bound = np.full(2, 9)
    threshold, flip = fold_norm(norm, -bound, bound, spacing=2)
    # At acc = 3 both normalised values are 0, whose sign is +1.
    assert threshold.tolist() == [3, 4]
    assert flip.tolist() == [False, True]


def test_rounding_of_the_normalisation_decides_at_a_tie() -> None:
    """49 * (1 / 49) - 1 is -1.1e-16 in float64, so acc = 1 is negative although t = 1."""
    norm = BatchNorm(2, eps=0.0)
    norm.running_var.fill_(49.0**2)
    norm.weight.data.copy_(torch.tensor([49.0, 7.0]))
    norm.bias.data.copy_(torch.tensor([-1.0, -7.0]))
    bound = np.full(2, 99)
    threshold, flip = fold_norm(norm, -bound, bound, spacing=2)
    assert threshold.tolist() == [2, 49]
    assert flip.tolist() == [False, False]


def test_values_that_are_not_finite_name_the_layer() -> None:
    net = bnn.BinaryConvNet((8, 8, 1), 10)
    net.stages[1].norm.running_var[3] = float("nan")
    with pytest.raises(ValueError, match=r"stages\.1: norm: expected finite parameters"):
        bnn.integerize(net)


def test_a_bias_beyond_int32_is_refused() -> None:
    net = bnn.BinaryConvNet((8, 8, 1), 10)
    net.head.bias.data[0] = 1e12
    with pytest.raises(ValueError, match="head: expected a bias that fits int32"):
        bnn.integerize(net)


def test_the_twin_is_refused() -> None:
    twin = bnn.BinaryConvNet((8, 8, 1), 10, full_precision=True)
    with pytest.raises(ValueError, match="expected a binary network, got a full-precision twin"):
        bnn.integerize(twin)


def test_layers_of_the_integer_network(ragged) -> None:
    integer_net = bnn.integerize(ragged)
    first, second, third, head = integer_net.layers
    assert [layer.kind for layer in integer_net.layers] == [
        "conv_u8",
        "conv_b1",
        "conv_b1",
        "conv_b1_i8",
    ]
    assert first.output_shape == second.input_shape == (4, 3, 5)
    assert [layer.pool for layer in integer_net.layers] == [2, 1, 1, 1]
    assert set(np.unique(third.weights)) == {-1, 1}
    latent = ragged.stages[1].conv.latent_weight.detach().numpy()
    assert second.weights[7, 2, 0, 3] == (1 if latent[7, 3, 2, 0] >= 0 else -1)
    assert head.threshold is None
    assert integer_net.output_scale == float(ragged.head.scale())

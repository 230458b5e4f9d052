import numpy as np
import pytest
import torch

import bnn
from bnn.folding import (
    Affine,
    Normalisation,
    PointTooFine,
    affine,
    evaluate,
    fold_norm,
    fold_scale,
    fold_sign,
    knee,
    normalisation,
    saturated,
    value_range,
)
from bnn.layers import BatchNorm, Int8Conv2d
from kernels import OpCode
from kernels.reference import decode, scale

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
    with pytest.raises(ValueError, match=r"stages\.1\.norm: expected finite parameters"):
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


def test_the_convolution_net_is_one_operation_per_stage(ragged) -> None:
    integer_net = bnn.integerize(ragged)
    ops, tensors = integer_net.model.ops, integer_net.model.tensors
    codes = [OpCode.CONV_U8, OpCode.CONV_B1, OpCode.CONV_B1, OpCode.CONV_B1_I8]
    assert [op.code for op in ops] == codes
    assert tensors[ops[0].out].dims == tensors[ops[1].data].dims == (4, 3, 5)
    assert [op.pool for op in ops] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    weights = decode(tensors[ops[1].weights])
    latent = ragged.stages[1].conv.latent_weight.detach().numpy()
    np.testing.assert_array_equal(weights, np.where(latent >= 0, 1, -1).transpose(0, 2, 3, 1))
    assert ops[-1].threshold is None
    assert integer_net.output_scale == float(ragged.head.scale())


def random_chain(rng: np.random.Generator, n: int) -> tuple:
    """Norm, knee, norm, shift, with zeros and both signs."""
    gamma = rng.normal(size=(2, n)) * (rng.random((2, n)) > 0.1)
    norms = [
        affine(
            n,
            mean=rng.normal(scale=9, size=n),
            sigma=rng.uniform(0.1, 9, n),
            gamma=each,
            beta=rng.normal(size=n),
        )
        for each in gamma
    ]
    slope = rng.uniform(0, 1, n) * (rng.random(n) > 0.3)
    return norms[0], knee(n, slope), norms[1], affine(n, beta=rng.normal(scale=0.2, size=n))


@pytest.mark.parametrize("seed", range(5))
def test_chains_with_knees_fold_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 300, 131
    chain = random_chain(rng, n)
    unit = rng.uniform(0.2, 2, n) * rng.choice([-1, 1], n)
    bound = np.full(n, k)
    threshold, flip = fold_sign(chain, -bound, bound, unit=unit, spacing=2)
    acc = np.arange(-k, k + 1, 2)[:, None]
    expected = evaluate(chain, acc * unit) >= 0
    np.testing.assert_array_equal((acc >= threshold) ^ flip, expected)
    assert 0.2 < expected.mean() < 0.8


def test_a_turning_chain_has_no_threshold() -> None:
    bound = np.full(2, 9)
    with pytest.raises(ValueError, match="expected slopes >= 0 before a sign, got a negative one"):
        fold_sign((knee(2, [0.1, -0.1]),), -bound, bound)


@pytest.mark.parametrize("seed", range(5))
def test_scales_are_the_chain_to_half_a_unit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k, point = 200, 200, 10
    chain = (*random_chain(rng, n)[:2], affine(n, gamma=-1.5, beta=0.3))
    bound = np.full(n, k)
    scaling = fold_scale(chain, -bound, bound, unit=0.5, point=point)
    acc = np.arange(-k, k + 1)[:, None]
    found = scale(acc, scaling.multiplier.astype(np.int64), scaling.bias, scaling.shift)
    expected = evaluate(chain, acc * 0.5) * 2.0**point
    # Half for the rounding, and that of m and b: k + 1 halves of 2^-shift.
    assert np.abs(found - expected).max() <= 0.5 + (k + 1) * 0.5 * 2.0**-scaling.shift + 1e-6
    assert scaling.shift > 10
    assert scaling.multiplier.shape == (3, n)


def test_only_normalisations_beyond_1024_deviations_saturate() -> None:
    n = 4
    mean, beta = np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.5, 0.0, -1.0, 2.0])
    sigma, gamma = np.array([1e-3, 1e-3, 1.0, 1e-3]), np.array([2.0, -2.0, 3.0, 0.0])
    chain = (knee(n, 0.0), Normalisation(mean, sigma, gamma, beta), knee(n, 0.5))
    low, high = np.full(n, -7.0), np.full(n, 9.0)
    x = np.linspace(low, high, 1001)
    exact = evaluate(chain[:2], x)
    assert (np.abs(exact - beta) > 1024 * np.abs(gamma)).any(axis=0).tolist() == [
        *(True, True),
        *(False, False),
    ]
    bound = 1024 * np.abs(gamma)
    expected = chain[2](np.clip(exact, beta - bound, beta + bound))
    np.testing.assert_allclose(evaluate(saturated(chain, low, high), x), expected, atol=1e-9)
    # Affine links of other modules have no deviations to leave, and what stays inside is as it was.
    shift = (affine(n, sigma=1e-3, gamma=2.0),)
    assert saturated(shift, low, high) == shift
    assert saturated(chain, low * 1e-3, high * 0.1e-3) == chain


def test_what_a_saturation_leaves_is_what_the_next_link_gets() -> None:
    first, second = (
        Normalisation(np.zeros(1), np.array([sigma]), np.ones(1), np.zeros(1))
        for sigma in (1e-3, 1.0)
    )
    links = saturated((first, second), np.array([-7.0]), np.array([9.0]))
    # 9 is 9000 deviations of the first, clipped to 1024, which the second can bear.
    assert links[0] is first
    assert links[-1] is second
    assert len(links) == 2 + 2 * 3
    assert evaluate(links, np.array([[-7.0], [0.5], [9.0]])).ravel().tolist() == [-1024, 500, 1024]


def test_the_range_of_a_knee_has_its_turning_point() -> None:
    low, high = np.array([-2.0, -2.0, 1.0]), np.array([4.0, -1.0, 4.0])
    least, greatest = value_range((knee(3, -0.5),), low, high)
    assert least.tolist() == [0.0, 0.5, 1.0]
    assert greatest.tolist() == [4.0, 1.0, 4.0]


class Wrong(Affine):
    """Not monotone: some values fall out of line."""

    wrong = (6.0,)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.where(np.isin(x, self.wrong), -1.0, super().__call__(x))


@pytest.mark.parametrize("spacing", [1, 2])
def test_every_threshold_is_compared_with_its_chain(spacing: int) -> None:
    links = [kind(np.zeros(1), np.ones(1), np.ones(1), np.array([8.0])) for kind in (Affine, Wrong)]
    bound = np.full(1, 10)
    threshold, _ = fold_sign((links[0],), -bound, bound, spacing=spacing)
    assert threshold.tolist() == [-8]
    with pytest.raises(RuntimeError, match="a threshold differs from the chain that it replaces"):
        fold_sign((links[1],), -bound, bound, spacing=spacing)


def test_of_too_many_accumulators_the_ends_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Wrong(np.zeros(1), np.ones(1), np.ones(1), np.array([8.0]))
    bound = np.full(1, 3_000_000)
    assert fold_sign((link,), -bound, bound)[0].tolist() == [-8]  # 6 is one of six million
    monkeypatch.setattr(Wrong, "wrong", (3_000_000.0,))
    with pytest.raises(RuntimeError, match="a threshold differs from the chain"):
        fold_sign((link,), -bound, bound)


def test_the_finest_shift_that_fits_is_taken() -> None:
    ends = np.full(1, -9), np.full(1, 9)
    plain = fold_scale((), *ends, unit=1.0, point=0)
    assert (plain.shift, plain.multiplier.tolist()) == (30, [[1 << 30]])
    small = fold_scale((affine(1, gamma=0.49, beta=0.75 * 2.0**-31),), *ends, unit=1.0, point=0)
    assert (small.shift, small.bias.tolist()) == (31, [[1]])  # 0.75, rounded
    assert small.multiplier.tolist() == [[round(0.49 * 2**31)]]
    offset = fold_scale((affine(1, gamma=1e-3, beta=2.0**31),), *ends, unit=1.0, point=0)
    assert (offset.shift, offset.bias.tolist()) == (30, [[1 << 61]])


def test_a_mean_of_knees_is_no_scale_of_a_sum() -> None:
    ends = np.full(1, -9), np.full(1, 9)
    with pytest.raises(ValueError, match="expected one knee at most, got 1"):
        fold_scale((knee(1, 0.0),), *ends, unit=1.0, point=4, window=4)
    with pytest.raises(ValueError, match="expected one knee at most, got 2"):
        fold_scale((knee(1, 0.0), knee(1, 0.5)), *ends, unit=1.0, point=4)


def test_a_window_is_divided_out() -> None:
    scaling = fold_scale(
        (affine(1, beta=1.0),), np.zeros(1), np.full(1, 99), unit=1.0, point=4, window=9
    )
    assert scale(np.array([[27]]), scaling.multiplier, scaling.bias, scaling.shift) == (3 + 1) * 16


def test_factors_that_fit_no_shift_are_refused() -> None:
    bound = np.full(1, 9)
    with pytest.raises(PointTooFine, match=r"expected factors below 2\^31, got 1\.02e\+12"):
        fold_scale((affine(1, gamma=1e9),), -bound, bound, unit=1.0, point=10)


@pytest.mark.parametrize("case", ["variance", "no variance", "shape"])
def test_impossible_parameters_are_refused(case: str) -> None:
    norm = BatchNorm(3, eps=0.0 if case == "no variance" else 1e-5)
    if case == "no variance":
        norm.running_var[1] = 0.0
        with pytest.raises(ValueError, match=r"expected positive variances, got 0\.0 with eps 0"):
            normalisation(norm)
    elif case == "variance":
        norm.running_var[1] = -1.0
        with pytest.raises(ValueError, match=r"expected positive variances, got -1\.0 with eps"):
            normalisation(norm)
    else:
        with pytest.raises(ValueError, match="expected parameters of 4 channels, got 3"):
            affine(4, gamma=norm.weight)

"""Statistics of contrastive divergence on CUDA against float64 sums over the same states."""

import numpy as np
import pytest
import torch

from kernels import Purpose, pack_bits, unpack_bits
from kernels.cuda_gibbs import GibbsChain
from kernels.cuda_rbm import cd_statistics, pcd_statistics
from kernels.reference_sampling import bernoulli_reference

N_VISIBLE, N_HIDDEN, BATCH, N_CHAINS = 45, 70, 65, 33
BF16_ROUNDING = 2.0**-9


def machine():
    rng = np.random.default_rng(3)
    weights = rng.integers(-8, 9, (N_VISIBLE, N_HIDDEN)) / 8
    return weights, rng.integers(-4, 5, N_VISIBLE) / 4, rng.integers(-4, 5, N_HIDDEN) / 4


def new_chain(launcher, on, n_chains, **options):
    parts = (on(part.astype(np.float32)) for part in machine())
    return GibbsChain(launcher, *parts, n_chains, seed=5, **options)


def data_states():
    return np.random.default_rng(4).random((BATCH, N_VISIBLE)) < 0.4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bits(words, n):
    return unpack_bits(words.cpu().numpy().view(np.uint32), n)


def means(visible, hidden):
    visible, hidden = visible.astype(np.float64), hidden.astype(np.float64)
    return visible.T @ hidden / len(visible), visible.mean(0), hidden.mean(0)


@pytest.mark.parametrize("probabilities", [False, True])
def test_cd_is_the_difference_of_means(launcher, on, probabilities):
    weights, _, hidden_bias = machine()
    data = data_states()
    chain = new_chain(launcher, on, BATCH, probabilities=probabilities)
    chain.resume(chain.hidden, sweep=7)
    result = cd_statistics(chain, on(pack_bits(data)), n_sweeps=2)
    assert chain.sweep == 10
    visible, hidden = bits(chain.visible, N_VISIBLE), bits(chain.hidden, N_HIDDEN)
    field = data @ weights + hidden_bias
    if probabilities:
        first, last = sigmoid(field), sigmoid(visible @ weights + hidden_bias)
        bound = 2 * BF16_ROUNDING
    else:
        words = bernoulli_reference(
            field.astype(np.float32),
            seed=5, purpose=Purpose.GIBBS_HIDDEN, step=7, rows=np.arange(BATCH),
        )  # fmt: skip
        first, last = unpack_bits(words, N_HIDDEN), hidden
        bound = 4 * 2.0**-24  # two divisions and a difference, of numbers up to 1
    positive, negative = means(data, first), means(visible, last)
    for got, p, q in zip(result, positive, negative, strict=True):
        assert got.dtype == torch.float32
        assert abs(got.cpu().double().numpy() - (p - q)).max() <= bound
        assert abs(p - q).max() > 10 * bound


def test_pcd_takes_its_model_means_from_the_chains(launcher, on):
    weights, _, hidden_bias = machine()
    data = data_states()
    chain = new_chain(launcher, on, N_CHAINS, probabilities=True)
    chain.start(on(pack_bits(data[:N_CHAINS])))
    alone = new_chain(launcher, on, N_CHAINS)
    alone.start(on(pack_bits(data[:N_CHAINS])))
    result = pcd_statistics(chain, on(pack_bits(data)), n_sweeps=3)
    alone.run(3)
    assert torch.equal(chain.visible, alone.visible)
    visible = bits(chain.visible, N_VISIBLE)
    positive = means(data, sigmoid(data @ weights + hidden_bias))
    negative = means(visible, sigmoid(visible @ weights + hidden_bias))
    for got, p, q in zip(result, positive, negative, strict=True):
        assert abs(got.cpu().double().numpy() - (p - q)).max() <= 2 * BF16_ROUNDING
        assert abs(p - q).max() > 20 * BF16_ROUNDING


def test_pcd_without_probabilities_is_refused(launcher, on):
    with pytest.raises(ValueError, match="probabilities=True"):
        pcd_statistics(new_chain(launcher, on, N_CHAINS), on(pack_bits(data_states())))

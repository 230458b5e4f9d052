"""Statistics of (persistent) contrastive divergence on CUDA, from packed states."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.cuda_gibbs import GibbsChain
from kernels.cuda_gradients import signs_product
from kernels.cuda_launch import Launcher
from kernels.cuda_packing import row_popcounts, transpose_bits
from kernels.cuda_statistics import batch_products


class CDStatistics(NamedTuple):
    """Ascent direction of the mean log-likelihood: means over the data minus over the chains."""

    weights: Tensor
    """Shape (n_visible, n_hidden), float32; a transposed view if h are probabilities."""
    visible_bias: Tensor
    """Shape (n_visible,), float32."""
    hidden_bias: Tensor
    """Shape (n_hidden,), float32."""


def cd_statistics(chain: GibbsChain, data: Tensor, *, n_sweeps: int = 1) -> CDStatistics:
    r"""One estimate by contrastive divergence: the chains start from the data.

    .. math:: \Delta W = \langle v h^\top\rangle_0 - \langle v h^\top\rangle_k

    with h the probabilities if the chain keeps them, rounded to bfloat16, and the drawn states
    otherwise: then all sums are integers, and AND and POPC along the batch make them.

    Parameters
    ----------
    chain
        As many chains as rows of data; it goes on with its next sweep.
    data
        Visible states, shape of ``chain.visible``, int32 words.
    n_sweeps
        k.
    """
    chain.start(data, sweep=chain.sweep)
    positive = _sums(chain)
    chain.run(n_sweeps)
    return _difference(positive, len(data), _sums(chain), len(data))


def pcd_statistics(chain: GibbsChain, data: Tensor, *, n_sweeps: int = 1) -> CDStatistics:
    """One estimate by persistent contrastive divergence: the chains go on from where they are.

    Parameters
    ----------
    chain
        Keeps probabilities, which stand for h here and there; any number of chains.
    data
        Visible states, shape (batch, ceil(n_visible / 32)), int32 words.
    n_sweeps
        Sweeps before the statistics of the chains are taken.

    Raises
    ------
    ValueError
        If the chain keeps no probabilities.
    """
    if chain.hidden_probabilities is None:
        raise ValueError("chain: expected one with probabilities=True")
    positive = _products(chain, data, chain.probabilities_of(data))
    chain.run(n_sweeps)
    return _difference(positive, len(data), _sums(chain), len(chain.visible))


def _sums(chain: GibbsChain) -> CDStatistics:
    """Sums over the current states of the chains."""
    if chain.hidden_probabilities is not None:
        return _products(chain, chain.visible, chain.hidden_probabilities)
    launcher = chain.launcher
    visible, hidden = chain.visible, chain.hidden
    return CDStatistics(
        batch_products(launcher, visible, chain.n_visible, hidden, chain.n_hidden),
        _column_sums(launcher, visible, chain.n_visible),
        _column_sums(launcher, hidden, chain.n_hidden),
    )


def _products(chain: GibbsChain, visible: Tensor, p_hidden: Tensor) -> CDStatistics:
    """Sums with probabilities, a product with packed signs: v is (sign + 1) / 2."""
    with_signs = signs_product(
        *(chain.launcher, p_hidden, visible, chain.n_visible),
        transposed=True,
        out_dtype=torch.float32,
    )
    total = p_hidden.sum(dim=0, dtype=torch.float32)
    return CDStatistics(
        with_signs.add_(total[:, None]).mul_(0.5).T,
        _column_sums(chain.launcher, visible, chain.n_visible),
        total,
    )


def _column_sums(launcher: Launcher, words: Tensor, n: int) -> Tensor:
    return row_popcounts(launcher, transpose_bits(launcher, words, n))


def _difference(
    positive: CDStatistics, n_positive: int, negative: CDStatistics, n_negative: int
) -> CDStatistics:
    """Means of the data minus those of the chains; of integers the sums are exact in float32."""
    return CDStatistics(
        *(
            p.to(torch.float32).div(n_positive).sub_(q.to(torch.float32).div(n_negative))
            for p, q in zip(positive, negative, strict=True)
        )
    )

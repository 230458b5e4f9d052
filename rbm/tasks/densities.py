"""Small densities on bits to learn: a Bernoulli mixture, and 4x4 pictures of digits."""

import math

import torch
from torch import Tensor

from kernels.philox import Purpose, random_words
from rbm.states import enumerate_bits

_CENTRES_INDEX = 0


def bernoulli_mixture(n_visible: int, n_centres: int, p_agree: float, seed: int) -> Tensor:
    r"""Probabilities of all states under a mixture of random centres.

    .. math:: P(v) = \frac{1}{M} \sum_k p^{n - d_k(v)} (1 - p)^{d_k(v)}

    with d_k the Hamming distance to centre k. Unit i of centre k is the top bit of element i of
    row k of the diagnostics stream; centres may coincide.

    Parameters
    ----------
    n_visible
        n.
    n_centres
        M.
    p_agree
        p, probability that a unit agrees with its centre, in (0, 1).
    seed
        64-bit.

    Returns
    -------
    Tensor
        Shape (2**n_visible,), float64, states numbered LSB first.

    References
    ----------
    .. [1] Amin et al. (2018), Quantum Boltzmann machine, section IV.
    """
    words = random_words(
        seed, Purpose.DIAGNOSTICS, n_visible, rows=range(n_centres), index=_CENTRES_INDEX
    )
    centres = torch.from_numpy((words >> 31).astype("float64"))
    states = enumerate_bits(n_visible)
    distance = (states[:, None, :] != centres[None, :, :]).sum(dim=2, dtype=torch.float64)
    log_p = (n_visible - distance) * math.log(p_agree) + distance * math.log1p(-p_agree)
    return log_p.exp().mean(dim=1)


def digits_4x4(images: Tensor) -> Tensor:
    """8x8 pictures with values 0 ... 16 as 4x4 bits: means of 2x2 pixels above 8 are on.

    Parameters
    ----------
    images
        Shape (n_samples, 64) or (n_samples, 8, 8).

    Returns
    -------
    Tensor
        Shape (n_samples, 16), uint8.

    Raises
    ------
    ValueError
        If an image does not have 64 pixels.
    """
    if images.ndim < 2 or images[0].numel() != 64:
        raise ValueError(f"images: expected 64 pixels each, got shape {tuple(images.shape)}")
    blocks = images.to(torch.float64).reshape(-1, 4, 2, 4, 2)
    return (blocks.mean(dim=(2, 4)) > 8.0).reshape(-1, 16).to(torch.uint8)

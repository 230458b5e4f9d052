"""Enumeration of all 2^n states of n units; site i of state k is ``(k >> i) & 1`` (LSB first)."""

import torch
from torch import Tensor

MAX_SITES = 62
"""More sites than this do not fit in the int64 number of a state."""


def enumerate_bits(
    n_sites: int, start: int = 0, stop: int | None = None, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """States ``start`` ... ``stop - 1`` of ``n_sites`` units, one per row.

    Parameters
    ----------
    n_sites
        Number of units, 0 to 62.
    start, stop
        Range of state numbers; ``stop=None`` means ``2**n_sites``.
    dtype
        Of the result.

    Returns
    -------
    Tensor
        Shape (stop - start, n_sites), values in {0, 1}.

    Raises
    ------
    ValueError
        If ``n_sites`` is out of range.
    """
    if not 0 <= n_sites <= MAX_SITES:
        raise ValueError(f"n_sites: expected 0 <= n_sites <= {MAX_SITES}, got {n_sites}")
    numbers = torch.arange(start, 1 << n_sites if stop is None else stop, dtype=torch.int64)
    return ((numbers[:, None] >> torch.arange(n_sites)) & 1).to(dtype)


def enumerate_spins(n_sites: int) -> Tensor:
    """All states as spins ``s = 2 * bit - 1``: shape (2**n_sites, n_sites), float64."""
    return 2.0 * enumerate_bits(n_sites) - 1.0


def state_numbers(bits: Tensor) -> Tensor:
    """Numbers of the states in the rows of ``bits``, shape (..., n_sites) -> (...), int64.

    Raises
    ------
    ValueError
        If there are more than 62 sites or a value is neither 0 nor 1.
    """
    n_sites = bits.shape[-1]
    if n_sites > MAX_SITES:
        raise ValueError(f"bits: expected at most {MAX_SITES} sites, got {n_sites}")
    if not bool(((bits == 0) | (bits == 1)).all()):
        raise ValueError("bits: expected values 0 and 1, got others; threshold the data first")
    return (bits.to(torch.int64) << torch.arange(n_sites)).sum(dim=-1)

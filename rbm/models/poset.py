"""Sets of outcomes ordered by inclusion: zeta, Moebius, and mining of frequent itemsets.

An outcome is a set of units, stored as an int64 mask (unit i = bit i, LSB first), and s <= x iff
s is a subset of x. Sample spaces are *thinned*: any set of masks, not the full power set.
"""

import numpy as np
from numpy.typing import NDArray

Masks = NDArray[np.int64]


def zeta(lower: Masks, upper: Masks) -> NDArray[np.float64]:
    """1 where ``lower[i]`` is a subset of ``upper[j]``, else 0; shape (n_lower, n_upper)."""
    included = (lower[:, None] & upper[None, :]) == lower[:, None]
    relation: NDArray[np.float64] = included.astype(np.float64)
    return relation


def moebius(outcomes: Masks) -> NDArray[np.float64]:
    r"""Inverse of the zeta matrix of a thinned poset, shape (n, n), entry [s, x] = mu(s, x).

    .. math:: \mu(x, x) = 1, \qquad \mu(x, y) = -\sum_{x \le s < y} \mu(x, s)

    Raises
    ------
    ValueError
        If an outcome is listed twice.
    """
    if np.unique(outcomes).size != outcomes.size:
        raise ValueError("outcomes: expected distinct masks, got one more than once")
    order = np.argsort(np.bitwise_count(outcomes), kind="stable")
    # Sorted by size, zeta is upper triangular with a unit diagonal: the recursion is back
    # substitution, and its integer values are exact.
    relation = zeta(outcomes[order], outcomes[order])
    inverse = np.eye(outcomes.size)
    for column in range(1, outcomes.size):
        inverse[:, column] -= inverse[:, :column] @ relation[:column, column]
    result = np.empty_like(inverse)
    result[np.ix_(order, order)] = inverse
    return result


def frequent_itemsets(
    bits: NDArray[np.uint8], *, min_support: float, max_order: int
) -> tuple[Masks, NDArray[np.int64]]:
    """Find the sets of at most ``max_order`` units that are on together in enough rows (Eclat).

    Parameters
    ----------
    bits
        Shape (n_rows, n_units), values in {0, 1}, at most 62 units.
    min_support
        Least share of rows; sets that never occur are left out even at 0.
    max_order
        Largest number of units in a set.

    Returns
    -------
    masks, counts
        Shape (n_sets,) each, int64, ordered by size of the set, then by mask.

    Notes
    -----
    Depth first; the support of a set is the popcount of the AND of its units' packed columns.
    """
    n_rows, n_units = bits.shape
    columns = np.packbits(bits.T, axis=1, bitorder="little")
    found: list[tuple[int, int]] = []
    stack = [(0, -1, np.packbits(np.ones(n_rows, dtype=np.uint8), bitorder="little"))]
    while stack:
        mask, last_unit, rows = stack.pop()
        for unit in range(last_unit + 1, n_units):
            together = rows & columns[unit]
            count = int(np.bitwise_count(together).sum(dtype=np.int64))
            if count == 0 or count / n_rows < min_support:
                continue
            larger = mask | 1 << unit
            found.append((larger, count))
            if larger.bit_count() < max_order:
                stack.append((larger, unit, together))
    found.sort(key=lambda pair: (pair[0].bit_count(), pair[0]))
    table = np.array(found, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()

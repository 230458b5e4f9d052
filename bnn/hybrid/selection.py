r"""Which activations of a network stay real: a score per place, and three ways to choose.

A score is high where binarising costs much. :func:`layer_metric` joins an error with the cost of a
place, :func:`threshold`, :func:`kmeans` and :func:`budget` choose names from scores.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

Scores = Mapping[str, float]
"""A finite number per name; names keep the order of the mapping."""


def layer_metric(errors: Scores, macs: Mapping[str, int], gamma: float) -> dict[str, float]:
    r"""Error of binarising the input of a layer, joined with how cheap the layer is.

    .. math:: M_l = e_l + \gamma / \mathrm{NF}_l

    With gamma = 0 the order is that of the errors; for a large gamma the layers with the fewest
    multiply-accumulates come first, since they lose little by staying real.

    Parameters
    ----------
    errors
        e by name, such as :func:`~bnn.hybrid.input_errors` returns them.
    macs
        NF by name: multiply-accumulates per image, positive; the same names.
    gamma
        Not negative; in units of error times multiply-accumulates.

    Raises
    ------
    ValueError
        If names differ, an error is not finite, a count is not positive or gamma is negative.

    Notes
    -----
    From memory: that the metric joins the two is the paper's statement, its coefficients are not
    known here.

    References
    ----------
    .. [1] Prabhu et al. (2018), Hybrid binary networks, arXiv:1804.03867.
    """
    _check_scores(errors, "errors")
    _check_costs(errors, macs, "macs")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma: expected 0 <= gamma < infinity, got {gamma}")
    return {name: error + gamma / macs[name] for name, error in errors.items()}


def threshold(scores: Scores, level: float) -> tuple[str, ...]:
    """Names whose score is ``level`` or more.

    Raises
    ------
    ValueError
        If a score or the level is not a number.
    """
    _check_scores(scores, "scores")
    if math.isnan(level):
        raise ValueError("level: expected a number, got nan")
    return tuple(name for name, score in scores.items() if score >= level)


def kmeans(scores: Scores, k: int, top: int) -> tuple[str, ...]:
    """Names in the ``top`` clusters with the highest centres, of ``k`` clusters of the scores.

    Parameters
    ----------
    scores
        One number or more per cluster.
    k
        Clusters, 1 or more.
    top
        Clusters that are taken, 0 to k.

    Raises
    ------
    ValueError
        If there are fewer scores than clusters, or ``top`` is out of range.

    Notes
    -----
    The clusters are those of :func:`cluster_1d`: optimal, not those of an iteration that depends on
    its start.

    References
    ----------
    .. [1] Prabhu et al. (2018), Hybrid binary networks, arXiv:1804.03867.
    """
    _check_scores(scores, "scores")
    if not 0 <= top <= k:
        raise ValueError(f"top: expected 0 <= top <= k = {k}, got {top}")
    labels = cluster_1d(list(scores.values()), k)
    return tuple(name for name, label in zip(scores, labels, strict=True) if label >= k - top)


def budget(gains: Scores, costs: Mapping[str, float], limit: float) -> tuple[str, ...]:
    """Names in the order of gain per cost, for as long as their costs sum up to ``limit`` or less.

    The first name that would exceed the limit ends the choice, cheaper ones after it included: so
    a larger limit only ever adds names, and one curve of accuracy over cost describes all limits.

    Parameters
    ----------
    gains
        What a name is worth; those of 0 or less are never taken.
    costs
        Cost by name, positive, the same names: for layers :attr:`BinaryInput.added_ops`.
    limit
        Upper bound on the sum of costs, 0 or more.

    Returns
    -------
    tuple
        Names in the order of ``gains``; equal ratios are taken in that order.

    Raises
    ------
    ValueError
        If names differ, a gain is not finite, a cost is not positive or the limit is negative.
    """
    _check_scores(gains, "gains")
    _check_costs(gains, costs, "costs")
    if not limit >= 0:
        raise ValueError(f"limit: expected 0 or more, got {limit}")
    ranked = sorted(
        (name for name in gains if gains[name] > 0),
        key=lambda name: Fraction(gains[name]) / Fraction(costs[name]),
        reverse=True,
    )
    chosen: set[str] = set()
    spent = Fraction(0)
    for name in ranked:
        spent += Fraction(costs[name])
        if spent > limit:
            break
        chosen.add(name)
    return tuple(name for name in gains if name in chosen)


def cluster_1d(values: Sequence[float], k: int) -> list[int]:
    r"""Optimal k-means of numbers, by dynamic programming over the sorted values.

    .. math:: E_{m}(j) = \min_{i < j} \big[ E_{m-1}(i) + \mathrm{SSE}(x_{i}, \ldots, x_{j-1}) \big]

    Optimal clusters of numbers are intervals, so this is the least sum of squared deviations from
    the centres over all partitions into k non-empty clusters.

    Parameters
    ----------
    values
        n finite numbers.
    k
        Clusters, 1 to n.

    Returns
    -------
    list
        Cluster of each value, 0 for the lowest centre to k - 1 for the highest; of equally good
        partitions one with the shortest possible last cluster, and so on downwards.

    Raises
    ------
    ValueError
        If k is not in 1 ... n.

    Notes
    -----
    O(k n²) operations on rationals: nothing is rounded, so ties are ties.
    """
    n = len(values)
    if not 1 <= k <= n:
        raise ValueError(f"k: expected 1 <= k <= {n} (the number of scores), got {k}")
    order = sorted(range(n), key=lambda i: values[i])
    deviation = _interval_deviations([Fraction(values[i]) for i in order])
    best: list[Fraction | None] = [deviation(0, j) if j else None for j in range(n + 1)]
    starts: list[list[int]] = [[0] * (n + 1)]
    for _ in range(1, k):
        best, start = _add_cluster(best, deviation)
        starts.append(start)
    labels, end = [0] * n, n
    for cluster in range(k - 1, -1, -1):
        begin = starts[cluster][end]
        for i in order[begin:end]:
            labels[i] = cluster
        end = begin
    return labels


def _add_cluster(
    best: list[Fraction | None], deviation: Callable[[int, int], Fraction]
) -> tuple[list[Fraction | None], list[int]]:
    """From the least sums with m clusters to those with m + 1, and where the last one begins."""
    n = len(best) - 1
    least: list[Fraction | None] = [None] * (n + 1)
    start = [0] * (n + 1)
    for end in range(1, n + 1):
        for begin in range(end - 1, 0, -1):
            before = best[begin]
            if before is None:
                continue
            total, so_far = before + deviation(begin, end), least[end]
            if so_far is None or total < so_far:
                least[end], start[end] = total, begin
    return least, start


def _interval_deviations(values: list[Fraction]) -> Callable[[int, int], Fraction]:
    """Sum of squared deviations from the mean of ``values[begin:end]``, by prefix sums."""
    sums, squares = [Fraction(0)], [Fraction(0)]
    for value in values:
        sums.append(sums[-1] + value)
        squares.append(squares[-1] + value * value)

    def deviation(begin: int, end: int) -> Fraction:
        total = sums[end] - sums[begin]
        return squares[end] - squares[begin] - total * total / (end - begin)

    return deviation


def _check_scores(scores: Scores, name: str) -> None:
    for key, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"{name}: expected finite numbers, got {score} for {key}")


def _check_costs(scores: Scores, costs: Mapping[str, float], name: str) -> None:
    if scores.keys() != costs.keys():
        different = sorted(scores.keys() ^ costs.keys())
        raise ValueError(f"{name}: expected the names of the scores, differing in {different}")
    for key, cost in costs.items():
        if not 0 < cost < math.inf:
            raise ValueError(f"{name}: expected positive numbers, got {cost} for {key}")


SELECTIONS: dict[str, Callable[..., tuple[str, ...]]] = {
    "budget": budget,
    "kmeans": kmeans,
    "threshold": threshold,
}

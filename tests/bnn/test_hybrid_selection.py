import math
from collections.abc import Iterator
from fractions import Fraction

import pytest

from bnn.hybrid import SELECTIONS, budget, cluster_1d, kmeans, layer_metric, threshold
from kernels import Purpose, uniform

# The authors' layer scores; layers count from 2.
SKETCH_A_NET = "7.19,14.40,13.06,15.48,19.62,41.40"
RESNET_18 = "7.78,8.46,7.51,7.68,8.90,7.16,8.94,8.60,10.47,8.40,9.87,10.01,12.75,10.79,13.67,13.95"
SQUEEZENET = (
    "14.82,17.58,8.84,11.96,6.98,8.99,6.06,10.70,6.93,9.60,6.27,8.66,6.18,8.39,7.87,6.12,"
    "12.18,17.84,11.56"
)


def scores_of(published: str) -> dict[str, float]:
    return {str(number): float(x) for number, x in enumerate(published.split(","), start=2)}


def numbers(names: tuple[str, ...]) -> list[int]:
    return [int(name) for name in names]


def test_published_scores_give_the_published_choices() -> None:
    assert numbers(kmeans(scores_of(SKETCH_A_NET), 4, 2)) == [6, 7]
    # The published set of ResNet-18 is no threshold: it leaves out layer 10, whose 10.47 is more
    # than the 9.87 of layer 12.
    assert numbers(kmeans(scores_of(RESNET_18), 3, 2)) == [10, 12, 13, 14, 15, 16, 17]
    published = [2, 3, 4, 5, 7, 9, 11, 13, 15, 18, 19, 20]
    assert numbers(threshold(scores_of(SQUEEZENET), 8.0)) == published
    for k in range(2, 6):
        for top in range(1, k):
            assert numbers(kmeans(scores_of(SQUEEZENET), k, top)) != published


def test_threshold_is_inclusive() -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 2.5}
    assert threshold(scores, 2.0) == ("b", "c")
    assert threshold(scores, math.inf) == ()
    assert threshold(scores, -math.inf) == ("a", "b", "c")


def partitions(items: list[Fraction], k: int) -> Iterator[list[list[Fraction]]]:
    """All partitions into k non-empty sets, intervals or not."""
    if len(items) < k or k == 0:
        if not items and k == 0:
            yield []
        return
    first, rest = items[0], items[1:]
    for partition in partitions(rest, k - 1):
        yield [[first], *partition]
    for partition in partitions(rest, k):
        for i in range(k):
            yield [*partition[:i], [first, *partition[i]], *partition[i + 1 :]]


def deviation(cluster: list[Fraction]) -> Fraction:
    mean = sum(cluster) / len(cluster)
    return sum(((x - mean) ** 2 for x in cluster), Fraction(0))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (5, 2), (6, 3), (7, 1), (7, 7), (8, 4)])
def test_clusters_are_the_best_of_all_partitions(n: int, k: int) -> None:
    for seed in range(3):
        # A coarse grid, so that there are equal values and ties between partitions.
        draws = uniform(seed, Purpose.DIAGNOSTICS, n)[0]
        values = [round(float(x) * 20) / 8 for x in draws]
        labels = cluster_1d(values, k)
        clusters = [
            [Fraction(v) for v, m in zip(values, labels, strict=True) if m == c] for c in range(k)
        ]
        assert all(clusters)
        assert [max(c) for c in clusters[:-1]] <= [min(c) for c in clusters[1:]]
        best = min(
            sum(map(deviation, partition), Fraction(0))
            for partition in partitions([Fraction(v) for v in values], k)
        )
        assert sum(map(deviation, clusters), Fraction(0)) == best


def test_ten_values_in_two_and_three_clusters_by_brute_force() -> None:
    values = [float(x) for x in uniform(9, Purpose.DIAGNOSTICS, 10)[0]]
    exact = [Fraction(v) for v in values]
    for k in (2, 3):
        labels = cluster_1d(values, k)
        own = sum(
            (
                deviation([v for v, m in zip(exact, labels, strict=True) if m == c])
                for c in range(k)
            ),
            Fraction(0),
        )
        assert own == min(sum(map(deviation, p), Fraction(0)) for p in partitions(exact, k))


def test_metric_goes_from_the_order_of_errors_to_that_of_cheapness() -> None:
    errors = {"a": 0.3, "b": 0.9, "c": 0.6, "d": 0.1}
    macs = {"a": 100, "b": 4000, "c": 50, "d": 800}

    def ranking(gamma: float) -> str:
        metric = layer_metric(errors, macs, gamma)
        return "".join(sorted(metric, key=metric.__getitem__, reverse=True))

    assert ranking(0.0) == "bcad"
    assert ranking(1e12) == "cadb"
    assert layer_metric(errors, macs, 20.0) == {
        "a": 0.3 + 0.2,
        "b": 0.9 + 0.005,
        "c": 0.6 + 0.4,
        "d": 0.1 + 0.025,
    }


def test_budget_takes_the_best_ratios_first() -> None:
    gains = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 0.0, "e": -1.0}
    costs = {"a": 1.0, "b": 8.0, "c": 2.0, "d": 0.1, "e": 0.1}
    # Ratios: c 1.5, a 1, b 0.5.
    assert [budget(gains, costs, limit) for limit in (0, 1.9, 2, 3, 10.9, 11, 1e9)] == [
        (),
        (),
        ("c",),
        ("a", "c"),
        ("a", "c"),
        ("a", "b", "c"),
        ("a", "b", "c"),
    ]


def test_budget_is_never_exceeded_and_only_ever_adds_names() -> None:
    for seed in range(20):
        draws = uniform(seed, Purpose.DIAGNOSTICS, 24)[0].astype(float)
        gains = {str(i): x - 0.2 for i, x in enumerate(draws[:12])}
        costs = {str(i): x + 0.01 for i, x in enumerate(draws[12:])}
        before: set[str] = set()
        for step in range(40):
            chosen = budget(gains, costs, step * 0.2)
            assert sum(costs[name] for name in chosen) <= step * 0.2 + 1e-12
            assert before <= set(chosen)
            before = set(chosen)
        assert before == {name for name, gain in gains.items() if gain > 0}


def test_bad_choices_are_refused() -> None:
    scores = {"a": 1.0, "b": 2.0}
    with pytest.raises(ValueError, match=r"k: expected 1 <= k <= 2"):
        kmeans(scores, 3, 1)
    with pytest.raises(ValueError, match=r"top: expected 0 <= top <= k = 2, got 3"):
        kmeans(scores, 2, 3)
    with pytest.raises(ValueError, match=r"scores: expected finite numbers, got nan for a"):
        threshold({"a": math.nan}, 0.0)
    with pytest.raises(ValueError, match=r"level: expected a number"):
        threshold(scores, math.nan)
    with pytest.raises(ValueError, match=r"limit: expected 0 or more"):
        budget(scores, {"a": 1.0, "b": 1.0}, -1.0)
    with pytest.raises(ValueError, match=r"costs: expected positive numbers, got 0 for b"):
        budget(scores, {"a": 1, "b": 0}, 1.0)
    with pytest.raises(ValueError, match=r"macs: expected the names of the scores.*\['b', 'c'\]"):
        layer_metric(scores, {"a": 1, "c": 1}, 1.0)
    with pytest.raises(ValueError, match=r"gamma: expected 0 <= gamma"):
        layer_metric(scores, {"a": 1, "b": 1}, -1.0)


def test_selections_return_names_in_the_order_of_the_scores() -> None:
    scores = {"late": 3.0, "early": 2.0, "never": -1.0}
    arguments: dict[str, dict[str, object]] = {
        "budget": {"costs": {"late": 2.0, "early": 1.0, "never": 1.0}, "limit": 3.0},
        "kmeans": {"k": 2, "top": 1},
        "threshold": {"level": 1.5},
    }
    assert arguments.keys() == SELECTIONS.keys()
    for name, select in SELECTIONS.items():
        assert select(scores, **arguments[name]) == ("late", "early")

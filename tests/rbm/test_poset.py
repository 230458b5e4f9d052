import itertools

import numpy as np
import pytest

from rbm.models.poset import frequent_itemsets, moebius, zeta

EXACT = 1e-10


def random_poset(seed: int, size: int = 13) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = rng.choice(np.arange(1, 64), size - 1, replace=False)
    return np.concatenate([[0], masks]).astype(np.int64)


def test_zeta_is_inclusion() -> None:
    masks = np.array([0b00, 0b01, 0b10, 0b11])
    expected = [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert zeta(masks, masks).tolist() == expected


def test_moebius_of_the_power_set_is_the_parity_of_the_difference() -> None:
    masks = np.arange(16)
    size = np.bitwise_count(masks).astype(int)
    parity = (-1.0) ** (size[None, :] - size[:, None])
    assert np.array_equal(moebius(masks), parity * zeta(masks, masks))


@pytest.mark.parametrize("seed", range(5))
def test_moebius_inverts_zeta_and_obeys_its_recursion(seed: int) -> None:
    masks = random_poset(seed)
    relation, inverse = zeta(masks, masks), moebius(masks)
    assert np.array_equal(inverse @ relation, np.eye(13))
    for x, y in itertools.product(range(13), repeat=2):
        if x != y and relation[x, y]:
            below = [s for s in range(13) if relation[x, s] and relation[s, y] and s != y]
            assert inverse[x, y] == -sum(inverse[x, s] for s in below)


@pytest.mark.parametrize("seed", range(3))
def test_round_trips_between_theta_eta_and_p(seed: int) -> None:
    masks = random_poset(seed)
    relation, inverse = zeta(masks, masks), moebius(masks)
    p = np.random.default_rng(seed).dirichlet(np.ones(13))
    theta = np.log(p) @ inverse  # theta(x) = sum_s mu(s, x) log p(s)
    eta = relation @ p  # eta(x) = sum_{s >= x} p(s)
    assert np.allclose(theta @ relation, np.log(p), atol=EXACT)
    assert np.allclose(inverse @ eta, p, atol=EXACT)
    assert theta[0] == pytest.approx(np.log(p[0]), abs=EXACT)
    assert eta[0] == pytest.approx(1.0, abs=EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_the_two_metrics_are_inverse(seed: int) -> None:
    masks = random_poset(seed)
    relation, inverse = zeta(masks, masks), moebius(masks)
    p = np.random.default_rng(seed).dirichlet(np.ones(13))
    eta = relation @ p
    g_theta = (relation * p) @ relation.T - np.outer(eta, eta)
    g_eta = inverse.T @ np.diag(1 / p) @ inverse
    assert np.allclose(g_theta[1:, 1:] @ g_eta[1:, 1:], np.eye(12), atol=1e-8)


def test_a_repeated_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        moebius(np.array([0, 1, 1]))


@pytest.mark.parametrize("min_support", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("max_order", [1, 2, 4])
def test_itemsets_are_those_of_an_exhaustive_search(min_support: float, max_order: int) -> None:
    rng = np.random.default_rng(1)
    bits = (rng.random((37, 6)) < 0.45).astype(np.uint8)  # 37 rows: a ragged last byte
    found = dict(zip(*frequent_itemsets(bits, min_support=min_support, max_order=max_order)))  # noqa: B905
    expected = {}
    for order in range(1, max_order + 1):
        for units in itertools.combinations(range(6), order):
            count = int(bits[:, units].all(axis=1).sum())
            if count and count / 37 >= min_support:
                expected[sum(1 << unit for unit in units)] = count
    assert found == expected


def test_a_support_equal_to_the_threshold_counts() -> None:
    bits = np.array([[1], [1], [1], [0], [0], [0], [0], [0], [0], [0]], dtype=np.uint8)
    masks, counts = frequent_itemsets(bits, min_support=0.3, max_order=1)
    assert (masks.tolist(), counts.tolist()) == ([1], [3])
    assert frequent_itemsets(bits, min_support=0.31, max_order=1)[0].size == 0

"""Philox4x32-10: known answers, addressing, and moments with tolerances from their variances."""

import numpy as np
import pytest

from kernels import Purpose, normal, permutation, random_words, uniform
from kernels.philox import philox4x32

N_DRAWS = 200_000
N_SIGMA = 5.0  # of a sample moment; one draw in 2 million runs would miss, but the seed is fixed

# Random123, kat_vectors: philox4x32 10
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter, key, words) -> None:
    assert tuple(philox4x32(np.array(counter, np.uint32), key).tolist()) == words


def test_a_draw_is_addressed_by_key_and_counter() -> None:
    seed, row, step, index, element = (7 << 32) | 9, 11, 13, 17, 6
    words = random_words(seed, Purpose.GIBBS_HIDDEN, 8, rows=row, step=step, index=index)
    counter = np.array([element // 4, row, step, 3 << 24 | index], np.uint32)
    assert words[0, element] == philox4x32(counter, (9, 7))[element % 4]


def test_draws_do_not_depend_on_how_rows_are_split() -> None:
    whole = random_words(5, Purpose.GIBBS_VISIBLE, 10, rows=np.arange(8), step=3)
    parts = [random_words(5, Purpose.GIBBS_VISIBLE, 10, rows=r, step=3) for r in ([0, 1], [5], [7])]
    assert np.array_equal(np.concatenate(parts), whole[[0, 1, 5, 7]])


@pytest.mark.parametrize("n_elements", [1, 3, 4, 5, 8])
def test_a_shorter_stream_is_the_beginning_of_a_longer_one(n_elements: int) -> None:
    long = random_words(5, Purpose.SWAPS, 9)
    assert np.array_equal(random_words(5, Purpose.SWAPS, n_elements), long[:, :n_elements])
    for draw in (uniform, normal):
        assert np.array_equal(
            draw(5, Purpose.SWAPS, n_elements), draw(5, Purpose.SWAPS, 9)[:, :n_elements]
        )


def test_every_part_of_the_address_changes_the_draw() -> None:
    base = {"rows": 1, "step": 1, "index": 1}
    draws = [random_words(1, Purpose.SWAPS, 4, **base)]
    draws += [random_words(1, Purpose.SWAPS, 4, **{**base, name: 2}) for name in base]
    draws += [random_words(2, Purpose.SWAPS, 4, **base)]
    draws += [random_words(1 + (1 << 32), Purpose.SWAPS, 4, **base)]
    draws += [random_words(1, Purpose.SEARCH, 4, **base)]
    assert len({tuple(d.ravel().tolist()) for d in draws}) == len(draws)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 1 << 64),
        ("step", 1 << 32),
        ("step", -1),
        ("index", 1 << 24),
        ("rows", [0, 1 << 32]),
        ("rows", [-1]),
    ],
)
def test_what_does_not_fit_a_field_is_refused(field: str, value: object) -> None:
    arguments = {"seed": 0, **{field: value}}
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        random_words(purpose=Purpose.SWAPS, n_elements=1, **arguments)  # type: ignore[arg-type]


def test_the_largest_values_of_the_fields_are_accepted() -> None:
    words = random_words((1 << 64) - 1, Purpose.DIAGNOSTICS, 1, rows=(1 << 32) - 1, step=(1 << 32) - 1, index=(1 << 24) - 1)  # fmt: skip
    assert words.shape == (1, 1)


def test_uniform_is_the_top_24_bits() -> None:
    words = random_words(3, Purpose.DROPOUT, 1000)
    drawn = uniform(3, Purpose.DROPOUT, 1000)
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn.astype(np.float64), (words >> 8) / 2**24)
    assert 0 <= drawn.min()
    assert drawn.max() < 1


def test_normal_is_box_muller_of_neighbouring_uniforms() -> None:
    u = uniform(3, Purpose.INITIAL_WEIGHTS, 2).astype(np.float64)[0]
    radius = np.sqrt(-2 * np.log(1 - u[0]))
    expected = [radius * np.cos(2 * np.pi * u[1]), radius * np.sin(2 * np.pi * u[1])]
    # One float32 rounding of a value below 8.
    assert np.abs(normal(3, Purpose.INITIAL_WEIGHTS, 2)[0] - expected).max() < 8 * 2.0**-24


@pytest.mark.parametrize(
    ("power", "moment", "next_moment"), [(1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105)]
)
def test_normal_moments(power: int, moment: int, next_moment: int) -> None:
    z = normal(1, Purpose.INITIAL_WEIGHTS, N_DRAWS).astype(np.float64)
    # Var of the mean of z**k is (E z**2k - (E z**k)**2) / n.
    sigma = np.sqrt((next_moment - moment**2) / N_DRAWS)
    assert abs((z**power).mean() - moment) < N_SIGMA * sigma


def test_neighbouring_normals_are_uncorrelated() -> None:
    z = normal(1, Purpose.INITIAL_WEIGHTS, N_DRAWS).astype(np.float64)[0]
    pairs = (z[0::2] * z[1::2]).mean()  # variance 1 / (n / 2)
    assert abs(pairs) < N_SIGMA * np.sqrt(2 / N_DRAWS)


def test_uniform_moments() -> None:
    u = uniform(2, Purpose.DIAGNOSTICS, N_DRAWS).astype(np.float64)
    assert abs(u.mean() - 0.5) < N_SIGMA * np.sqrt(1 / 12 / N_DRAWS)


@pytest.mark.parametrize("n_elements", [0, 1, 2, 1000])
def test_permutation_visits_every_sample_once(n_elements: int) -> None:
    order = permutation(4, n_elements, epoch=2)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n_elements))


def test_permutation_depends_on_seed_and_epoch_only() -> None:
    order = permutation(4, 100, epoch=2)
    assert np.array_equal(order, permutation(4, 100, epoch=2))
    assert not np.array_equal(order, permutation(4, 100, epoch=3))
    assert not np.array_equal(order, permutation(5, 100, epoch=2))
    words = random_words(4, Purpose.DATA_ORDER, 100, step=2)[0]
    assert np.array_equal(order, np.argsort(words, kind="stable"))

import math

import pytest
import torch

from bnn.losses.reduction import check, check_one_hot, logits_of, reduce, signs_of, softplus

VALUES = torch.tensor([[1.0, 2.0], [4.0, 8.0]])


@pytest.mark.parametrize(
    ("weight", "mask", "normalize", "none", "mean"),
    [
        (None, None, "elements", [[1, 2], [4, 8]], 15 / 4),
        ([3, 1], None, "elements", [[3, 2], [12, 8]], 25 / 4),
        ([3, 1], None, "weights", [[3, 2], [12, 8]], 25 / 8),
        ([[3], [1]], None, "weights", [[3, 6], [4, 8]], 21 / 8),
        (None, [[1, 0], [1, 1]], "elements", [[1, 0], [4, 8]], 13 / 3),
        (None, [[1, 0], [1, 1]], "weights", [[1, 0], [4, 8]], 13 / 3),
        ([3, 1], [[1, 0], [1, 1]], "elements", [[3, 0], [12, 8]], 23 / 3),
        ([3, 1], [[1, 0], [1, 1]], "weights", [[3, 0], [12, 8]], 23 / 7),
        (None, [[0], [1]], "elements", [[0, 0], [4, 8]], 12 / 2),
        (None, [[0], [0]], "elements", [[0, 0], [0, 0]], 0.0),
        ([0, 0], None, "weights", [[0, 0], [0, 0]], 0.0),
    ],
)
def test_values(weight, mask, normalize, none, mean) -> None:
    arguments = {
        "weight": None if weight is None else torch.tensor(weight),
        "mask": None if mask is None else torch.tensor(mask),
        "normalize": normalize,
    }
    assert reduce(VALUES, **arguments, reduction="none").tolist() == none
    assert float(reduce(VALUES, **arguments, reduction="sum")) == sum(map(sum, none))
    assert float(reduce(VALUES, **arguments)) == pytest.approx(mean, rel=1e-6)


def test_an_ignored_value_may_be_anything() -> None:
    values = torch.tensor([1.0, math.nan, math.inf], requires_grad=True)
    mean = reduce(values, mask=torch.tensor([True, False, False]))
    assert float(mean.detach()) == 1
    mean.backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 0.0]


def test_an_empty_batch_costs_nothing() -> None:
    assert float(reduce(torch.zeros(0, 3))) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": torch.ones(3)}, r"weight: .*broadcasts to \(2, 2\), got \(3,\)"),
        ({"weight": torch.ones(1, 2, 2)}, "weight: expected a shape"),
        ({"weight": torch.tensor([1.0, -1.0])}, "weight: expected finite values >= 0, got -1 to 1"),
        ({"weight": torch.tensor([1.0, math.inf])}, "got 1 to inf"),
        ({"mask": torch.ones(3)}, "mask: expected a shape"),
        ({"mask": torch.tensor([1.0, 0.5])}, r"mask: expected values in \{0, 1\}, got 0.5 to 1"),
        ({"reduction": "avg"}, "reduction: expected one of mean, sum, none, got 'avg'"),
        ({"normalize": "count"}, "normalize: expected one of elements, weights, got 'count'"),
    ],
)
def test_reduce_refuses(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        reduce(VALUES, **arguments)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([-1, 1], r"got -1 to 1; turn -1 and \+1 into 0 and 1 by \(targets \+ 1\) / 2"),
        ([-1, -1], r"by \(targets \+ 1\) / 2"),
        ([0, 7], "got 0 to 7; one-hot the class numbers first"),
        ([0.5, 1], "got 0.5 to 1; this loss takes no soft labels"),
        ([-0.5, 3], "map the labels to 0 and 1"),
        ([math.nan, 1], r"targets: expected values in \{0, 1\}"),
        ([0, 1, 1], r"the shape of the logits \(2,\), got \(3,\)"),
    ],
)
def test_check_names_the_wrong_range_and_the_way_out(targets, words) -> None:
    with pytest.raises(ValueError, match=words):
        check(torch.zeros(2), torch.tensor(targets))


def test_soft_labels_only_where_allowed() -> None:
    soft = torch.tensor([0.25, 1.0], dtype=torch.float64)
    assert check(torch.zeros(2), soft, soft=True).tolist() == [0.25, 1.0]
    assert check(torch.zeros(2), soft, soft=True).dtype == torch.float32
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], got 0 to 1.5"):
        check(torch.zeros(2), torch.tensor([0.0, 1.5]), soft=True)


def test_check_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="got 2 NaN or infinite of 3"):
        check(torch.tensor([math.nan, 0.0, -math.inf]), torch.zeros(3))
    with pytest.raises(TypeError, match=r"logits: expected a floating dtype, got torch\.int64"):
        check(torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    with pytest.raises(TypeError, match="targets: expected a Tensor, got list"):
        check(torch.zeros(3), [0, 0, 0])


def test_one_hot_rows() -> None:
    rows = torch.tensor([[0, 1], [1, 0]])
    assert check_one_hot(torch.zeros(2, 2), rows).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="expected one 1 per row, got 1 to 2"):
        check_one_hot(torch.zeros(2, 2), torch.tensor([[1, 1], [1, 0]]))
    with pytest.raises(ValueError, match=r"expected shape \(N, C >= 2\), got \(3, 1\)"):
        check_one_hot(torch.zeros(3, 1), torch.ones(3, 1))


def test_probabilities_become_logits_within_the_clamp() -> None:
    p = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64, requires_grad=True)
    logits = logits_of(p, from_probs=True)
    bound = math.log((1 - 1e-7) / 1e-7)
    expected = [-bound, -math.log(3), 0.0, math.log(9), bound]
    assert logits.tolist() == pytest.approx(expected, rel=1e-7)
    (slope,) = torch.autograd.grad(logits.sum(), p)
    assert slope.tolist() == pytest.approx([0, 1 / 0.1875, 4, 1 / 0.09, 0])


def test_probabilities_outside_their_range_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"\[0, 1\] \(from_probs=True\), got -2 to 0.5; pass logits"
    ):
        logits_of(torch.tensor([-2.0, 0.5]), from_probs=True)
    with pytest.raises(ValueError, match="got nan to nan"):
        logits_of(torch.tensor([math.nan, 0.5]), from_probs=True)


def test_half_precision_probabilities_stay_finite() -> None:
    logits = logits_of(torch.tensor([0.0, 1.0], dtype=torch.bfloat16), from_probs=True)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())


def test_what_a_sigmoid_or_softmax_made_is_no_logit() -> None:
    z = torch.linspace(-3, 3, 20, requires_grad=True)
    for squashed in (torch.sigmoid(z), torch.softmax(z, 0)):
        with pytest.raises(ValueError, match="expected values before the sigmoid"):
            logits_of(squashed, from_probs=False)
        logits_of(squashed, from_probs=True)
        with pytest.warns(UserWarning, match="logits: all 20 values lie in"):
            logits_of(squashed.detach(), from_probs=False)


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(100),
        torch.full((100,), 0.4),
        torch.linspace(0.1, 0.9, 15),
        torch.linspace(-0.01, 1, 100),
    ],
)
def test_ordinary_logits_pass_untouched(logits) -> None:
    assert logits_of(logits, from_probs=False) is logits


def test_signs_and_softplus() -> None:
    assert signs_of(torch.tensor([0.0, 1.0, 0.25])).tolist() == [-1.0, 1.0, -0.5]
    u = torch.tensor([-800.0, -21.0, 0.0, 21.0, 800.0], dtype=torch.float64)
    expected = [0.0, math.log1p(math.exp(-21)), math.log(2), 21 + math.log1p(math.exp(-21)), 800.0]
    assert softplus(u).tolist() == pytest.approx(expected, rel=1e-14)

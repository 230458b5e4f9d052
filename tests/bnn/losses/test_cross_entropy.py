import math

import pytest
import torch
import torch.nn.functional as F

from bnn.losses import (
    binary_cross_entropy,
    effective_number_weights,
    effective_numbers,
    inverse_frequency_weights,
    label_weights,
    positive_weights,
    smooth_labels,
    unweighted_logits,
)
from kernels import Purpose, normal, uniform

SEED = 3


def problem(n: int = 60, n_labels: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.from_numpy(4 * normal(SEED, Purpose.DIAGNOSTICS, n_labels, rows=range(n))).double()
    u = uniform(SEED, Purpose.DIAGNOSTICS, n_labels, rows=range(n), index=1)
    return z, torch.from_numpy(u < 0.3).double()


@pytest.mark.parametrize(
    ("logit", "target", "loss"),
    [
        (0.0, 0.0, 0.693147),
        (0.0, 1.0, 0.693147),
        (2.0, 1.0, 0.126928),
        (-2.0, 0.0, 0.126928),
        (2.0, 0.0, 2.126928),
        (2.0, 0.5, 1.126928),
    ],
)
def test_values(logit, target, loss) -> None:
    found = binary_cross_entropy(torch.tensor([logit]), torch.tensor([target]))
    assert float(found) == pytest.approx(loss, abs=1e-6)


def test_large_logits_are_exact() -> None:
    z = torch.tensor([1000.0, 1000.0, 1e4, -1e4, 3e38])
    y = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    loss = binary_cross_entropy(z, y, reduction="none")
    assert loss.tolist() == [1000.0, 0.0, 1e4, 0.0, 0.0]


def test_labels_mirror() -> None:
    z, y = problem()
    mirrored = binary_cross_entropy(-z, 1 - y, reduction="none")
    assert torch.equal(mirrored, binary_cross_entropy(z, y, reduction="none"))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_equals_that_of_torch(reduction, is_weighted) -> None:
    z, y = problem()
    z.requires_grad_()
    weight = pos_weight = None
    if is_weighted:
        weight = torch.linspace(0.5, 2, 60, dtype=torch.float64).unsqueeze(1)
        pos_weight = torch.tensor([0.5, 1, 3, 7], dtype=torch.float64)
    ours = binary_cross_entropy(z, y, weight, reduction, pos_weight=pos_weight)
    theirs = F.binary_cross_entropy_with_logits(
        z, y, weight, reduction=reduction, pos_weight=pos_weight
    )
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)
    slopes = [torch.autograd.grad(loss.sum(), z)[0] for loss in (ours, theirs)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-9)


def test_gradient_formula() -> None:
    z, y = problem()
    z.requires_grad_()
    loss = binary_cross_entropy(z, y, reduction="sum", pos_weight=5.0)
    (slope,) = torch.autograd.grad(loss, z)
    expected = torch.sigmoid(z) * (1 - y + 5 * y) - 5 * y
    assert torch.allclose(slope, expected, rtol=0, atol=1e-12)


def test_integer_pos_weight_is_oversampling() -> None:
    z, y = problem(40, 1)
    z, y, k = z[:, 0], y[:, 0], 4
    copies = torch.where(y == 1, k, 1)
    repeated = binary_cross_entropy(
        z.repeat_interleave(copies), y.repeat_interleave(copies), reduction="sum"
    )
    weighted = binary_cross_entropy(z, y, reduction="sum", pos_weight=k)
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-12)
    assert float(weighted) > 1.2 * float(binary_cross_entropy(z, y, reduction="sum"))


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_constant_model_finds_the_prior_and_its_weighted_twin_is_correctable(p) -> None:
    prior = 0.2
    y = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    optimum = p * prior / (p * prior + 1 - prior)
    z = torch.tensor(math.log(optimum / (1 - optimum)), dtype=torch.float64, requires_grad=True)
    loss = binary_cross_entropy(z.expand(5), y, pos_weight=p)
    assert abs(float(torch.autograd.grad(loss, z)[0])) < 1e-12
    corrected = torch.sigmoid(unweighted_logits(z.detach(), p))
    assert float(corrected) == pytest.approx(prior, abs=1e-12)


def test_many_labels_are_the_mean_of_each() -> None:
    z, y = problem()
    per_label = [binary_cross_entropy(z[:, c], y[:, c]) for c in range(4)]
    assert float(binary_cross_entropy(z, y)) == pytest.approx(float(sum(per_label)) / 4, rel=1e-12)
    assert float(binary_cross_entropy(z[:, :1], y[:, :1])) == float(per_label[0])
    summed = binary_cross_entropy(z, y, over_labels="sum")
    assert float(summed) == pytest.approx(float(sum(per_label)), rel=1e-12)


def test_labels_added_up_per_sample() -> None:
    z, y = torch.zeros(3, 2), torch.tensor([[0, 1], [1, 1], [0, 0]])
    mask = torch.tensor([[1, 1], [1, 0], [0, 0]])
    ln2 = math.log(2)
    rows = binary_cross_entropy(z, y, reduction="none", over_labels="sum", mask=mask)
    assert rows.tolist() == pytest.approx([2 * ln2, ln2, 0])
    mean = binary_cross_entropy(z, y, over_labels="sum", mask=mask)
    assert float(mean) == pytest.approx(3 * ln2 / 2)
    with pytest.raises(ValueError, match="over_labels: expected mean, or sum"):
        binary_cross_entropy(z[:, 0], y[:, 0], over_labels="sum")


def test_smoothing() -> None:
    assert smooth_labels(torch.tensor([0.0, 1.0]), 0.1).tolist() == pytest.approx([0.05, 0.95])
    z, y = problem()
    smoothed = binary_cross_entropy(z, y, smoothing=0.1)
    assert float(smoothed) == float(binary_cross_entropy(z, 0.9 * y + 0.05))
    with pytest.raises(ValueError, match="smoothing: expected 0 <= smoothing <= 1, got 2"):
        smooth_labels(y, 2)


def test_probabilities_give_the_same_loss_inside_the_clamp() -> None:
    z, y = problem()
    expected = binary_cross_entropy(z, y)
    assert float(binary_cross_entropy(torch.sigmoid(z), y, from_probs=True)) == pytest.approx(
        float(expected), rel=1e-6
    )
    certain = binary_cross_entropy(torch.tensor([1.0]), torch.tensor([0.0]), from_probs=True)
    assert float(certain) == pytest.approx(-math.log(1e-7), rel=0.02)  # 1 - 1e-7 in float32


def test_effective_numbers() -> None:
    counts = torch.tensor([10, 100, 1000, 10000])
    assert effective_numbers(counts).tolist() == pytest.approx(
        [9.955, 95.21, 632.3, 999.95], rel=5e-5
    )
    assert effective_numbers(counts, 0.0).tolist() == [1.0] * 4
    assert effective_numbers(counts, 1 - 1e-12).tolist() == pytest.approx(counts.tolist(), rel=1e-3)


def test_effective_number_weights_lie_between_uniform_and_inverse_frequency() -> None:
    counts = torch.tensor([10, 1000])
    assert effective_number_weights(counts, 0.0).tolist() == [1.0, 1.0]
    inverse = inverse_frequency_weights(counts)
    assert inverse.tolist() == pytest.approx([1010 / 20, 1010 / 2000])
    weights = effective_number_weights(counts)
    assert float(weights.sum()) == pytest.approx(2)
    assert float(weights[0] / weights[1]) == pytest.approx(632.305 / 9.95512, rel=1e-5)
    limit = effective_number_weights(counts, 1 - 1e-9)
    assert (limit / limit.sum()).tolist() == pytest.approx(
        (inverse / inverse.sum()).tolist(), rel=1e-5
    )


def test_positive_weights_balance_and_are_clipped() -> None:
    y = torch.zeros(1000, 4)
    y[:200, 0] = 1
    y[:800, 1] = 1
    y[:1, 2] = 1
    assert positive_weights(y).tolist() == [4.0, 1.0, 100.0, 100.0]
    assert float(positive_weights(y[:, 0])) == 4.0


def test_label_weights_pick_by_target() -> None:
    y = torch.tensor([[0, 1], [1, 0]])
    assert label_weights(y, torch.tensor([1.0, 9.0])).tolist() == [[1, 9], [9, 1]]
    pairs = torch.tensor([[1.0, 9.0], [2.0, 5.0]])
    assert label_weights(y, pairs).tolist() == [[1, 5], [9, 2]]
    with pytest.raises(ValueError, match=r"class_weights: .*got \(3,\)"):
        label_weights(y, torch.ones(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda z, y: binary_cross_entropy(z, y, pos_weight=-1.0), "pos_weight: expected finite"),
        (lambda z, y: binary_cross_entropy(z, y, pos_weight=torch.ones(60)), r"shape \(C,\)"),
        (lambda z, y: binary_cross_entropy(z, y, pos_weight=math.nan), "got nan"),
        (lambda z, y: unweighted_logits(z, 0.0), "expected finite values > 0, got 0"),
        (lambda z, y: effective_numbers(torch.tensor([3]), 1.0), "the limit 1 is inverse_freq"),
        (lambda z, y: effective_numbers(torch.tensor([3, 0])), r"at least once, got \[3, 0\]"),
    ],
)
def test_bad_parameters_are_refused(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call(*problem())

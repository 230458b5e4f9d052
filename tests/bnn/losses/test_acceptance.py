"""What holds for every loss of the table; a new line there is tested without a line here.

Where a loss differs by its nature, its name stands in one of the sets below, with the reason.
"""

import inspect
import itertools

import pytest
import torch
from torch import Tensor

from bnn.losses import LOSSES
from kernels import Purpose, random_words

NAMES = sorted(LOSSES)
COMMON = {"logits", "targets", "weight", "reduction", "mask", "normalize"}
ONE_HOT = {"crammer_singer", "softmax_focal"}
"""One class per sample: a value per row."""
SUMS_LABELS = {"dbe_joint"}
"""The mean is over samples, the sum over labels, as the paper has it."""
WEIGHTS_A_REGION = {"unified_focal"}
"""Weights enter a ratio of sums, so the loss is not linear in them."""
N, C = 50, 4
FLOAT32 = 1e-5


def problem(name: str, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """200 logits in [-6, 6] at least 0.03 from where a loss has a kink, and their targets."""
    words = torch.from_numpy(random_words(seed, Purpose.DIAGNOSTICS, 2 * N * C)[0].astype("int64"))
    # Halves, shifted differently per column: neither z = -1, 0, 1 nor z_i - z_j = 0, 1 is near.
    grid = (words[: N * C] >> 8).remainder(25).sub(12).reshape(N, C).double() / 2
    logits = grid + torch.tensor([0.37, 0.40, 0.43, 0.46], dtype=torch.float64)
    draws = (words[N * C :] >> 8).reshape(N, C)
    if name in ONE_HOT:
        targets = torch.nn.functional.one_hot(draws[:, 0].remainder(C), C)
    else:
        targets = (draws.remainder(3) == 0).long()
    return logits.to(dtype), targets.to(dtype)


def per_sample(name: str, values: Tensor) -> Tensor:
    """A factor per sample in the shape the loss weighs by."""
    return values if name in ONE_HOT else values.unsqueeze(1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return bool(((a - b).abs() <= tolerance * b.abs().clamp(min=1)).all())


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_the_common_one(name: str) -> None:
    parameters = inspect.signature(LOSSES[name]).parameters
    assert set(parameters) >= COMMON
    assert list(parameters)[:2] == ["logits", "targets"]
    assert parameters["reduction"].default == "mean"


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    logits, targets = problem(name)
    logits.requires_grad_()
    for reduction in ("mean", "sum"):
        assert torch.autograd.gradcheck(
            lambda z, r=reduction: LOSSES[name](z, targets, reduction=r), logits
        )


@pytest.mark.parametrize("name", NAMES)
def test_gradient_descends_to_the_targets(name: str) -> None:
    """Every loss is lower where every score is on its side, and its slope never points away."""
    logits, targets = problem(name)
    toward = 2 * targets - 1
    assert LOSSES[name](12 * toward, targets) < LOSSES[name](logits, targets)
    logits.requires_grad_()
    LOSSES[name](logits, targets).backward()
    assert logits.grad is not None
    assert float((logits.grad * toward).sum()) < 0


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_are_finite(name: str) -> None:
    rows = list(itertools.product([0.0, 20.0, -20.0, 1e4, -1e4], repeat=2))
    labels = [[1.0, 0.0], [0.0, 1.0]]
    if name not in ONE_HOT:
        labels += [[1.0, 1.0], [0.0, 0.0]]
    pairs = list(itertools.product(rows, labels))
    logits = torch.tensor([row for row, _ in pairs], requires_grad=True)
    targets = torch.tensor([label for _, label in pairs])
    for reduction in ("none", "mean"):
        loss = LOSSES[name](logits, targets, reduction=reduction)
        assert bool(torch.isfinite(loss).all())
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name: str) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        logits, targets = problem(name, dtype=dtype)
        # Rounded first, so that both see the same logits.
        logits = problem(name, dtype=torch.float32)[0].to(dtype).requires_grad_()
        values = LOSSES[name](logits, targets, reduction="none")
        assert values.dtype == dtype
        results.append((values, *torch.autograd.grad(values.sum(), logits)))
    for single, double in zip(*results, strict=True):
        assert close(single.double(), double, FLOAT32)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_raised(name: str) -> None:
    logits, targets = problem(name, dtype=torch.float32)
    rounded = logits.bfloat16()
    loss = LOSSES[name](rounded, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](rounded.float(), targets))


@pytest.mark.parametrize("name", NAMES)
def test_integer_and_boolean_targets_mean_the_same(name: str) -> None:
    logits, targets = problem(name)
    expected = LOSSES[name](logits, targets)
    assert torch.equal(LOSSES[name](logits, targets.long()), expected)
    assert torch.equal(LOSSES[name](logits, targets.bool()), expected)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_is_irrelevant(name: str) -> None:
    logits, targets = problem(name)
    order = torch.arange(N).mul(7).add(3).remainder(N)
    values = LOSSES[name](logits, targets, reduction="none")
    permuted = LOSSES[name](logits[order], targets[order], reduction="none")
    assert close(permuted, values[order])
    assert close(LOSSES[name](logits[order], targets[order]), LOSSES[name](logits, targets))


@pytest.mark.parametrize("name", NAMES)
def test_reductions_agree(name: str) -> None:
    logits, targets = problem(name)
    values = LOSSES[name](logits, targets, reduction="none")
    assert values.shape == ((N,) if name in ONE_HOT else (N, C))
    assert close(LOSSES[name](logits, targets, reduction="sum"), values.sum())
    n_counted = N if name in SUMS_LABELS else values.numel()
    assert close(LOSSES[name](logits, targets, reduction="mean"), values.sum() / n_counted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_masked_samples_are_as_if_absent(name: str, reduction: str) -> None:
    logits, targets = problem(name)
    kept = torch.arange(N).remainder(3) != 0
    logits.requires_grad_()
    masked = LOSSES[name](logits, targets, mask=per_sample(name, kept), reduction=reduction)
    # A default drawn from the targets sees only those that count.
    assert close(masked, LOSSES[name](logits[kept], targets[kept], reduction=reduction))
    (gradient,) = torch.autograd.grad(masked, logits)
    assert not bool(gradient[~kept].any())


@pytest.mark.parametrize("name", NAMES)
def test_everything_masked_is_zero(name: str) -> None:
    logits, targets = problem(name)
    logits.requires_grad_()
    loss = LOSSES[name](logits, targets, mask=per_sample(name, torch.zeros(N)))
    assert float(loss.detach()) == 0
    assert not bool(torch.autograd.grad(loss, logits)[0].any())


@pytest.mark.parametrize("name", sorted(set(NAMES) - WEIGHTS_A_REGION))
def test_doubling_a_weight_doubles_that_part(name: str) -> None:
    logits, targets = problem(name)
    chosen = targets[:, 0] if name in ONE_HOT else targets
    values = LOSSES[name](logits, targets, reduction="none")
    doubled = LOSSES[name](logits, targets, weight=1 + chosen, reduction="none")
    assert close(doubled, values * (1 + chosen))
    total = LOSSES[name](logits, targets, weight=1 + chosen, reduction="sum")
    assert close(total, values.sum() + (values * chosen).sum())
    # Divided by the count, not by the weights.
    n_counted = N if name in SUMS_LABELS else values.numel()
    assert close(LOSSES[name](logits, targets, weight=1 + chosen), total / n_counted)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_normalise_do_not_scale(name: str) -> None:
    logits, targets = problem(name)
    weight = per_sample(name, torch.full((N,), 3.0))
    loss = LOSSES[name](logits, targets, weight=weight, normalize="weights")
    # Not exact where a ratio of sums is smoothed by a constant.
    assert close(loss, LOSSES[name](logits, targets), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused_in_one_line(name: str) -> None:
    loss = LOSSES[name]
    logits, targets = problem(name)
    broken = logits.clone()
    broken[3, 1] = torch.nan
    nan_weight = per_sample(name, torch.full((N,), torch.nan))
    for kind, words, call in [
        (ValueError, "targets: expected the shape", lambda: loss(logits, targets[:, 0])),
        (ValueError, r"by \(targets \+ 1\) / 2", lambda: loss(logits, 2 * targets - 1)),
        (ValueError, "targets: expected values in", lambda: loss(logits, 3 * targets)),
        (ValueError, "got 1 NaN or infinite of 200", lambda: loss(broken, targets)),
        (ValueError, "weight: expected finite", lambda: loss(logits, targets, weight=nan_weight)),
        (ValueError, "reduction: .*got 'avg'", lambda: loss(logits, targets, reduction="avg")),
        (TypeError, "logits: .*floating", lambda: loss(logits.long(), targets)),
        (TypeError, "logits: expected a Tensor", lambda: loss(logits.tolist(), targets)),
    ]:
        with pytest.raises(kind, match=words) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_as_logits_are_noticed(name: str) -> None:
    logits, targets = problem(name)
    squashed = torch.sigmoid(logits.requires_grad_())
    with pytest.raises(ValueError, match="before the sigmoid"):
        LOSSES[name](squashed, targets)
    with pytest.warns(UserWarning, match="all 200 values lie in"):
        LOSSES[name](squashed.detach(), targets)

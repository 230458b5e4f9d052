import pytest
import torch
import torch.nn.functional as F

from bnn.losses.unified_focal import unified_focal

P = torch.tensor([0.9, 0.2, 0.6, 0.1], dtype=torch.float64)
Y = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
Z = torch.logit(P)
# The values were published to six digits; the smoothing of 1e-7 moves the seventh.
VALUE = 6e-7


def batch(n: int, n_labels: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, n_labels, generator=generator, dtype=torch.float64)
    targets = (torch.rand(n, n_labels, generator=generator) < 0.3).double()
    targets[0], targets[1] = 1, 0
    return logits, targets


@pytest.mark.parametrize(
    ("is_symmetric", "tversky_weight", "value"),
    [
        (False, 0.5, 0.215469),
        (False, 1.0, 0.325200),
        (False, 0.0, 0.105739),
        (True, 0.5, 0.257168),
        (True, 1.0, 0.447566),
        (True, 0.0, 0.066770),
    ],
)
def test_values(is_symmetric, tversky_weight, value) -> None:
    options = {"is_symmetric": is_symmetric, "tversky_weight": tversky_weight}
    assert float(unified_focal(Z, Y, **options)) == pytest.approx(value, abs=VALUE)
    assert float(unified_focal(P, Y, from_probs=True, **options)) == pytest.approx(value, abs=VALUE)


def test_without_focus_it_is_half_dice_and_a_quarter_cross_entropy() -> None:
    symmetric = unified_focal(Z, Y, delta=0.5, gamma=0.0, is_symmetric=True)
    assert torch.equal(symmetric, unified_focal(Z, Y, delta=0.5, gamma=0.0))
    assert float(symmetric) == pytest.approx(0.159294, abs=VALUE)
    dice = [2 * float(y @ p) / float((y + p).sum()) for y, p in ((Y, P), (1 - Y, 1 - P))]
    by_hand = 0.5 * (1 - sum(dice) / 2) + 0.25 * float(F.binary_cross_entropy(P, Y))
    assert float(symmetric) == pytest.approx(by_hand, abs=1e-7)


def test_focal_term_alone_is_elementwise() -> None:
    p0, p1 = 1 - P, P
    asymmetric = -0.4 * (1 - p0) ** 0.5 * (1 - Y) * p0.log() - 0.6 * Y * p1.log()
    values = unified_focal(Z, Y, tversky_weight=0.0, reduction="none")
    torch.testing.assert_close(values, asymmetric, rtol=1e-12, atol=0)
    symmetric = asymmetric * torch.where(Y == 1, (1 - p1) ** 0.5, 1.0)
    values = unified_focal(Z, Y, tversky_weight=0.0, is_symmetric=True, reduction="none")
    torch.testing.assert_close(values, symmetric, rtol=1e-12, atol=0)
    # The foreground is focused in the symmetric term only, so it can only be smaller.
    logits, targets = batch(200, 2)
    terms = [
        unified_focal(logits, targets, tversky_weight=0.0, is_symmetric=s, reduction="none")
        for s in (False, True)
    ]
    assert bool((terms[0] >= terms[1]).all())
    assert bool((terms[0] > terms[1])[targets == 1].all())


def test_index_alone_is_one_number_of_a_region() -> None:
    logits, targets = batch(40, 3)
    values = unified_focal(logits, targets, tversky_weight=1.0, gamma=0.0, reduction="none")
    p = logits.sigmoid()
    for label in range(3):
        rest = []
        for y, q in ((targets[:, label], p[:, label]), (1 - targets[:, label], 1 - p[:, label])):
            tp, fn, fp = y @ q, y @ (1 - q), (1 - y) @ q
            rest.append(1 - tp / (tp + 0.6 * fn + 0.4 * fp))
        assert values[:, label].tolist() == pytest.approx([float(sum(rest)) / 2] * 40, abs=1e-7)
    by_row = unified_focal(logits.T, targets.T, tversky_weight=1.0, gamma=0.0, axis=1)
    assert float(by_row) == pytest.approx(float(values.mean()), abs=1e-12)


def test_labels_are_averaged() -> None:
    logits, targets = batch(40, 3)
    alone = [float(unified_focal(logits[:, c], targets[:, c])) for c in range(3)]
    assert float(unified_focal(logits, targets)) == pytest.approx(sum(alone) / 3, abs=1e-12)


def test_perfect_prediction_costs_nothing() -> None:
    for is_symmetric in (False, True):
        loss = unified_focal(1e4 * (2 * Y - 1), Y, is_symmetric=is_symmetric)
        # What is left is the bound of 1e-7 under the root.
        assert 0 <= float(loss) <= 0.5 * 1e-7**0.5 + 1e-12


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_falls_towards_the_target(is_symmetric) -> None:
    logits, targets = batch(50, 1)
    logits.requires_grad_()
    loss = unified_focal(logits, targets, is_symmetric=is_symmetric)
    (slope,) = torch.autograd.grad(loss, logits)
    assert bool((slope * (2 * targets - 1) < 0).all())


@pytest.mark.parametrize("is_symmetric", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_gradient(is_symmetric, gamma) -> None:
    logits, targets = batch(30, 2)
    logits.requires_grad_()

    def loss(z: torch.Tensor) -> torch.Tensor:
        return unified_focal(z, targets, gamma=gamma, is_symmetric=is_symmetric, reduction="none")

    assert torch.autograd.gradcheck(loss, logits)
    probabilities = logits.detach().sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: unified_focal(p, targets, gamma=gamma, from_probs=True), probabilities
    )


def test_gradient_where_the_index_is_held() -> None:
    logits = (30 * (2 * Y - 1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: unified_focal(z, Y), logits, atol=1e-9)
    for certainty in (0.0, 20.0, 1e4):
        z = torch.tensor([certainty, -certainty, certainty], requires_grad=True)
        for y in (torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 0])):
            loss = unified_focal(z, y)
            (slope,) = torch.autograd.grad(loss, z)
            assert bool(torch.isfinite(loss))
            assert bool(torch.isfinite(slope).all())


def test_region_without_foreground() -> None:
    logits, targets = torch.full((20,), -9.0, dtype=torch.float64), torch.zeros(20).double()
    logits[0] = -9.5
    options = {"tversky_weight": 1.0, "gamma": 0.0}
    p = logits.sigmoid()
    background = 0.6 * float(p.sum()) / float(((1 - p) + 0.6 * p).sum())
    assert float(unified_focal(logits, targets, **options)) == pytest.approx(background, abs=1e-9)
    harsh = float(unified_focal(logits, targets, skip_empty=False, **options))
    assert harsh == pytest.approx(0.5 * (background + 1), abs=1e-3)
    softened = float(unified_focal(logits, targets, skip_empty=False, smooth=1.0, **options))
    lost = 0.4 * float(p.sum())
    by_hand = 0.5 * (0.6 * float(p.sum()) / (20 - 0.4 * float(p.sum()) + 1) + lost / (lost + 1))
    assert softened == pytest.approx(by_hand, abs=1e-9)


def test_delta_weighs_missed_foreground() -> None:
    for delta in (0.2, 0.8):
        options = {"delta": delta, "gamma": 0.0, "tversky_weight": 0.0, "reduction": "none"}
        missed, false = unified_focal(
            torch.tensor([-2.0, 2.0]), torch.tensor([1.0, 0.0]), **options
        ).tolist()
        assert missed / false == pytest.approx(delta / (1 - delta), rel=1e-6)


def test_weight_is_a_number_of_copies_and_a_mask_leaves_out() -> None:
    logits, targets = batch(12, 2)
    copies = torch.tensor([1, 2, 0, 3, 1, 1, 2, 0, 0, 1, 1, 4])
    repeated = [t.repeat_interleave(copies, dim=0) for t in (logits, targets)]
    weighted = unified_focal(logits, targets, weight=copies[:, None], reduction="sum")
    assert float(weighted) == pytest.approx(
        float(unified_focal(*repeated, reduction="sum")), abs=1e-9
    )
    mask = copies[:, None] > 0
    kept = unified_focal(logits[mask[:, 0]], targets[mask[:, 0]])
    assert float(unified_focal(logits, targets, mask=mask)) == pytest.approx(float(kept), abs=1e-12)
    assert float(unified_focal(logits, targets, mask=torch.zeros(12, 2))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, r"gamma: expected a value in \[0, 1\), got 1.0"),
        ({"delta": 1.5}, r"delta: expected a value in \[0, 1\], got 1.5"),
        ({"tversky_weight": -1}, r"tversky_weight: expected a value in \[0, 1\], got -1"),
        ({"smooth": 0.0}, "smooth: expected smooth > 0, got 0.0"),
        ({"axis": 1}, r"axis: expected an axis of logits \(4,\), got 1"),
    ],
)
def test_bad_parameters(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        unified_focal(Z, Y, **options)


def test_soft_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets: expected values in \{0, 1\}"):
        unified_focal(Z, 0.9 * Y)

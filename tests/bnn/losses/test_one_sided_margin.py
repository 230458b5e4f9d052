import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bnn.losses.one_sided_margin import decision_boundary, one_sided_margin
from bnn.quantizers import ste_sign

# Two roundings of float32 on scores of a few units.
FLOAT32 = 5e-7
THRESHOLDS = [(1.0, 0.0), (1.0, -1.0), (0.0, -1.0), (2.5, 0.75)]


def hinge(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (1 - (2 * targets - 1) * scores).clamp(min=0)


def scores_and_targets(n: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(n, generator=generator)
    return scores, (torch.rand(n, generator=generator) < 0.5).float()


@pytest.mark.parametrize(("m_p", "m_n"), THRESHOLDS)
@pytest.mark.parametrize("power", [1, 2])
def test_is_a_shifted_and_scaled_hinge(m_p, m_n, power) -> None:
    scores, targets = scores_and_targets()
    values = one_sided_margin(
        scores, targets, positive_margin=m_p, negative_margin=m_n, power=power, reduction="none"
    )
    centre, half = (m_p + m_n) / 2, (m_p - m_n) / 2
    by_hinge = half**power * hinge((scores - centre) / half, targets) ** power
    # Squaring doubles the relative error and values reach 64.
    torch.testing.assert_close(values, by_hinge, atol=FLOAT32, rtol=4 * FLOAT32)


def test_values_and_slopes() -> None:
    scores = torch.tensor([-0.5, 0.0, 0.25, 1.0, 2.0], requires_grad=True)
    expected = {
        (1, 1): ([1.5, 1.0, 0.75, 0.0, 0.0], [-1.0, -1.0, -1.0, 0.0, 0.0]),
        (0, 1): ([0.0, 0.0, 0.25, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0, 1.0]),
        (1, 2): ([2.25, 1.0, 0.5625, 0.0, 0.0], [-3.0, -2.0, -1.5, 0.0, 0.0]),
        (0, 2): ([0.0, 0.0, 0.0625, 1.0, 4.0], [0.0, 0.0, 0.5, 2.0, 4.0]),
    }
    for (label, power), (values, slopes) in expected.items():
        loss = one_sided_margin(scores, torch.full((5,), label), power=power, reduction="none")
        assert loss.tolist() == values
        assert torch.autograd.grad(loss.sum(), scores)[0].tolist() == slopes


def test_hinge_and_squared_hinge() -> None:
    scores, targets = scores_and_targets()
    options = {"positive_margin": 1.0, "negative_margin": -1.0, "reduction": "none"}
    assert torch.equal(one_sided_margin(scores, targets, **options), hinge(scores, targets))
    squared = one_sided_margin(scores, targets, power=2, **options)
    assert torch.equal(squared, hinge(scores, targets).square())


@pytest.mark.parametrize(("m_p", "m_n"), THRESHOLDS)
def test_zero_exactly_beyond_the_threshold(m_p, m_n) -> None:
    scores, targets = scores_and_targets()
    scores[:4], targets[:4] = torch.tensor([m_p, m_p, m_n, m_n]), torch.tensor([1.0, 0, 1, 0])
    values = one_sided_margin(
        scores, targets, positive_margin=m_p, negative_margin=m_n, reduction="none"
    )
    satisfied = torch.where(targets == 1, scores >= m_p, scores <= m_n)
    assert torch.equal(values == 0, satisfied)


@pytest.mark.parametrize("m_n", [1.0, 1.5, float("nan")])
def test_thresholds_out_of_order(m_n) -> None:
    scores, targets = scores_and_targets(4)
    with pytest.raises(ValueError, match="positive_margin: expected more than negative_margin"):
        one_sided_margin(scores, targets, negative_margin=m_n)
    with pytest.raises(ValueError, match="positive_margin: expected more than negative_margin"):
        decision_boundary(1.0, m_n)


def test_negative_side_is_the_mirror_image() -> None:
    scores, targets = scores_and_targets()
    mirrored = one_sided_margin(scores, targets, side="negative", reduction="none")
    assert torch.equal(mirrored, one_sided_margin(-scores, 1 - targets, reduction="none"))
    explicit = one_sided_margin(
        scores, targets, positive_margin=0.0, negative_margin=-1.0, reduction="none"
    )
    assert torch.equal(mirrored, explicit)


def test_boundary_is_the_midpoint() -> None:
    assert decision_boundary() == 0.5
    assert decision_boundary(side="negative") == -0.5
    assert decision_boundary(3.0, -1.0) == 1.0
    # There the two classes cost the same, which is what makes it the boundary.
    for label in (0, 1):
        at_boundary = one_sided_margin(torch.tensor([0.5]), torch.tensor([label]))
        assert float(at_boundary) == 0.5


@pytest.mark.parametrize("negatives", ["all", "mean", "hardest"])
def test_two_classes_are_the_binary_loss_and_its_mirror_image(negatives) -> None:
    scores, targets = scores_and_targets()
    columns = torch.stack((-scores, scores), dim=1)
    one_hot = torch.stack((1 - targets, targets), dim=1)
    two_class = one_sided_margin(columns, one_hot, negatives=negatives)
    binary = [one_sided_margin(scores, targets, side=side) for side in ("positive", "negative")]
    assert float(two_class) == pytest.approx(float(sum(binary)) / 2, rel=1e-6)


def test_negatives_of_a_row() -> None:
    scores = torch.tensor([[2.0, 0.5, 3.0, -1.0], [0.5, 0.5, 0.5, 0.25]])
    one_hot = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]])
    loss = {
        negatives: one_sided_margin(scores, one_hot, negatives=negatives, reduction="none")
        for negatives in ("all", "mean", "hardest")
    }
    assert loss["all"].tolist() == [[0.0, 0.5, 3.0, 0.0], [0.5, 0.5, 0.5, 0.25]]
    third = [[0.0, 0.5 / 3, 1.0, 0.0], [0.5 / 3, 0.5 / 3, 0.5, 0.25 / 3]]
    torch.testing.assert_close(loss["mean"], torch.tensor(third))
    assert loss["hardest"].tolist() == [[0.0, 0.0, 3.0, 0.0], [0.5, 0.0, 0.5, 0.0]]
    masked = one_sided_margin(
        scores, one_hot, negatives="hardest", mask=torch.tensor([1, 1, 0, 1]), reduction="none"
    )
    assert masked.tolist() == [[0.0, 0.5, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]


def test_row_without_negatives() -> None:
    for negatives in ("mean", "hardest"):
        loss = one_sided_margin(torch.tensor([[0.0, 2.0]]), torch.ones(1, 2), negatives=negatives)
        assert float(loss) == 0.5


@pytest.mark.parametrize("power", [1, 2])
def test_gradient(power) -> None:
    scores, targets = scores_and_targets(200)
    scores = scores.double()
    scores[(scores.abs() < 1e-3) | ((scores - 1).abs() < 1e-3)] += 0.01
    scores = scores.reshape(50, 4).requires_grad_()
    for negatives in ("all", "mean", "hardest"):
        assert torch.autograd.gradcheck(
            lambda s, n=negatives: one_sided_margin(
                s, targets.double().reshape(50, 4), power=power, negatives=n, reduction="none"
            ),
            scores,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 3}, "power: expected 1 or 2, got 3"),
        ({"side": "left"}, "side: expected one of positive, negative, got 'left'"),
        ({"negatives": "some"}, "negatives: expected one of all, mean, hardest, got 'some'"),
        ({"negatives": "mean"}, r"negatives: expected logits of shape \(N, C\) for 'mean'"),
    ],
)
def test_bad_choices(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        one_sided_margin(torch.zeros(3), torch.ones(3), **options)


def digits_accuracy(digits, seed: int, **options) -> float:
    """Test accuracy of a 64-256-10 network with binary weights and activations."""
    generator = torch.Generator().manual_seed(seed)
    x, x_test = (
        torch.from_numpy(images.reshape(-1, 64).astype(np.float32)) / 127.5 - 1
        for images in (digits.train_images, digits.test_images)
    )
    labels = torch.from_numpy(digits.train_labels)
    one_hot = F.one_hot(labels, 10)
    first, last = (
        ((2 * torch.rand(shape, generator=generator) - 1) / 10).requires_grad_()
        for shape in ((256, 64), (10, 256))
    )
    norms = [torch.nn.BatchNorm1d(256), torch.nn.BatchNorm1d(10)]
    parameters = [first, last, *(p for norm in norms for p in norm.parameters())]
    adam = torch.optim.Adam(parameters, lr=1e-2)

    def forward(x: torch.Tensor) -> torch.Tensor:
        hidden = norms[0](x @ ste_sign(first).T)
        return norms[1](ste_sign(hidden) @ ste_sign(last).T)

    for _ in range(10):
        for rows in torch.randperm(len(x), generator=generator).split(128):
            adam.zero_grad()
            one_sided_margin(forward(x[rows]), one_hot[rows], **options).backward()
            adam.step()
            with torch.no_grad():
                first.clamp_(-1, 1)
                last.clamp_(-1, 1)
    for norm in norms:
        norm.eval()
    with torch.no_grad():
        predicted = forward(x_test).argmax(dim=1).numpy()
    return 100 * float((predicted == digits.test_labels).mean())


def test_digits_within_two_points_of_squared_hinge(digits) -> None:
    squared_hinge = {"positive_margin": 1.0, "negative_margin": -1.0, "power": 2}
    accuracy, reference = (
        np.mean([digits_accuracy(digits, seed, **options) for seed in range(3)])
        for options in ({}, squared_hinge)
    )
    assert reference > 85
    assert accuracy >= reference - 2

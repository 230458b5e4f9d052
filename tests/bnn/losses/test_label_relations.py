import math

import numpy as np
import pytest
import torch

from bnn.losses.label_relations import correlation_relations, emotion_relations


def test_emotions() -> None:
    relations = emotion_relations().double()
    assert torch.equal(relations, relations.T)
    assert relations.sum(dim=1).tolist() == [0.0] * 8
    assert relations.diagonal().tolist() == [1.0] * 8
    expected = [0.0] * 4 + [2 - math.sqrt(2)] * 2 + [2 + math.sqrt(2)] * 2
    assert torch.linalg.eigvalsh(relations).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[4::2] == pytest.approx([0.585786, 3.414214], abs=5e-7)
    # A wheel: one opposite, and two each of neighbours, of right angles and of 135 degrees.
    for row in relations.tolist():
        assert sorted(row) == [-1.0, -0.5, -0.5, 0.0, 0.0, 0.5, 0.5, 1.0]
    assert relations[0].tolist() == [1, -0.5, 0.5, -1, 0, -0.5, 0, 0.5]
    assert relations[4].tolist() == [0, -0.5, 0.5, 0, 1, 0.5, -1, -0.5]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("correlation", [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ("centred", [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1 / 3, -1 / 3, 2 / 3]]),
        ("sign", [[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]),
    ],
)
def test_relations_from_labels(form, expected) -> None:
    targets = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 1]])
    relations = correlation_relations(targets, form=form)
    torch.testing.assert_close(relations, torch.tensor(expected, dtype=torch.float64))


def test_relations_from_labels_are_pearsons() -> None:
    targets = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)).round()
    by_numpy = np.corrcoef(targets.numpy(), rowvar=False)
    assert np.abs(correlation_relations(targets).numpy() - by_numpy).max() < 1e-12
    rows = correlation_relations(targets, form="centred").sum(dim=1)
    assert rows.tolist() == pytest.approx([0.0] * 5, abs=1e-12)


def test_bad_input() -> None:
    targets = torch.ones(3, 2)
    for words, call in [
        ("form: expected one of correlation", lambda: correlation_relations(targets, form="cov")),
        ("targets: expected shape", lambda: correlation_relations(targets[:1])),
        (r"targets: expected values in \[0, 1\]", lambda: correlation_relations(2 * targets)),
    ]:
        with pytest.raises(ValueError, match=words):
            call()

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from flows.charts import confusion_chart, curves_chart, drawable


def tick_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Coat", "Coat"),
        ("two\n lines", "two lines"),
        ("exactly 18 letters", "exactly 18 letters"),
        ("a label of many more letters", "a label of many m\N{HORIZONTAL ELLIPSIS}"),
        ("\u65e5\u672c", "#7"),  # not in the font
        ("", "#7"),
    ],
)
def test_labels_fit_and_can_be_drawn(label: str, expected: str) -> None:
    assert drawable(label, 7) == expected


def test_confusion_shows_shares_and_counts() -> None:
    figure = confusion_chart(np.array([[3, 1], [0, 0]]), ["no", "yes"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25], [0, 0]])
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    assert tick_labels(figure) == ["no", "yes"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_a_hundred_long_labels_are_thinned_out_and_not_counted() -> None:
    names = [f"class number {index} of a hundred" for index in range(100)]
    figure = confusion_chart(np.eye(100, dtype=np.int64), names)
    labels = tick_labels(figure)
    assert len(labels) == 34  # every third
    assert max(map(len, labels)) == 18
    assert len(figure.axes[0].texts) == 0


def test_labels_are_no_mathematics() -> None:
    figure = confusion_chart(np.eye(2, dtype=np.int64), ["$x^2", "$\\frac$"])
    figure.draw_without_rendering()
    assert tick_labels(figure) == ["$x^2", "$\\frac$"]


def test_missing_labels_are_numbered() -> None:
    assert tick_labels(confusion_chart(np.eye(3, dtype=np.int64), ["a"])) == ["a", "1", "2"]


def test_confusion_must_be_square() -> None:
    with pytest.raises(ValueError, match=r"confusion: expected shape \(C, C\), got \(2, 3\)"):
        confusion_chart(np.zeros((2, 3), dtype=np.int64), [])


def test_curves_hold_the_points_of_the_record(sample_result: dict[str, Any]) -> None:
    figure = curves_chart(sample_result)
    assert figure is not None
    accuracy = figure.axes[0]
    bnn, twin, floor = accuracy.lines
    expected = [100 * row["accuracy"] for row in sample_result["bnn"]["curve"]]
    np.testing.assert_allclose(bnn.get_ydata(), expected)
    assert list(bnn.get_xdata()) == [row["step"] for row in sample_result["bnn"]["curve"]]
    assert [line.get_label() for line in (bnn, twin)] == ["BNN", "full-precision twin"]
    np.testing.assert_allclose(floor.get_ydata(), 84.12)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "accuracy / %",
        "loss / nats",
        "pseudo-log-likelihood / nats",
        "free-energy gap / nats",
        "KL divergence / nats",
    ]
    assert figure.axes[-1].get_yscale() == "log"


def test_points_without_a_value_are_left_out() -> None:
    curve = [{"step": 1, "kl": None}, {"step": 2, "kl": 0.0}, {"step": 3, "kl": float("inf")}]
    figure = curves_chart({"qbm": {"curve": curve}})
    assert figure is not None
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [2]
    assert axes.get_yscale() == "linear"  # zero has no logarithm


def test_no_curve_no_chart() -> None:
    assert curves_chart({}) is None

"""The pages of a run that was asked for the classifier alone: nothing else is on them."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.artifacts import TABLE_KEYS
from flows.readings import headlines
from flows.report import render_html, render_markdown
from flows.summary import summary_table
from flows.tables import TABLES, tables

MACHINES = ("RBM", "QBM", "Boltzmann", "likelihood", "KL divergence")


@pytest.fixture
def classifier_result(sample_result: dict[str, Any]) -> dict[str, Any]:
    sample_result["job"] = "bnn"
    sample_result["title"] = "fashion-mnist: binary convnet 32-64-128"
    for section in ("rbm", "tbm", "qbm", "bm"):
        del sample_result[section]
    for section in ("config", "seconds"):
        sample_result[section] = {
            name: value
            for name, value in sample_result[section].items()
            if not any(word in name for word in ("rbm", "tbm", "qbm", "bm"))
        }
    return sample_result


def summary(result: dict[str, Any]) -> str:
    console = Console(width=140, legacy_windows=False, record=True, file=open("/dev/null", "w"))
    with console.file:
        console.print(summary_table(result))
    return console.export_text()


def test_no_machine_is_on_any_page(classifier_result: dict[str, Any], tmp_path: Path) -> None:
    pages = {
        "html": render_html(classifier_result, tmp_path),
        "markdown": render_markdown(classifier_result),
        "terminal": summary(classifier_result),
    }
    for name, page in pages.items():
        assert "90.53 ± 0.29 %" in page.replace("**", ""), name
        assert "not measured" not in page, name
        assert not [word for word in MACHINES if word in page], name
    assert 'href="#machines"' not in pages["html"]
    assert [entry.name for entry in headlines(classifier_result)] == [
        "BNN test accuracy",
        "Model file",
        "Images with any differing bit",
        "ARM instructions per image",
    ]
    assert set(tables(classifier_result)) == set(TABLES) - {"likelihood", "divergence"}
    assert set(TABLE_KEYS) & set(tables(classifier_result)) == {
        "accuracy",
        "verification",
        "seconds",
    }


def test_every_other_run_has_all_tables(sample_result: dict[str, Any]) -> None:
    assert set(tables(sample_result)) == set(tables({})) == set(TABLES)
    assert len(headlines(sample_result)) == 6


def test_the_zoo_stands_beside_the_accuracy(classifier_result: dict[str, Any]) -> None:
    def zoo_reading() -> Any:
        return next(e for e in tables(classifier_result)["accuracy"] if e.name.startswith("Zoo"))

    classifier_result["zoo"] = {
        "recipe": "fashion-convnet",
        "expected_accuracy": 0.91,
        "expected_spread": 0.003,
        "changes": [],
    }
    reading = zoo_reading()
    assert (reading.name, reading.value) == ("Zoo, fashion-convnet", "91.00 ± 0.30 %")
    assert reading.beside == ("reproduced: the BNN is 0.47 points below it",)
    classifier_result["zoo"]["expected_accuracy"] = 0.93
    reading = zoo_reading()
    assert reading.beside == ("NOT REPRODUCED: the BNN is 2.47 points below it",)
    assert reading.tone == "warning"
    classifier_result["zoo"]["changes"] = ["bnn.epochs = 3"]
    assert zoo_reading().beside == ("not comparable, the run has bnn.epochs = 3",)
    classifier_result["zoo"] |= {"expected_accuracy": None, "expected_spread": None, "changes": []}
    assert zoo_reading().value == "not yet measured"
    assert "not yet measured" in render_markdown(classifier_result)

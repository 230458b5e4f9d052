import io
import re
from typing import Any

import pytest
from rich.console import Console

from flows.summary import summary_table


def printed(result: dict[str, Any], width: int = 120, *, is_terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
        legacy_windows=False,
    )
    console.print(summary_table(result))
    return stream.getvalue()


def line_of(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if words in line)


def test_each_figure_stands_beside_its_comparison(sample_result: dict[str, Any]) -> None:
    text = printed(sample_result)
    minus = "\N{MINUS SIGN}"
    assert text.startswith("3f9a0c57d2b14e68  fashion-mnist")
    assert "90.53 ± 0.29 %  10,000 test rows" in line_of(text, "BNN, one-bit")
    assert "91.80 %  the BNN is 1.27 points below it" in line_of(text, "Full-precision twin")
    assert "84.12 %  logistic regression on 10000 rows" in line_of(text, "Floor ")
    assert f"{minus}241.83 ± 0.81 nats  AIS, 100 chains" in line_of(text, "  RBM 784")
    assert "the RBM is 126.67 nats above it" in line_of(text, "Floor: independent bits")
    assert "0.0614 nats  the QBM is 0.0428 nats better" in line_of(text, "Quantum machine")
    assert "0 mismatches  equal to torch, bit for bit; 10,000 images" in text
    assert "3,184,922" in line_of(text, "ARM instructions")
    assert "Time  4 min 22 s  train bnn 2 min 01 s, train rbm 1 min 36 s" in text
    assert "train tbm" not in text
    assert "UNRELIABLE" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_figures_are_never_cut(sample_result: dict[str, Any], width: int) -> None:
    text = printed(sample_result, width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("90.53 ± 0.29 %", "241.83 ± 0.81 nats", "0 mismatches", "3,184,922"):
        assert figure in text


def test_mismatches_are_red_and_come_last(sample_result: dict[str, Any]) -> None:
    sample_result["verify"]["host_mismatches"] = 3
    last = printed(sample_result).splitlines()[-1]
    assert last.startswith(
        "Images with any differing bit, 3: host: 3 mismatches on 10,000 images, DO NOT SHIP"
    )
    bold_red = "\x1b[1;31m"
    coloured = printed(sample_result, 200, is_terminal=True)
    assert bold_red + "Images with any" in coloured
    assert re.search(re.escape(bold_red) + " *3 mismatches", coloured)


def test_unreliable_estimate_is_said(sample_result: dict[str, Any]) -> None:
    sample_result["rbm"]["is_reliable"] = False
    last = printed(sample_result, 300).splitlines()[-1]
    assert "RBM test log-likelihood" in last
    assert "UNRELIABLE" in last


def test_names_are_no_markup(sample_result: dict[str, Any]) -> None:
    sample_result["title"] = "[red]data[/nothing]"
    sample_result["bnn"]["floor_method"] = "[bold]x[/]"
    text = printed(sample_result)
    assert "[red]data[/nothing]" in text
    assert "[bold]x[/]" in text


def test_an_empty_record_prints() -> None:
    assert "not measured" in printed({})

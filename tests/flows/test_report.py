import base64
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.pictures import draw_pictures
from flows.report import escape_markdown, render_html, render_markdown, write_report


@pytest.fixture
def run_dir(sample_result: dict[str, Any], sample_arrays: dict[str, Any], tmp_path: Path) -> Path:
    """A folder with one small picture, named in the record."""
    arrays = {"rbm_samples": sample_arrays["rbm_samples"][:4]}
    pictures = draw_pictures({}, arrays, tmp_path)
    sample_result["pictures"] = [asdict(picture) for picture in pictures]
    return tmp_path


class Page(HTMLParser):
    """Text of a page, and its tags in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_shows_the_figures_of_the_run(sample_result: dict[str, Any], run_dir: Path) -> None:
    page = Page(render_html(sample_result, run_dir))
    minus, times = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
    for words in (
        "90.53 ± 0.29 %",
        "full-precision twin 91.80 %",
        "floor 84.12 % (logistic regression on 10000 rows)",
        f"{minus}241.83 ± 0.81 nats",
        f"AIS, 100 chains {times} 1,000 temperatures",
        "effective sample size 34.2 of 100 chains",
        "0.0614 nats",
        "BM 0.1042 nats",
        "TBM 0.2070 nats",
        "25,344 bytes",
        "host: none on 10,000 images",
        "ARM: none on 256 images",
        "3,184,922",
        f"28 {times} 28 {times} 1",
        "the system package was found; no --data was given",
        "7,225,344 of 1 bit, 237,312 of 8 bit",
        "3f9a0c57d2b14e68",
        "took 4 min 22 s",
        "bnn.learning_rate",
        "oneDNN",
        "cd" * 32,
    ):
        assert words in page.text, words
    assert page.open == []
    assert "not measured" not in page.text
    assert not any("notice" in (attributes.get("class") or "") for _, attributes in page.tags)


def test_page_needs_no_other_file(sample_result: dict[str, Any], run_dir: Path) -> None:
    html = render_html(sample_result, run_dir)
    page = Page(html)
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    source = image["src"] or ""
    png = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
    assert png == (run_dir / "samples.png").read_bytes()
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert links
    assert all(link[0] == "#" and link[1:] in anchors for link in links)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html


def test_page_is_the_same_twice(sample_result: dict[str, Any], run_dir: Path) -> None:
    assert render_html(sample_result, run_dir) == render_html(sample_result, run_dir)


def test_names_of_users_are_text(sample_result: dict[str, Any], run_dir: Path) -> None:
    names = ["<b>bold</b>", "a|b", "*x*_y_", "</style><script>alert(1)</script>"]
    sample_result["data"].update(label_names=names, reason="<i>why</i>", source='"><img src=x>')
    sample_result["bnn"]["confusion"] = (np.ones((4, 4), int) * 9).tolist()
    sample_result["title"] = "<h1>title"
    page = Page(render_html(sample_result, run_dir))
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "i", "script"})
    assert [tag for tag, _ in page.tags].count("img") == 1
    assert "<b>bold</b>, a|b, *x*_y_" in page.text

    markdown = render_markdown(sample_result)
    assert "&lt;b&gt;bold&lt;/b&gt;" in markdown
    assert r"a\|b, \*x\*\_y\_" in markdown
    assert not re.search(r"<[a-z/]", markdown)


def test_mismatches_are_red_and_in_words(sample_result: dict[str, Any], run_dir: Path) -> None:
    sample_result["verify"]["arm_mismatches"] = 2
    page = Page(render_html(sample_result, run_dir))
    classes = [attributes.get("class") for tag, attributes in page.tags if tag in ("p", "li", "tr")]
    assert classes.count("notice bad") == 1
    assert classes.count("bad") == 2  # the card and the row of the table
    assert "2 mismatches on 256 images, DO NOT SHIP" in page.text
    assert "integers differ from torch: DO NOT SHIP" in page.text
    assert "> **Images with any differing bit, 2:**" in render_markdown(sample_result)


def test_unreliable_estimate_is_said_at_the_top(
    sample_result: dict[str, Any], run_dir: Path
) -> None:
    sample_result["rbm"]["is_reliable"] = False
    page = Page(render_html(sample_result, run_dir))
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "p"]
    assert classes.count("notice warning") == 1
    assert page.text.index("UNRELIABLE") < page.text.index("90.53 ± 0.29 %")


def test_null_reads_not_measured(sample_result: dict[str, Any], run_dir: Path) -> None:
    sample_result["qbm"] = None
    sample_result["verify"]["arm_instructions_per_image"] = None
    for text in (
        Page(render_html(sample_result, run_dir)).text,
        render_markdown(sample_result).replace("**", ""),
    ):
        assert re.search(r"Quantum machine \(QBM\)[ |]*not measured", text)
        assert re.search(r"ARM instructions per image[ |]*not measured", text)


def test_an_empty_record_renders(tmp_path: Path) -> None:
    page = Page(render_html({}, tmp_path))
    assert page.open == []
    assert "not measured" in page.text
    assert "None" not in page.text
    assert "None" not in render_markdown({})


def test_resumed_run_says_from_where(sample_result: dict[str, Any], run_dir: Path) -> None:
    assert "resumed from" not in render_html(sample_result, run_dir)
    sample_result["resumed_from"] = "bnn step 400 of 700"
    assert "resumed from bnn step 400 of 700" in render_html(sample_result, run_dir)
    assert "Resumed from bnn step 400 of 700." in render_markdown(sample_result)


def test_longest_step_has_the_longest_bar(sample_result: dict[str, Any], run_dir: Path) -> None:
    html = render_html(sample_result, run_dir)
    widths = [float(width) for width in re.findall(r'class="bar" style="width: ([\d.]+)%"', html)]
    assert len(widths) == len(sample_result["seconds"]) - 1
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 100  # the BNN
    assert widths[1] == pytest.approx(100 * 96.0 / 121.4, abs=0.05)


def test_layer_columns_do_not_follow_the_order_of_the_record(
    sample_result: dict[str, Any], run_dir: Path
) -> None:
    sorted_keys = json.loads(json.dumps(sample_result, sort_keys=True))
    markdown = render_markdown(sorted_keys)
    titles = "| name | output shape | weight bits | weights | MACs | float bytes | packed bytes |"
    assert titles in markdown
    assert markdown.count("| head | 1 \N{MULTIPLICATION SIGN} 1") == 1
    assert render_html(sorted_keys, run_dir).count('<th scope="row">stages.1</th>') == 1


def test_markdown_tables_have_equal_rows(sample_result: dict[str, Any], run_dir: Path) -> None:
    markdown = render_markdown(sample_result)
    assert "\n\n\n" not in markdown
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block
        assert set(lines[1]) <= set("|-:")
    assert markdown.count("[What the RBM imagines](samples.png)") == 1
    assert "samples.png" not in render_markdown(sample_result, with_pictures=False)


def test_markdown_escapes_letter_by_letter() -> None:
    assert escape_markdown("a`b\\c & <i>\n#1 ~x~ $y$ [z]") == (
        r"a\`b\\c &amp; &lt;i&gt; \#1 \~x\~ \$y\$ \[z\]"
    )


def test_both_files_are_written(sample_result: dict[str, Any], run_dir: Path) -> None:
    write_report(sample_result, run_dir)
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    assert html == render_html(sample_result, run_dir)
    assert html.startswith("<!DOCTYPE html>")
    assert (run_dir / "report.md").read_text(encoding="utf-8") == render_markdown(sample_result)


def test_missing_picture_is_named(sample_result: dict[str, Any], tmp_path: Path) -> None:
    sample_result["pictures"] = [{"file": "gone.png", "title": "", "caption": ""}]
    with pytest.raises(ValueError, match=r"gone\.png.*draw the pictures first"):
        render_html(sample_result, tmp_path)

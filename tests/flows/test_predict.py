"""Predictions of one's own files: the runtime's integers with names, and one line for what does not fit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bnn
from bnn import Runtime
from flows.cli import main
from flows.predict import softmax

LABELS = ["ß", "[red]shirt[/]", "boot"]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bitspin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitspin", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of images, one of tables, and files for both."""
    folder = tmp_path_factory.mktemp("predict")
    net = bnn.BinaryConvNet((6, 5, 1), 3, widths=(8, 16), seed=4)
    bnn.export(net, folder / "images.bspn", {"labels": list(LABELS)})
    table = bnn.BinaryConvNet((1, 1, 4), 2, widths=(8, 8), seed=5)
    ranges = [[0.0, 1.0], [-2.0, 2.0], [5.0, 5.0], [0.0, 255.0]]
    bnn.export(table, folder / "table.bspn", {"labels": ["no", "yes"], "column_ranges": ranges})
    pixels = images()
    Image.fromarray(pixels[0, ..., 0]).save(folder / "a.png")
    Image.fromarray(np.repeat(pixels[1], 3, axis=2)).save(folder / "colour.png")
    np.savez(folder / "plain.npz", images=pixels[..., 0])
    np.savez(folder / "labelled.npz", images=pixels, labels=np.array(["boot"] * 4))
    np.save(folder / "array.npy", pixels)
    (folder / "named.csv").write_text("a,b,c,d,class\n0.5,-2,7,51,yes\n2,1,5,-3,no\n")
    (folder / "bare.csv").write_text("0.5,-2,7,51\n2,1,5,-3\n")
    return folder


def images() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(1).integers(0, 256, (4, 6, 5, 1), dtype=np.uint8)


def test_an_image_gets_the_runtimes_scores_and_names(bitspin: Call, folder: Path) -> None:
    model = folder / "images.bspn"
    code, out, err = bitspin("predict", model, folder / "a.png", "--top", 3, "--json")
    assert (code, err) == (0, "")
    (prediction,) = json.loads(out)
    runtime = Runtime(model)
    integers = runtime(images()[:1])[0]
    scale = runtime.metadata["output_scale"]
    assert isinstance(scale, float)
    assert prediction["source"] == str(folder / "a.png")
    assert [guess["index"] for guess in prediction["guesses"]] == np.argsort(
        -integers.astype(np.int64), kind="stable"
    ).tolist()
    for guess in prediction["guesses"]:
        assert guess["label"] == LABELS[guess["index"]]
        assert guess["score"] == float(integers[guess["index"]]) * scale
    total = sum(guess["probability"] for guess in prediction["guesses"])
    assert total == pytest.approx(1)
    assert prediction["truth"] is None


def test_softmax_does_not_overflow_and_keeps_ratios() -> None:
    shares = softmax(np.array([[5000.0, 5000.0 + np.log(3.0)], [0.0, -np.log(4.0)]]))
    assert shares == pytest.approx(np.array([[0.25, 0.75], [0.8, 0.2]]))


@pytest.mark.parametrize("name", ["plain.npz", "array.npy", "labelled.npz"])
def test_arrays_are_predicted_row_by_row(bitspin: Call, folder: Path, name: str) -> None:
    model = folder / "images.bspn"
    code, out, err = bitspin("predict", model, folder / name, "--json")
    assert (code, err) == (0, "")
    predictions = json.loads(out)
    best = Runtime(model)(images()).argmax(axis=1).tolist()
    assert [p["guesses"][0]["index"] for p in predictions] == best
    assert [p["row"] for p in predictions] == [0, 1, 2, 3]
    assert {p["truth"] for p in predictions} == ({"boot"} if name == "labelled.npz" else {None})


def test_a_person_reads_names_as_they_are(bitspin: Call, folder: Path) -> None:
    code, out, _ = bitspin("predict", folder / "images.bspn", folder / "labelled.npz", "--top", 3)
    assert code == 0
    for label in LABELS:
        assert label in out
    assert "labelled.npz[3]" in out
    assert "of 4 as their files say" in out
    code, out, _ = bitspin("predict", folder / "images.bspn", folder / "a.png")
    assert "a.png[" not in out
    assert "file says" not in out


@pytest.mark.parametrize("name", ["named.csv", "bare.csv"])
def test_a_table_is_scaled_as_the_training_table_was(
    bitspin: Call, folder: Path, name: str
) -> None:
    model = folder / "table.bspn"
    code, out, err = bitspin("predict", model, folder / name, "--json", "--top", 2)
    assert (code, err) == (0, "")
    runtime = Runtime(model)
    # 0.5 of 0..1, the ends of a range, a constant column, and what lies beyond a range.
    levels = np.array([[128, 0, 0, 51], [255, 191, 0, 0]], np.uint8).reshape(2, 1, 1, 4)
    scale = runtime.metadata["output_scale"]
    assert isinstance(scale, float)
    for prediction, integers in zip(json.loads(out), runtime(levels), strict=True):
        scores = {guess["index"]: guess["score"] for guess in prediction["guesses"]}
        assert scores == {i: float(n) * scale for i, n in enumerate(integers)}
    truths = [prediction["truth"] for prediction in json.loads(out)]
    assert truths == (["yes", "no"] if name == "named.csv" else [None, None])


REFUSED = {
    "another size": ("images", "large.png", "expected 6 x 5 pixels (height x width) as in "),
    "colour": ("images", "colour.png", "expected a grey image as "),
    "no image": ("images", "broken.png", "expected a readable image"),
    "nothing": ("images", "none.png", "expected a file of .bmp, "),
    "a folder": ("images", "", "got a folder"),
    "another format": ("images", "images.bspn", "got .bspn"),
    "images of another size": ("table", "plain.npz", "expected images of (H, W, C) = (1, 1, 4)"),
    "floats": ("images", "floats.npy", "whole numbers 0 ... 255"),
    "pickles": ("images", "pickle.npy", "expected an .npy array"),
    "a table for images": ("images", "named.csv", "expected a model that was trained on a table"),
    "another table": ("table", "wide.csv", "expected 4 columns of numbers"),
    "words in it": ("table", "words.csv", "expected finite numbers in the last column"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line_and_exit_code_2(
    bitspin: Call, folder: Path, case: str
) -> None:
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(folder / "large.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    np.save(folder / "floats.npy", np.zeros((1, 6, 5)))
    np.save(folder / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "wide.csv").write_text("1,2,3,4,5,6\n")
    (folder / "words.csv").write_text("1,2,3,yes\n")
    model, file, words = REFUSED[case]
    code, out, err = bitspin("predict", folder / f"{model}.bspn", folder / file)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("bitspin: ")
    assert words in err


def test_a_model_that_is_not_there_or_damaged_is_named(
    bitspin: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSPIN_HOME", str(tmp_path))
    code, _, err = bitspin("predict", folder / "missing.bspn", folder / "a.png")
    assert code == 2
    assert "missing.bspn: expected a model file, got nothing" in err
    damaged = tmp_path / "damaged.bspn"
    damaged.write_bytes((folder / "images.bspn").read_bytes()[:-1])
    code, _, err = bitspin("predict", damaged, folder / "a.png")
    assert code == 2
    assert err.count("\n") == 1
    code, _, err = bitspin("predict", "latest", folder / "a.png")
    assert code == 2
    assert "found none" in err


def test_nothing_heavy_is_loaded() -> None:
    import subprocess

    script = (
        "import sys, flows.predict, flows.model_page\n"
        "heavy = ('torch', 'ray', 'prefect', 'pydantic', 'matplotlib', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr

"""``bitspin train bnn``: configurations, figures side by side, and how it fails."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from bnn.zoo import ZOO
from flows.cli import main
from flows.config_file import ConfigError, canonical, load_config
from flows.plan import make_plan
from flows.recipes import recipe_tree
from flows.reproduction import is_reproduced
from flows.scoreboard import SCORES, score_of, score_record, score_table
from flows.train_command import Request, configurations
from flows.zoo import zoo_record


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSPIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BITSPIN_OFFLINE", "1")
    make_plan.cache_clear()


@pytest.fixture
def bitspin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitspin", "train", "bnn", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.mark.parametrize("name", ZOO)
def test_a_recipe_is_a_configuration(name: str) -> None:
    config = load_config(None, [f"recipe={name}"])
    recipe = ZOO[name]
    assert config.recipe == name
    assert (config.data.name, config.data.split) == (recipe.data, recipe.split)
    assert (config.bnn.model, config.bnn.widths) == (recipe.model, recipe.widths)
    for key, value in recipe_tree(name)["bnn"].items():  # type: ignore[union-attr]
        own = getattr(config.bnn, key)
        assert (list(own) if isinstance(own, tuple) else own) == (
            list(value) if isinstance(value, tuple) else value
        ), key
    assert zoo_record(config)["changes"] == []


def test_settings_and_files_stand_above_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('recipe = "digits-mlp"\n[bnn]\nlearning_rate = 0.01\nseed = 5\n')
    config = load_config(file, ["bnn.steps=7"])
    assert (config.bnn.learning_rate, config.bnn.steps, config.bnn.epochs) == (0.01, 7, None)
    assert config.bnn.model == "binary_mlp"
    epochs = ZOO["digits-mlp"].training.epochs
    assert epochs is not None
    assert zoo_record(config)["changes"] == [
        "bnn.steps = 7",
        "bnn.learning_rate = 0.01",
    ]


def test_a_seed_is_that_of_network_and_split() -> None:
    configs = configurations(Request(recipe="digits-mlp", seed=4, n_seeds=3, tensorboard=True))
    assert [(c.bnn.seed, c.data.seed) for c in configs] == [(4, 4), (5, 5), (6, 6)]
    assert all(c.job == "bnn" and c.recipe == "digits-mlp" and c.tensorboard for c in configs)
    (plain,) = configurations(Request(settings=("data.name=digits",), ray_address="10.0.0.1:6379"))
    assert (plain.job, plain.recipe, plain.bnn.seed) == ("bnn", None, 0)
    assert plain.cluster.address == "10.0.0.1:6379"
    several = configurations(Request(settings=("bnn.seed=7",), n_seeds=2))
    assert [c.bnn.seed for c in several] == [7, 8]


def test_plans_differ_by_seed_and_job_alone_not_by_being_watched() -> None:
    settings = ("data.name=digits", "bnn.epochs=1")
    (config,) = configurations(Request(settings=settings))
    plan = make_plan(config)
    (watched,) = configurations(Request(settings=settings, tensorboard=True))
    assert make_plan(watched).run_key == plan.run_key
    assert "tensorboard" not in canonical(watched)
    assert make_plan(load_config(None, settings)).run_key != plan.run_key
    (other,) = configurations(Request(settings=settings, seed=1))
    assert make_plan(other).run_key != plan.run_key
    assert plan.title == "digits: binary convnet 32-64-128"
    (mlp,) = configurations(Request(recipe="digits-mlp"))
    assert make_plan(mlp).title == "recipe digits-mlp, seed 0, digits: binary mlp 256-256"


def test_an_unknown_recipe_lists_them_and_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError,
        match=r"recipe: expected one of digits-mlp, .*, got 'digit-mlp'; did you mean digits-mlp\?",
    ):
        load_config(None, ["recipe=digit-mlp"])


BAD_INPUT = {
    "unknown recipe": (["--recipe", "fashion-convent"], "did you mean fashion-convnet?"),
    "unknown key": (["--recipe", "digits-mlp", "--set", "bnn.epoch=3"], "did you mean bnn.epochs?"),
    "unknown model": (["--set", "bnn.model=binary_mpl"], "did you mean binary_mlp?"),
    "unknown split": (["--set", "data.split=random"], "expected given or stratified"),
    "unknown job": (["--set", "job=rbm"], "expected everything or bnn, got 'rbm'"),
    "two lengths": (["--set", "bnn.epochs=1", "--set", "bnn.steps=2"], "expected one of them"),
    "no epochs": (["--set", "bnn.epochs=0"], "bnn.epochs: expected 1 or more, got 0"),
    "half an epoch": (["--set", "bnn.epochs=1.5"], "bnn.epochs: input should be a valid integer"),
    "no seeds": (["--seeds", "0"], "'--seeds': Input should be greater than or equal to 1; see"),
    "negative seed": (["--seed", "-1"], "'--seed'"),
    "a seed too large": (["--set", f"data.seed={2**64}"], "data.seed: expected 0 <= seed < 2**64"),
    "unknown option": (["--epochs", "3"], "no such option: --epochs"),
    "option without value": (["--recipe"], "option '--recipe' requires an argument; see"),
    "a folder too much": (["a.toml", "b"], "unexpected extra argument"),
    "widths of another model": (
        ["--recipe", "digits-mlp", "--set=bnn.model=react_mobilenet", "--set=bnn.widths=[8,12]"],
        "bnn.model react_mobilenet: widths: expected a block to keep 8 channels",
    ),
    "model of other data": (
        ["--set", "data.name=digits", "--set", "bnn.model=keyword_spotter"],
        "bnn.model keyword_spotter: input_shape: expected (1, T, F)",
    ),
    "missing data": (["--recipe", "fsdd-keywords"], "fsdd-recordings.tar.xz"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(
    bitspin, case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("BITSPIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("flows.execute._run_flow", lambda *_, **__: pytest.fail("it was started"))
    arguments, words = BAD_INPUT[case]
    code, out, err = bitspin(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("bitspin: ")
    assert words in err


def archive(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]
    return folder / "a.npz"


def table(folder: Path, rows: list[str]) -> Path:
    (folder / "a.csv").write_text("\n".join(rows))
    return folder / "a.csv"


def labelled(folder: Path, labels: NDArray[np.generic]) -> Path:
    return archive(folder, images=IMAGES[: len(labels)], labels=labels)


def parts(folder: Path, test_labels: NDArray[np.generic]) -> Path:
    train = {"train_images": IMAGES, "train_labels": CLASSES}
    return archive(folder, **train, test_images=IMAGES, test_labels=test_labels)


CLASSES = np.arange(60) % 3
IMAGES = np.zeros((60, 8, 8), np.uint8)
ROWS = [f"{n},{n % 7},{'ab'[n % 2]}" for n in range(40)]
BAD_DATA = {
    "labels as floats": (lambda p: labelled(p, CLASSES / 1.0), "got float64 (60,)"),
    "labels one-hot": (lambda p: labelled(p, np.eye(3)[CLASSES]), "got float64 (60, 3)"),
    "labels of other length": (
        lambda p: archive(p, images=IMAGES, labels=CLASSES[:50]),
        "got int64 (50,)",
    ),
    "one class": (lambda p: labelled(p, CLASSES * 0), "at least 2 classes, got 1 (0)"),
    "fewer rows than classes": (
        lambda p: labelled(p, np.arange(5)),
        "at least 10 rows or images per class to train on, got 1 of class '0' (5 classes)",
    ),
    "other keys": (
        lambda p: archive(p, x=IMAGES, y=CLASSES),
        "expected arrays images, labels or train_images, train_labels, test_images, test_labels, "
        "got x, y",
    ),
    "negative test label": (
        lambda p: parts(p, -CLASSES),
        "expected test labels among 0, 1, 2, got '-1'",
    ),
    "test label out of range": (
        lambda p: parts(p, CLASSES + 1),
        "expected test labels among 0, 1, 2, got '3'",
    ),
    "images as floats": (
        lambda p: archive(p, images=IMAGES / 255, labels=CLASSES),
        "got float64 (60, 8, 8, 1); convert them to uint8",
    ),
    "NaN in a column": (
        lambda p: table(p, [*ROWS[:5], "1,NaN,a", *ROWS[5:]]),
        "a.csv line 6: expected a finite number in column 2, got 'NaN'",
    ),
    "nothing in a column": (
        lambda p: table(p, [*ROWS, "1,,a"]),
        "a.csv line 41: expected a finite number in column 2, got ''",
    ),
    "one class of a table": (
        lambda p: table(p, [f"{n},1,a" for n in range(40)]),
        "at least 2 classes, got 1 (a)",
    ),
    "floats as labels of a table": (
        lambda p: table(p, [f"1,{n},{n / 8}" for n in range(40)]),
        "got 1 of class '0.0' (40 classes)",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_one_line_and_exit_code_2(
    bitspin, case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("flows.execute._run_flow", lambda *_, **__: pytest.fail("it was started"))
    write, words = BAD_DATA[case]
    code, out, err = bitspin("--data", str(write(tmp_path)))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"bitspin: {tmp_path}")
    assert words in err


def test_it_explains_itself_and_lists_the_recipes(bitspin) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = bitspin("--help")
    assert code == 0
    assert "Example: bitspin train bnn --recipe digits-mlp" in out
    code, out, _ = bitspin("--list", "--json")
    assert code == 0
    assert [record["name"] for record in json.loads(out)] == list(ZOO)
    code, out, _ = bitspin("--list")
    assert code == 0
    assert all(name in out for name in ZOO)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_has_one_line_per_recipe(
    bitspin, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = bitspin("--list")
    header, *rows, hint = out.splitlines()
    assert max(map(len, out.splitlines())) <= 80
    assert header.split() == ["recipe", "data", "model", "epochs", "expected", "accuracy"]
    found = [tuple(row.split()[:4]) for row in rows]
    assert found == [
        (name, recipe.data, recipe.model, str(recipe.training.epochs))
        for name, recipe in ZOO.items()
    ]
    assert rows[0].endswith("97.87 ± 0.91 %".ljust(18))
    assert [row.rstrip().endswith("not yet measured") for row in rows] == [
        recipe.expected_accuracy is None for recipe in ZOO.values()
    ]
    assert hint.strip() == "Widths and all options of the training: --list --json"


def test_a_dry_run_names_the_steps_of_this_job_alone(bitspin) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = bitspin("--set", "data.name=digits", "--dry-run", "--seeds", "2")
    assert code == 0
    assert out.count("train binary network") == 2
    assert "RBM" not in out


def test_runs_are_done_and_shown(
    bitspin, sample_result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    done = []

    def carry_out(plan: Any, *, fresh: bool) -> dict[str, Any]:
        done.append((plan.config.bnn.seed, fresh))
        return run_of(sample_result, plan.config.bnn.seed, 0.9)

    monkeypatch.setattr("flows.train_command.carry_out", carry_out)
    code, out, err = bitspin("--recipe", "digits-mlp", "--seeds", "2", "--fresh", "--json")
    assert code == 0, err
    assert done == [(0, True), (1, True)]
    assert [run["seed"] for run in json.loads(out)["runs"]] == [0, 1]
    sample_result["verify"]["arm_mismatches"] = 1
    code, out, err = bitspin("--set", "data.name=digits")
    assert code == 3
    assert "expected the arm runtime to equal the integer network" in err
    assert "report: " in out


def run_of(sample: dict[str, Any], seed: int, accuracy: float, **zoo: Any) -> dict[str, Any]:
    """The record of a run of the classifier alone."""
    left_out = ("rbm", "tbm", "qbm", "bm")
    result = {name: section for name, section in sample.items() if name not in left_out}
    config = {**sample["config"], "bnn": {**sample["config"]["bnn"], "seed": seed}}
    result |= {"job": "bnn", "config": config}
    result["bnn"] = {**sample["bnn"], "test_accuracy": accuracy}
    if zoo:
        result["zoo"] = zoo
    return result


def zoo(expected: float | None, spread: float | None = None, *changes: str) -> dict[str, Any]:
    return {
        "recipe": "digits-mlp",
        "expected_accuracy": expected,
        "expected_spread": spread,
        "changes": list(changes),
    }


def test_reproduced_is_within_two_standard_deviations(sample_result: dict[str, Any]) -> None:
    def of(accuracy: float, **zoo: Any) -> bool | None:
        return is_reproduced(run_of(sample_result, 0, accuracy, **zoo))

    assert of(0.9501, **zoo(0.96, 0.005)) is True
    assert of(0.9499, **zoo(0.96, 0.005)) is False
    assert of(0.99, **zoo(0.96, 0.005)) is True
    stderr = sample_result["bnn"]["test_accuracy_stderr"]
    assert of(0.96 - 1.99 * stderr, **zoo(0.96)) is True
    assert of(0.96 - 2.01 * stderr, **zoo(0.96)) is False
    assert of(0.96, **zoo(None)) is None
    assert of(0.96, **zoo(0.96, None, "bnn.epochs = 3")) is None
    assert of(0.96) is None


def printed(scores: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160, legacy_windows=False).print(score_table(scores))
    return stream.getvalue()


def line_of(text: str, words: str) -> str:
    return " ".join(next(line for line in text.splitlines() if line.startswith(words)).split())


def test_figures_stand_side_by_side_with_mean_and_spread(sample_result: dict[str, Any]) -> None:
    accuracies = (0.96, 0.98, 0.94)
    scores = [
        score_of(run_of(sample_result, seed, accuracy, **zoo(0.965, 0.004)))
        for seed, accuracy in enumerate(accuracies)
    ]
    record = score_record(scores)
    assert record["mean"]["test_accuracy"] == pytest.approx(0.96)  # type: ignore[index]
    assert record["spread"]["test_accuracy"] == pytest.approx(0.02)  # type: ignore[index]
    twin = sample_result["bnn"]["twin_accuracy"]
    assert scores[1]["gap"] == pytest.approx(twin - 0.98)
    assert scores[0]["minutes"] == pytest.approx(sample_result["bnn"]["seconds"] / 60)
    assert scores[0]["model_bytes"] == sample_result["export"]["bytes"]
    assert isinstance(scores[0]["model_bytes"], int)
    assert all(scores[0][key] is not None for key in SCORES)
    text = printed(scores)
    assert "seed 0" in text
    assert line_of(text, "accuracy") == "accuracy 96.00 % 98.00 % 94.00 % 96.00 % ± 2.00 %"
    assert line_of(text, "zoo, digits-mlp") == (
        "zoo, digits-mlp 96.50 %, reproduced 96.50 %, reproduced 96.50 %, NOT REPRODUCED"
    )
    assert json.loads(json.dumps(record)) == record


def test_what_was_not_measured_is_said(sample_result: dict[str, Any]) -> None:
    unmeasured = score_of(run_of(sample_result, 0, 0.9, **zoo(None)))
    assert "not yet measured" in line_of(printed([unmeasured]), "zoo, digits-mlp")
    assert score_record([unmeasured])["spread"]["test_accuracy"] is None  # type: ignore[index]
    changed = score_of(run_of(sample_result, 0, 0.9, **zoo(0.9, 0.1, "bnn.epochs = 3")))
    text = printed([changed])
    assert "90.00 %, not comparable" in text
    assert "changed from the recipe: bnn.epochs = 3" in text
    assert "zoo" not in printed([score_of(run_of(sample_result, 0, 0.9))])
    assert "not measured" in printed([score_of({})])

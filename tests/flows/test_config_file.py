from pathlib import Path

import pytest

from flows.config_file import ConfigError, canonical, load_config


def test_defaults_file_and_settings_in_that_order(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[bnn]\nepochs = 2\nwidths = [32, 64]\n[rbm]\nn_hidden = 16\n")
    config = load_config(path, ["bnn.epochs=3", "data.name=digits"])
    assert config.bnn.epochs == 3
    assert config.bnn.widths == (32, 64)
    assert config.rbm.n_hidden == 16
    assert config.data.name == "digits"
    assert config.qbm == load_config(None, []).qbm


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("bnn.epoch=3", r"bnn\.epoch: unknown configuration key; did you mean bnn\.epochs\?"),
        ("brm.n_hidden=3", r"brm: unknown configuration key; did you mean"),
        ("bnn.epochs=many", r"bnn\.epochs: .*integer.*got 'many'"),
        ("bnn.epochs=0", r"^bnn\.epochs: expected 1 or more, got 0"),
        ("bnn=3", r"bnn: expected a section, got 3"),
        ("bnn.epochs", r"--set: expected key=value, as in bnn\.epochs=3, got 'bnn\.epochs'"),
        ("bnn.epochs.x=1", r"bnn\.epochs"),
        ("cluster.n_workers=99", r"cluster\.n_workers: expected at most bnn\.n_shards"),
        ("cluster.address=auto", r"^cluster\.address: expected local, host:port"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(None, [setting])
    assert "\n" not in str(caught.value)


def test_an_unreadable_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: expected a TOML file, got: No such file"):
        load_config(tmp_path / "none.toml", [])
    broken = tmp_path / "broken.toml"
    broken.write_text("[bnn\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: expected TOML"):
        load_config(broken, [])


def test_the_canonical_form_leaves_out_where_to_run() -> None:
    one = canonical(load_config(None, ["cluster.n_workers=2"]))
    assert one == canonical(load_config(None, []))
    assert "cluster" not in one
    assert one != canonical(load_config(None, ["rbm.seed=1"]))


@pytest.mark.parametrize(
    ("settings", "n_workers"),
    [
        ([], 4),  # n_shards
        (["bnn.distillation_weight=0"], 3),  # the twin trains beside it
        (["bnn.n_shards=2"], 2),
        (["threads_per_worker=4"], 1),
        (["cluster.n_cpus=3"], 3),
        (["cluster.n_cpus=1", "bnn.distillation_weight=0"], 1),
        (["cluster.n_workers=2"], 2),
        (["cluster.address=127.0.0.1:6379"], 1),  # whose cores are not known yet
        (["device=cuda"], 1),  # one GPU per worker
    ],
)
def test_a_classifier_alone_is_trained_on_all_cores(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], n_workers: int
) -> None:
    monkeypatch.setattr("flows.config_file.available_cores", lambda: 7)
    common = ["bnn.n_shards=4", "bnn.distillation_weight=0.5", *settings]
    alone = load_config(None, ['job="bnn"', *common])
    assert alone.cluster.n_workers == n_workers
    everything = load_config(None, common)
    assert everything.cluster.n_workers == (2 if "cluster.n_workers=2" in settings else 1)
    assert canonical(alone) == canonical(everything) | {"job": "bnn"}

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

"""From TOML and ``--set`` to a checked configuration; every mistake is one line naming its key."""

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flows.recipes import recipe_tree
from workers.config import RunConfig
from workers.runtime import available_cores
from workers.storage import Json

_LENGTHS = ("epochs", "steps", "minutes")
"""Keys of the classifier of which one is set at most."""

Tree: typing.TypeAlias = "dict[str, Json]"


class ConfigError(ValueError):
    """The configuration cannot be used as it is."""


def load_config(path: Path | None, settings: Iterable[str]) -> RunConfig:
    """Read a configuration file and apply ``key=value`` settings on top.

    Where they name a ``recipe`` of the zoo, its values stand below both.

    Parameters
    ----------
    path
        TOML file, or None for the defaults.
    settings
        Strings ``section.key=value``; the value is TOML, or text if it is not TOML.

    Raises
    ------
    ConfigError
        Unreadable file, unknown key or recipe (names the nearest), wrong type or refused value.
    """
    tree = _read(path) if path is not None else {}
    for setting in settings:
        _apply(tree, setting)
    _check_keys(tree, RunConfig, prefix="")
    recipe = tree.get("recipe")
    if isinstance(recipe, str):
        try:
            tree = _laid_over(_without_length(recipe_tree(recipe), tree), tree)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    config = validate(tree)
    is_given = "n_workers" in _section(tree, "cluster")
    return config if is_given or config.job != "bnn" else on_all_cores(config)


def on_all_cores(config: RunConfig) -> RunConfig:
    """Let as many workers train the classifier as a local cluster has cores for.

    Without distillation its twin is trained at the same time and gets half of them. No result
    depends on it.
    """
    if config.cluster.address != "local" or config.device != "cpu":
        return config
    cores = config.cluster.n_cpus or available_cores()
    n_trainings = 1 if config.bnn.distillation_weight > 0 else 2
    n_workers = cores // (n_trainings * config.threads_per_worker)
    cluster = replace(config.cluster, n_workers=max(1, min(n_workers, config.bnn.n_shards)))
    return replace(config, cluster=cluster)


def validate(tree: Mapping[str, Json]) -> RunConfig:
    """Turn a nested mapping into a configuration; see :func:`load_config` for the errors."""
    try:
        return TypeAdapter(RunConfig).validate_python(dict(tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # ours: it begins with the field's name
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{key}.{reason}" if key else reason) from None
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{key}: {reason}, got {first['input']!r}") from None


def canonical(config: RunConfig) -> dict[str, Json]:
    """Every field that decides a result, spelled out; where to run is left out."""
    tree: dict[str, Json] = TypeAdapter(RunConfig).dump_python(config, mode="json")
    tree.pop("cluster")
    tree.pop("tensorboard")
    return tree


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path}: expected a TOML file, got: {reason}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got a mistake: {error}") from error


def _without_length(recipe: Tree, tree: Tree) -> Tree:
    """Forget how long a recipe trains where ``tree`` says it in another unit."""
    own = recipe["bnn"]
    assert isinstance(own, dict)
    if _section(tree, "bnn").keys().isdisjoint(_LENGTHS):
        return recipe
    return {**recipe, "bnn": {name: v for name, v in own.items() if name not in _LENGTHS}}


def _section(tree: Tree, name: str) -> Tree:
    """What a configuration says in a section, if it has it."""
    section = tree.get(name)
    return section if isinstance(section, dict) else {}


def _laid_over(base: Tree, tree: Tree) -> Tree:
    """Values of ``tree``, and those of ``base`` that it does not set."""
    merged = dict(base)
    for name, value in tree.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = _laid_over(below, value)
        else:
            merged[name] = value
    return merged


def _apply(tree: Tree, setting: str) -> None:
    key, separator, text = setting.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise ConfigError(f"--set: expected key=value, as in bnn.epochs=3, got {setting!r}")
    try:
        value: Json = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    node = tree
    for name in names[:-1]:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set: {name} is a value, not a section, in {setting!r}")
        node = child
    node[names[-1]] = value


def _fields(cls: type) -> dict[str, type | None]:
    """Field names of a configuration class; for sections, the section's class."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: hints[field.name] if dataclasses.is_dataclass(hints[field.name]) else None
        for field in dataclasses.fields(cls)
    }


def _all_keys(cls: type, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, section in _fields(cls).items():
        keys += _all_keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return keys


def _check_keys(tree: Mapping[str, Json], cls: type, prefix: str) -> None:
    fields = _fields(cls)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name not in fields:
            known = _all_keys(RunConfig)
            section_keys = [k for k in known if k.startswith(prefix)] or known
            near = difflib.get_close_matches(key, section_keys, n=1, cutoff=0.0)
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or near
            raise ConfigError(f"{key}: unknown configuration key; did you mean {near[0]}?")
        section = fields[name]
        if section is not None:
            if not isinstance(value, dict):
                raise ConfigError(f"{key}: expected a section, got {value!r}; set {key}.<name>")
            _check_keys(value, section, prefix=f"{key}.")

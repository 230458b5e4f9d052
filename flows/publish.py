"""Gathers what the steps of a run published into its result record, report and artifacts."""

import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flows.artifacts import publish_artifacts
from flows.pictures import draw_pictures
from flows.plan import Plan
from flows.report import write_report
from flows.runs import RESULT
from flows.zoo import zoo_record
from kernels.version import __version__
from workers.context import published
from workers.records import Record
from workers.steps import STEPS, steps_of
from workers.storage import Json, read_json, write_arrays, write_json

_SCHEMA = 1
_ARRAYS = {
    "evaluate_rbm": (
        "rbm_samples",
        "rbm_filters",
        "completion_original",
        "completion_masked",
        "completion_completed",
    ),
    "evaluate_bnn": ("confusion",),
}


def publish_result(plan: Plan, *, started: float, resumed_from: str | None) -> dict[str, Json]:
    """Write ``result.json`` last, after the pictures and the report that it names.

    Parameters
    ----------
    plan
        A run whose steps have all been done.
    started
        Seconds since the epoch at which this attempt started.
    resumed_from
        Where this attempt went on, in words; None if it started the run.

    Returns
    -------
    dict
        The result record.

    Raises
    ------
    RuntimeError
        If a step has not been done.
    """
    records = {name: _record(plan, name) for name in steps_of(plan.config)}
    arrays = _arrays(records)
    result = _result(plan, records, resumed_from)
    drawing = time.monotonic()
    pictures = draw_pictures(result, arrays, plan.run_dir)
    result["pictures"] = [
        {"file": picture.file, "title": picture.title, "caption": picture.caption}
        for picture in pictures
    ]
    now = datetime.now(UTC)
    result["started"] = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
    result["finished"] = now.isoformat(timespec="seconds")
    seconds = cast("dict[str, Json]", result["seconds"])
    seconds["report"] = round(time.monotonic() - drawing, 3)
    seconds["total"] = round(now.timestamp() - started, 3)
    write_arrays(plan.run_dir / "arrays.safetensors", arrays)
    write_report(result, plan.run_dir)
    publish_artifacts(result, plan.run_dir)
    write_json(plan.run_dir / RESULT, result)
    return read_json(plan.run_dir / RESULT)


def _record(plan: Plan, name: str) -> Record:
    record = published(plan.run_dir, name)
    if record is None:
        raise RuntimeError(f"step {name!r}: expected its published record, got none")
    return record


def _arrays(records: dict[str, Record]) -> dict[str, NDArray[np.generic]]:
    return {
        name: records[step].tensors[name].numpy()
        for step, names in _ARRAYS.items()
        if step in records
        for name in names
    }


def _result(plan: Plan, records: dict[str, Record], resumed_from: str | None) -> dict[str, Json]:
    values = {name: dict(record.values) for name, record in records.items()}
    seconds: dict[str, Json] = {
        STEPS[name].title: record.pop("seconds") for name, record in values.items()
    }
    result: dict[str, Json] = {
        "schema": _SCHEMA,
        "run_key": plan.run_key,
        "title": plan.title,
        "job": plan.config.job,
        "resumed_from": resumed_from,
        "data": _data(plan),
        "config": plan.identity["config"],
        "bnn": _bnn(plan, values, records),
        "export": {**values["export"], **values["build_runtimes"]},
        "verify": {
            **values["verify_host"],
            **values["verify_arm"],
            "emulator": f"unicorn {version('unicorn')}",
        },
        "seconds": {"prepare data": plan.seconds, **seconds},
        "environment": _environment(plan),
    }
    if plan.config.recipe is not None:
        result["zoo"] = zoo_record(plan.config)
    return result | _machines(values, records)


def _machines(values: dict[str, dict[str, Json]], records: dict[str, Record]) -> dict[str, Json]:
    """Sections of the Boltzmann machines that the run has trained."""
    sections: dict[str, Json] = {}
    if "train_rbm" in records:
        training = values["train_rbm"]
        sections["rbm"] = {
            **values["evaluate_rbm"],
            "curve": training["curve"],
            "n_steps": training["n_steps"],
            "seconds": records["train_rbm"].values["seconds"],
        }
    for name, step in (("tbm", "fit_tbm"), ("qbm", "train_qbm"), ("bm", "train_bm")):
        if step in records:
            sections[name] = {**values[step], "seconds": records[step].values["seconds"]}
    return sections


def _data(plan: Plan) -> dict[str, Json]:
    data = plan.data
    return {
        "name": data.name,
        "source": data.source,
        "reason": data.reason,
        "digest": data.digest,
        "n_train": len(data.train_labels),
        "n_test": len(data.test_labels),
        "input_shape": list(data.train_images.shape[1:]),
        "label_names": list(data.label_names),
    }


def _bnn(
    plan: Plan, values: dict[str, dict[str, Json]], records: dict[str, Record]
) -> dict[str, Json]:
    return {
        **values["evaluate_bnn"],
        **values["fit_floor"],
        "confusion": records["evaluate_bnn"].tensors["confusion"].tolist(),
        "curve": values["train_bnn"]["curve"],
        "twin_curve": values["train_twin"]["curve"],
        "n_steps": values["train_bnn"]["n_steps"],
        "n_workers": values["train_bnn"]["n_workers"],
        "n_shards": plan.config.bnn.n_shards,
        "seconds": records["train_bnn"].values["seconds"],
        "twin_seconds": records["train_twin"].values["seconds"],
    }


def _environment(plan: Plan) -> dict[str, Json]:
    arithmetic = cast("dict[str, Json]", plan.identity["arithmetic"])
    return {
        **arithmetic,
        "python": platform.python_version(),
        "bitspin": __version__,
        "numpy": np.__version__,
        "ray": version("ray"),
        "prefect": version("prefect"),
        "device": "cpu",
        "matmul_path": "torch's default, float32",
    }

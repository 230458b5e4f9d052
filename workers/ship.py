"""From the trained network to binaries that return its integers: export, build, verify."""

import hashlib
import time
from pathlib import Path

import numpy as np

import bnn
from kernels.build import build_library
from kernels.bundle import layout_of
from kernels.emulate import emulate
from kernels.model_format import read_model, write_model
from kernels.native import Runtime
from workers.context import Outcome, RunContext, upstream
from workers.storage import Json
from workers.train_bnn import published_network

MODEL_FILE = "model.bspn"
ARM_TARGET = "aarch64-linux"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_runtimes(context: RunContext) -> Outcome:
    """Compile the runtime for this machine and for ARM, into the run's directory."""
    sizes: dict[str, Json] = {}
    for target, name in (("host", "host"), (ARM_TARGET, "arm")):
        library = _library(context, target)
        library.parent.mkdir(parents=True, exist_ok=True)
        build_library(target, out=library)
        sizes[f"{name}_library_bytes"] = library.stat().st_size
    return Outcome(sizes)


def export_network(context: RunContext) -> Outcome:
    """Write the integer network as ``model.bspn``, with its accuracy record."""
    accuracy = upstream(context, "evaluate_bnn").values
    path = context.run_dir / MODEL_FILE
    names = ("test_accuracy", "integer_accuracy", "twin_accuracy")
    record: dict[str, Json] = {name: accuracy[name] for name in names}
    record["floor_accuracy"] = upstream(context, "fit_floor").values["floor_accuracy"]
    metadata: dict[str, Json] = {
        "run_key": context.run_key,
        "labels": list(context.data.label_names),
        "accuracy": record,
        "data": {"name": context.data.name, "digest": context.data.digest},
    }
    if context.data.column_ranges is not None:
        metadata["column_ranges"] = [list(pair) for pair in context.data.column_ranges]
    net = bnn.integerize(published_network(context, "train_bnn"))
    n_bytes = bnn.export(net, path, metadata)
    return Outcome(
        {
            "file": MODEL_FILE,
            "bytes": n_bytes,
            "sha256": sha256_file(path),
            "logical_digest": read_model(path.read_bytes()).metadata["logical_digest"],
        }
    )


def verify_on_host(context: RunContext) -> Outcome:
    """Compare every integer that the host runtime returns on the whole test set."""
    expected = upstream(context, "evaluate_bnn").tensors["integer_logits"].numpy()
    runtime = Runtime(context.run_dir / MODEL_FILE, _library(context, "host"))
    started = time.perf_counter()
    got = runtime(context.data.test_images)
    seconds = time.perf_counter() - started
    return Outcome(
        {
            "host_images": len(got),
            "host_mismatches": int(np.any(got != expected, axis=1).sum()),
            "host_microseconds_per_image": 1e6 * seconds / len(got),
        }
    )


def verify_on_arm(context: RunContext) -> Outcome:
    """Compare every integer that the emulated ARM binary returns on the first test images."""
    n_images = min(context.config.verify.n_arm_images, len(context.data.test_labels))
    expected = upstream(context, "evaluate_bnn").tensors["integer_logits"].numpy()[:n_images]
    # In the order in which bitspin export writes it for this target.
    canonical = read_model((context.run_dir / MODEL_FILE).read_bytes())
    model = write_model(canonical, layout=layout_of(ARM_TARGET))
    emulation = emulate(_library(context, ARM_TARGET), model, context.data.test_images[:n_images])
    return Outcome(
        {
            "arm_images": len(emulation.outputs),
            "arm_mismatches": int(np.any(emulation.outputs != expected, axis=1).sum()),
            "arm_instructions_per_image": emulation.instructions_per_image,
            "arm_target": ARM_TARGET,
        }
    )


def _library(context: RunContext, target: str) -> Path:
    return context.run_dir / "lib" / target / "libbitspin.so"

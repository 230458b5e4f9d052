"""A finished run as the report sees it: its record and its arrays, both made up but plausible."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

DATA = Path(__file__).parents[1] / "data"
LABELS = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
STEPS = range(50, 701, 50)


def make_confusion() -> NDArray[np.int64]:
    """Ten classes of 1,000 rows each; shirts (6) are the hard class."""
    confusion = np.zeros((10, 10), dtype=np.int64)
    for true in range(10):
        errors = 28 + 5 * true if true != 6 else 230
        for rank in range(3):
            confusion[true, (true + 4 + 2 * rank) % 10 if true + 4 + 2 * rank != true else 0] += (
                errors // (rank + 2)
            )
        confusion[true, true] += 1000 - confusion[true].sum()
    return confusion


def make_layers() -> list[dict[str, object]]:
    names = ["stages.0", "stages.1", "stages.2", "head"]
    shapes = [[14, 14, 32], [7, 7, 64], [3, 3, 128], [1, 1, 10]]
    weights = [288, 18432, 73728, 11520]
    macs = [225792, 3612672, 3612672, 11520]
    return [
        {
            "name": name,
            "output_shape": shape,
            "weight_bits": bits,
            "n_weights": n_weights,
            "macs": n_macs,
            "packed_bytes": n_weights * bits // 8,
            "float_bytes": 4 * n_weights,
        }
        for name, shape, bits, n_weights, n_macs in zip(
            names, shapes, (8, 1, 1, 8), weights, macs, strict=True
        )
    ]


def make_result() -> dict[str, Any]:
    def decaying(start: float, end: float) -> list[float]:
        return [end + (start - end) * float(np.exp(-step / 150)) for step in STEPS]

    def curve(key: str, values: list[float]) -> list[dict[str, float]]:
        return [{"step": step, key: value} for step, value in zip(STEPS, values, strict=True)]

    def training(best: float, loss: float) -> list[dict[str, float]]:
        pairs = zip(STEPS, decaying(2.3, loss), decaying(0.1, best), strict=True)
        return [{"step": step, "loss": one, "accuracy": two} for step, one, two in pairs]

    return {
        "schema": 1,
        "run_key": "3f9a0c57d2b14e68",
        "title": "fashion-mnist · BinaryConvNet 32-64-128 · RBM 784x256",
        "started": "2026-11-23T11:13:05.123456+00:00",
        "finished": "2026-11-23T11:17:26.700000+00:00",
        "resumed_from": None,
        "data": {
            "name": "fashion-mnist",
            "source": "/usr/share/dataset-fashion-mnist",
            "reason": "the system package was found; no --data was given",
            "digest": "9f1c" * 16,
            "n_train": 60000,
            "n_test": 10000,
            "input_shape": [28, 28, 1],
            "label_names": LABELS,
        },
        "config": {
            "seed": 0,
            "data": {"name": "auto", "path": None},
            "bnn": {"widths": [32, 64, 128], "epochs": 3, "learning_rate": 0.01, "n_shards": 4},
            "rbm": {"n_hidden": 256, "n_steps": 1, "centred": True},
        },
        "bnn": {
            "test_accuracy": 0.9053,
            "test_accuracy_stderr": 0.002928,
            "integer_accuracy": 0.9053,
            "twin_accuracy": 0.918,
            "floor_accuracy": 0.8412,
            "floor_method": "logistic regression on 10000 rows",
            "majority_accuracy": 0.1,
            "class_agreement": 1.0,
            "bit_mismatches": 3,
            "n_bits": 104960000,
            "n_binary_weights": 92160,
            "packed_bytes": 23328,
            "float_bytes": 415872,
            "layers": make_layers(),
            "curve": training(0.91, 0.27),
            "twin_curve": training(0.93, 0.2),
            "confusion": make_confusion().tolist(),
            "seconds": 121.4,
            "twin_seconds": 88.2,
            "n_workers": 2,
            "n_shards": 4,
        },
        "rbm": {
            "n_visible": 784,
            "n_hidden": 256,
            "test_log_likelihood": -241.8273,
            "log_likelihood_stderr": 0.8123,
            "lower": -243.4,
            "upper": -240.2,
            "method": "ais",
            "effective_sample_size": 34.2,
            "n_chains": 100,
            "n_temperatures": 1000,
            "is_reliable": True,
            "train_log_likelihood": -239.1123,
            "floor_log_likelihood": -368.5,
            "curve": [
                {"step": step, "pseudo_log_likelihood": likelihood, "free_energy_gap": gap}
                for step, likelihood, gap in zip(
                    STEPS, decaying(-300, -190), decaying(40, -2), strict=True
                )
            ],
            "completion_error": 0.0871,
            "completion_baseline_error": 0.1622,
            "seconds": 96.0,
        },
        "tbm": {
            "kl": 0.207,
            "n_parameters": 96,
            "n_outcomes": 277,
            "boundary": False,
            "entropy": 4.6956,
            "seconds": 0.02,
        },
        "qbm": {
            "kl": 0.0614,
            "curve": curve("kl", decaying(1.4, 0.0614)),
            "mean_transverse_field": 0.93,
            "seconds": 6.1,
        },
        "bm": {"kl": 0.1042, "curve": curve("kl", decaying(1.4, 0.1042)), "seconds": 1.2},
        "export": {
            "file": "model.bspn",
            "bytes": 25344,
            "sha256": "ab" * 32,
            "logical_digest": "cd" * 32,
            "host_library_bytes": 48120,
            "arm_library_bytes": 31544,
        },
        "verify": {
            "host_images": 10000,
            "host_mismatches": 0,
            "host_microseconds_per_image": 412.36,
            "arm_images": 256,
            "arm_mismatches": 0,
            "arm_instructions_per_image": 3184922.0,
            "arm_target": "aarch64-linux",
            "emulator": "unicorn 2.1.4",
        },
        "seconds": {
            "prepare data": 2.41,
            "train bnn": 121.4,
            "train twin": 88.2,
            "train rbm": 96.0,
            "train tbm": 0.02,
            "train qbm": 7.3,
            "evaluate bnn": 9.9,
            "evaluate rbm": 31.0,
            "export": 4.4,
            "verify": 41.2,
            "write report": 3.3,
            "total": 261.6,
        },
        "environment": {
            "torch": "2.13.0+cpu",
            "instruction_set": "AVX512",
            "threads_per_worker": 1,
            "python": "3.11.7",
            "bitspin": "0.1.0",
            "matmul_path": "oneDNN",
            "device": "cpu",
        },
        "pictures": [],
    }


def make_arrays() -> dict[str, NDArray[Any]]:
    """Real digits stand in for samples; filters are smooth bumps of both signs."""
    with gzip.open(DATA / "mnist2k-test-images-idx3-ubyte.gz") as stream:
        images = np.frombuffer(stream.read()[16:], np.uint8).reshape(-1, 28, 28) / 255
    digits = images.astype(np.float32)
    grid = np.linspace(-1, 1, 28)
    angles = np.arange(64) * 0.7
    bumps = [
        np.sin(5 * (grid[:, None] * np.cos(angle) + grid[None, :] * np.sin(angle)) + angle)
        * np.exp(-3 * (grid[:, None] ** 2 + grid[None, :] ** 2))
        for angle in angles
    ]
    masked = digits[:16].copy()
    masked[:, 14:] = np.nan
    return {
        "rbm_samples": digits[:64],
        "rbm_filters": np.stack(bumps).astype(np.float32),
        "completion_original": digits[:16],
        "completion_masked": masked,
        "completion_completed": (0.8 * digits[:16] + 0.1).astype(np.float32),
        "confusion": make_confusion(),
    }


@pytest.fixture
def sample_result() -> dict[str, Any]:
    """The record of a run without pictures; a fresh copy for every test."""
    result: dict[str, Any] = json.loads(json.dumps(make_result()))
    return result


@pytest.fixture
def sample_arrays() -> dict[str, NDArray[Any]]:
    """The arrays of the same run."""
    return make_arrays()

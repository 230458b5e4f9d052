"""What the training steps build and hand on, without a cluster."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bnn
from bnn.models import BinaryMLP
from workers.config import ClassifierConfig, RunConfig
from workers.context import RunContext, published, record_directory
from workers.datasets import load
from workers.records import save_record
from workers.scalars import scalars_directory
from workers.steps import do_step
from workers.train_bnn import (
    build_network,
    check_network,
    published_network,
    teachers,
    training_of,
)


def context(run_dir: Path, *, tensorboard: bool = False, **bnn: object) -> RunContext:
    options = {"model": "binary_mlp", "widths": (16, 32), "epochs": 1, "batch_size": 128, **bnn}
    config = RunConfig(job="bnn", bnn=ClassifierConfig(**options), tensorboard=tensorboard)  # type: ignore[arg-type]
    return RunContext(run_dir, "key", config, load("digits"))


def weights(run_dir: Path, step: str) -> dict[str, torch.Tensor]:
    record = published(run_dir, step)
    assert record is not None
    return record.tensors


def test_the_configuration_decides_the_network(tmp_path: Path) -> None:
    net = build_network(context(tmp_path, seed=3), full_precision=False)
    assert isinstance(net, BinaryMLP)
    assert (net.input_shape, net.n_classes, net.widths) == ((8, 8, 1), 10, (16, 32))
    same = BinaryMLP((8, 8, 1), 10, (16, 32), seed=3)
    for name, tensor in same.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name
    default = build_network(
        context(tmp_path, model="binary_conv_net", widths=()), full_precision=True
    )
    assert default.widths == (32, 64, 128)
    assert default.full_precision


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", "binary_ml", "model: expected one of .*binary_mlp.*; did you mean binary_mlp"),
        ("quantizer", "ste_sing", "quantizer: expected one of .*; did you mean ste_sign"),
        ("widths", (32, 0), r"widths: expected positive numbers, got \(32, 0\)"),
    ],
)
def test_a_bad_choice_is_named_with_the_nearest(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**{name: value})  # type: ignore[arg-type]


def test_a_network_that_does_not_fit_the_data_is_refused_before_it_is_built() -> None:
    digits = load("digits")

    def check(**options: object) -> None:
        check_network(RunConfig(bnn=ClassifierConfig(**options)), digits)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=r"bnn\.model keyword_spotter: .*got \(8, 8, 1\)"):
        check(model="keyword_spotter")
    with pytest.raises(ValueError, match=r"bnn\.model react_mobilenet: widths: .* got 12"):
        check(model="react_mobilenet", widths=(8, 12))
    n = len(digits.train_labels)
    with pytest.raises(ValueError, match=rf"bnn\.n_shards: expected two of the {n} .* got {n} sh"):
        check(n_shards=n)
    check(n_shards=n // 2, model="binary_mlp", widths=(1_000_000,) * 2)  # would be 4 TB
    check()


def test_the_twin_is_not_taught_and_has_no_bits_to_flip() -> None:
    own = ClassifierConfig(
        optimizer="bop", bop_gamma=0.01, distillation_weight=0.5, epochs=3, shift_pixels=1
    )
    config = RunConfig(bnn=own)
    assert teachers(config) == ("train_twin",)
    assert training_of(config, "train_bnn") == own
    twin = training_of(config, "train_twin")
    assert twin == replace(own, optimizer="adam", bop_gamma=None, distillation_weight=0.0)
    two_step = RunConfig(bnn=ClassifierConfig(real_weights_fraction=0.5))
    assert teachers(two_step) == ()
    assert training_of(two_step, "train_twin").real_weights_fraction == 0.0


def test_a_network_learns_from_the_twin_that_was_trained(tmp_path: Path) -> None:
    """With weight 1 the labels are not looked at: a teacher that is one class off teaches that."""
    options = {"distillation_weight": 1.0, "widths": (64, 64), "epochs": 6, "batch_size": 32}
    taught, misled = (context(tmp_path / name, **options) for name in ("a", "b"))
    do_step("train_twin", taught)
    rolled = {
        name: tensor.roll(1, 0) if name.startswith("head") else tensor
        for name, tensor in weights(taught.run_dir, "train_twin").items()
    }
    save_record(record_directory(misled.run_dir, "train_twin"), {"seconds": 0.0}, rolled)
    images, labels = taught.data.test_images, taught.data.test_labels
    for run, shift in ((taught, 0), (misled, 1)):
        do_step("train_bnn", run)
        student = published_network(run, "train_bnn")
        predictions = bnn.evaluate(student, images, labels).predictions
        # 90 % and more of the digits after training; 10 % is chance.
        assert np.mean(predictions == (labels + shift) % 10) > 0.7


def test_a_network_without_its_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="step 'train_twin': expected its published record"):
        do_step("train_bnn", context(tmp_path, distillation_weight=0.5))


def test_what_ships_is_the_average_if_one_is_asked_for(tmp_path: Path) -> None:
    averaged = context(tmp_path / "a", averaging_decay=0.9)
    plain = context(tmp_path / "b")
    for run in (averaged, plain):
        do_step("train_bnn", run)
    first, second = (weights(run.run_dir, "train_bnn") for run in (averaged, plain))
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_watching_changes_no_byte_and_writes_every_step(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    watched = context(tmp_path / "a", tensorboard=True)
    unwatched = context(tmp_path / "b")
    for run in (watched, unwatched):
        do_step("train_bnn", run)
    first, second = (weights(run.run_dir, "train_bnn") for run in (watched, unwatched))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "b" / "tensorboard").exists()
    (file,) = scalars_directory(watched.run_dir, "train_bnn").glob("events*")
    found: dict[str, list[float]] = {}
    data, place = file.read_bytes(), 0
    while place < len(data):  # a record: length, its checksum, the event, its checksum
        length = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + length])
        for value in event.summary.value:
            assert event.step == len(found.get(value.tag, []))
            found.setdefault(value.tag, []).append(value.simple_value)
        place += 12 + length + 4
    n_steps = 1347 // 128
    assert {len(values) for values in found.values()} == {n_steps}
    record = published(watched.run_dir, "train_bnn")
    assert record is not None
    curve = record.values["curve"]
    assert isinstance(curve, list)
    losses = [point["loss"] for point in curve if isinstance(point, dict)]
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-6)  # float32 in the file
    assert max(found["learning_rate"]) == pytest.approx(watched.config.bnn.learning_rate, rel=1e-6)
    assert any(name.startswith("flip_ratio") for name in found) or watched.config.bnn.widths == (
        16,
    )

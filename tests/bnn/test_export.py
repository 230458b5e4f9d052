from pathlib import Path

import numpy as np
import pytest

import bnn
from kernels import BackendUnavailable, Layout, read_model, run_model, write_model
from kernels.build import build_library

NETWORKS = [
    ((9, 7, 3), (5, 33, 40)),
    ((8, 8, 1), (32, 64)),
    ((1, 1, 13), (31, 64, 1)),
    ((3, 5, 2), (4,)),
    ((2, 2, 1), (3, 7)),
]


def integer_net_of(shape, widths, randomise_norms) -> bnn.IntegerNet:
    net = bnn.BinaryConvNet(shape, 4, widths, seed=1)
    randomise_norms(net, np.random.default_rng(2))
    return bnn.integerize(net)


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return build_library()
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("shape", "widths"), NETWORKS)
def test_the_file_means_the_integer_network(shape, widths, randomise_norms) -> None:
    integer_net = integer_net_of(shape, widths, randomise_norms)
    model = read_model(write_model(bnn.to_model(integer_net)))
    images = np.random.default_rng(4).integers(0, 256, (7, *shape), dtype=np.uint8)
    np.testing.assert_array_equal(run_model(model, images), integer_net(images))


@pytest.mark.parametrize(("shape", "widths"), NETWORKS)
def test_the_runtime_returns_the_same_integers(shape, widths, randomise_norms, library) -> None:
    integer_net = integer_net_of(shape, widths, randomise_norms)
    runtime = bnn.Runtime(write_model(bnn.to_model(integer_net)), library)
    images = np.random.default_rng(4).integers(0, 256, (50, *shape), dtype=np.uint8)
    np.testing.assert_array_equal(runtime(images), integer_net(images))


def test_a_trained_network_gives_the_same_integers(trained, digits, library, tmp_path) -> None:
    path = tmp_path / "digits.bspn"
    n_bytes = bnn.export(trained, path, {"labels": [str(i) for i in range(10)]})
    assert n_bytes == path.stat().st_size
    runtime = bnn.Runtime(path, library)
    logits = runtime(digits.test_images)
    np.testing.assert_array_equal(logits, bnn.integerize(trained)(digits.test_images))
    expected = bnn.evaluate(trained, digits.test_images, digits.test_labels).predictions
    np.testing.assert_array_equal(logits.argmax(axis=1), expected)


def test_metadata_and_determinism(ragged, tmp_path) -> None:
    given = {"labels": list("abcde"), "run_key": "0123456789abcdef", "accuracy": {"test": 0.5}}
    first, second = tmp_path / "a.bspn", tmp_path / "b.bspn"
    bnn.export(ragged, first, given)
    bnn.export(bnn.integerize(ragged), second, given)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bspn", "b.bspn"]
    metadata = read_model(first.read_bytes()).metadata
    assert {key: metadata[key] for key in given} == given
    assert metadata["output_scale"] == float(ragged.head.scale())
    assert metadata["input"]["dtype"] == "uint8"
    assert metadata["input"]["shape"] == [9, 7, 3]


def test_a_file_for_another_processor_is_the_same_model(ragged, tmp_path) -> None:
    files = {}
    for layout in Layout:
        bnn.export(ragged, tmp_path / "model.bspn", {"labels": None}, layout)
        files[layout] = (tmp_path / "model.bspn").read_bytes()
    models = [read_model(file) for file in files.values()]
    assert len(set(files.values())) == len(Layout)
    assert models[0] == models[1] == models[2]


def test_a_failed_export_leaves_the_old_file(ragged, tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.bspn"
    path.write_bytes(b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        bnn.export(ragged, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bspn"]


def test_wrong_metadata_is_refused(ragged) -> None:
    integer_net = bnn.integerize(ragged)
    with pytest.raises(ValueError, match="labels: expected a list of 5 names, one per class"):
        bnn.to_model(integer_net, {"labels": ["a", "b"]})
    with pytest.raises(ValueError, match="metadata: expected no key 'output_scale'"):
        bnn.to_model(integer_net, {"output_scale": 1.0})

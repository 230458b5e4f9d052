import gzip
import hashlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workers import datasets, places
from workers.datasets import DataError, DataUnavailable, catalogue, fetch, load, load_default
from workers.manifest import DatasetEntry, FileEntry, read_manifest

FIXTURES = Path(__file__).parent.parent / "data"
# Sum of the shipped grey levels 0 ... 16 (561,718 in all), each turned into round(255 v / 16).
DIGITS_TRAIN_SUM = 6_721_864
DIGITS_TEST_SUM = 2_231_937
DIGITS_TEST_COUNTS = [43, 46, 43, 47, 48, 45, 47, 45, 41, 45]


def small_entry(name: str, url: str, system_path: Path | None = None) -> DatasetEntry:
    """The manifest entry of the 2,000 digits among the test data."""
    files = []
    for role, stem in (
        ("train_images", "mnist2k-train-images-idx3-ubyte"),
        ("train_labels", "mnist2k-train-labels-idx1-ubyte"),
        ("test_images", "mnist2k-test-images-idx3-ubyte"),
        ("test_labels", "mnist2k-test-labels-idx1-ubyte"),
    ):
        payload = gzip.decompress((FIXTURES / f"{stem}.gz").read_bytes())
        digest = hashlib.sha256(payload).hexdigest()
        file = FileEntry(
            role=role,
            name=stem,
            payload_bytes=len(payload),
            payload_sha256=digest,
            download_bytes=(FIXTURES / f"{stem}.gz").stat().st_size,
            urls=(f"{url}/{stem}.gz",),
        )
        files.append(file)
    return replace(
        read_manifest()["mnist"],
        name=name,
        title=name.capitalize(),
        package="dataset-small",
        n_train=1500,
        n_test=500,
        system_paths=(str(system_path),) if system_path else (),
        files=tuple(files),
    )


@pytest.fixture
def closed_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_address: str) -> Path:
    """Two small data sets and the digits, with every place of the search order below one folder."""
    manifest = {
        "first": small_entry("first", closed_address, tmp_path / "system"),
        "second": small_entry("second", closed_address),
        "digits": read_manifest()["digits"],
    }
    monkeypatch.setattr(datasets, "read_manifest", lambda: manifest)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BITSPIN_DATA", raising=False)
    monkeypatch.delenv("BITSPIN_OFFLINE", raising=False)
    return tmp_path


def put_files(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for path in FIXTURES.glob("mnist2k-*"):
        shutil.copyfile(path, directory / path.name)
    return directory


def test_the_digits_are_the_shipped_ones() -> None:
    data = load("digits", offline=True)
    assert data.train_images.shape == (1347, 8, 8, 1)
    assert data.test_images.shape == (450, 8, 8, 1)
    assert int(data.train_images.sum(dtype=np.int64)) == DIGITS_TRAIN_SUM
    assert int(data.test_images.sum(dtype=np.int64)) == DIGITS_TEST_SUM
    assert np.bincount(data.test_labels).tolist() == DIGITS_TEST_COUNTS
    # First line of the file: 0,0,5,13,9,1,0,0 of 16, a zero.
    assert data.train_images[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert data.train_labels[:4].tolist() == [0, 1, 2, 3]
    assert data.train_images.max() == 255
    assert data.label_names == tuple("0123456789")


def test_grey_levels_of_the_digits_are_rounded() -> None:
    data = load("digits", offline=True)
    found = np.unique(data.train_images).tolist()
    assert found == [int(255 * level / 16 + 0.5) for level in range(17)]


def test_data_survives_pickling() -> None:
    data = load("digits", offline=True)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.digest == data.digest
    assert np.array_equal(copy.test_images, data.test_images)


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(
        DataError,
        match=r"expected one of fashion-mnist, mnist, digits, fsdd, got 'mnst'; did you mean mnist",
    ):
        load("mnst")


def test_a_given_path_is_read(world: Path) -> None:
    directory = put_files(world / "mine" / "first")
    data = load("first", path=directory)
    assert data.train_images.shape == (1500, 28, 28, 1)
    assert data.train_images.dtype == np.uint8
    assert data.train_images.flags.writeable
    assert data.train_labels.dtype == np.int64
    assert np.bincount(data.test_labels).tolist() == [50] * 10
    assert data.source == f"path {directory}"
    assert load("first", path=world / "mine").digest == data.digest


def test_a_given_path_is_the_only_one_searched(world: Path) -> None:
    put_files(world / "system")
    (world / "empty").mkdir()
    with pytest.raises(DataError, match=rf"4 files .* in {world / 'empty'}, got none called"):
        load("first", path=world / "empty")


def test_search_order(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []
    digests = set()
    put_files(world / "cache" / "bitspin" / "datasets" / "first" / "1")
    put_files(world / "system")
    put_files(world / "data" / "first")
    monkeypatch.setenv("BITSPIN_DATA", str(world / "data"))
    for gone in ("data/first", "system", ""):
        data = load("first")
        sources.append(data.source.removesuffix(f" {data.source.split()[-1]}"))
        digests.add(data.digest)
        if gone:
            shutil.rmtree(world / gone)
    assert sources == ["BITSPIN_DATA", "system package", "cache"]
    assert len(digests) == 1


def test_plain_files_give_the_same_digest(world: Path) -> None:
    packed = load("first", path=put_files(world / "packed"))
    directory = put_files(world / "plain")
    for path in list(directory.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = load("first", path=directory)
    assert plain.digest == packed.digest
    assert np.array_equal(plain.train_images, packed.train_images)


def test_a_read_only_data_folder_is_left_as_it_is(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = put_files(world / "data" / "first")
    monkeypatch.setenv("BITSPIN_DATA", str(world / "data"))
    directory.chmod(0o555)
    before = sorted(directory.iterdir())
    try:
        assert load("first").source == f"BITSPIN_DATA {directory}"
        assert fetch("first") == directory
    finally:
        directory.chmod(0o755)
    assert sorted(directory.iterdir()) == before
    assert not (world / "cache").exists()


@pytest.mark.parametrize("how", ["load", "default", "fetch"])
@pytest.mark.parametrize("where", ["data/first", "system", "cache/bitspin/datasets/first/1"])
def test_a_corrupt_file_is_never_worked_around(
    world: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str
) -> None:
    (world / "data").mkdir()
    monkeypatch.setenv("BITSPIN_DATA", str(world / "data"))
    path = put_files(world / where) / "mnist2k-test-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"other"))
    call = {"load": lambda: load("first"), "default": load_default, "fetch": lambda: fetch("first")}
    with pytest.raises(DataError) as caught:
        call[how]()
    assert not isinstance(caught.value, DataUnavailable)
    entry = datasets.read_manifest()["first"]
    for part in (str(path), entry.files[3].payload_sha256, hashlib.sha256(b"other").hexdigest()):
        assert part in str(caught.value)


def test_an_incomplete_folder_is_named(world: Path) -> None:
    directory = put_files(world / "system")
    (directory / "mnist2k-test-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"got none called mnist2k-test-labels-idx1-ubyte; add"):
        load_default()


def test_the_data_variable_must_be_a_folder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSPIN_DATA", str(world / "nowhere"))
    with pytest.raises(DataError, match=r"BITSPIN_DATA: expected a directory, got .*nowhere"):
        load_default()


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_offline_message_says_everything(
    world: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    if by_variable:
        monkeypatch.setenv("BITSPIN_OFFLINE", "1")

    def no_network(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(places, "fill_cache", no_network)
    with pytest.raises(DataUnavailable) as caught:
        load("first", offline=not by_variable)
    message = str(caught.value)
    file = datasets.read_manifest()["first"].files[0]
    cache = world / "cache" / "bitspin" / "datasets" / "first" / "1"
    for part in (
        "first: First was not found",
        f"searched system package {world / 'system'}, cache {cache}",
        "BITSPIN_OFFLINE=1" if by_variable else "offline was asked for",
        f"put into {cache} or $BITSPIN_DATA/first",
        file.urls[0],
        f"{file.download_bytes} bytes",
        file.payload_sha256,
        "dataset-small",
        "CC BY-SA 3.0",
    ):
        assert part in message
    assert "\n" not in message


def test_a_strange_offline_variable_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSPIN_OFFLINE", "maybe")
    with pytest.raises(DataError, match="BITSPIN_OFFLINE: expected 0 or 1, got 'maybe'"):
        load("first")


def test_without_network_the_error_tells_the_host_and_the_ways_out(world: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"127\.0\.0\.1 could not be reached.*put into"):
        load("first")


def test_default_takes_the_first(world: Path) -> None:
    put_files(world / "system")
    data = load_default()
    assert data.name == "first"
    assert data.reason == "First is the first choice and was at hand"


def test_default_takes_the_second_and_says_why(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(world / "data" / "second")
    monkeypatch.setenv("BITSPIN_DATA", str(world / "data"))
    data = load_default()
    assert data.name == "second"
    assert data.reason.startswith("Second stands in for better data: First was not found (searched")
    assert "could not be reached" in data.reason


def test_default_falls_back_to_the_digits_and_tries_a_dead_network_once(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    original = places.fill_cache

    def counted(entry: DatasetEntry, directory: Path) -> list[str]:
        tried.append(entry.name)
        return original(entry, directory)

    monkeypatch.setattr(places, "fill_cache", counted)
    data = load_default()
    assert data.name == "digits"
    assert data.digest == load("digits").digest
    assert tried == ["first"]
    for part in ("First was not found", "could not be reached", "Second was not", "no network"):
        assert part in data.reason
    assert "\n" not in data.reason


def test_default_offline_does_not_touch_the_network(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "fill_cache", lambda *_: pytest.fail("the network was used"))
    assert load_default(offline=True).name == "digits"


def test_a_download_is_read_from_the_cache(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(entry: DatasetEntry, directory: Path) -> list[str]:
        put_files(directory)
        return [entry.files[0].urls[0]]

    monkeypatch.setattr(places, "fill_cache", download)
    cache = world / "cache" / "bitspin" / "datasets" / "first" / "1"
    first = load("first")
    assert first.source.startswith("downloaded from http://127.0.0.1:")
    assert first.source.endswith(str(cache))
    assert load("first").source == f"cache {cache}"
    assert fetch("first") == cache


def test_rows_and_labels_must_be_those_of_the_manifest(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = put_files(world / "mine")
    entry = datasets.read_manifest()["first"]
    for changes, message in (
        ({"n_test": 501}, r"expected test images \(501, 28, 28\) and 501 labels .*\(500,\)"),
        ({"label_names": tuple("012345678")}, r"expected train labels below 9 in .*got 9"),
    ):
        wrong = replace(entry, **changes)  # type: ignore[arg-type]
        monkeypatch.setattr(datasets, "read_manifest", lambda wrong=wrong: {"first": wrong})
        with pytest.raises(DataError, match=message):
            load("first", path=directory)


def test_catalogue_says_what_is_where(world: Path) -> None:
    put_files(world / "system")
    first, second, digits = catalogue()
    assert (first.name, first.n_train, first.n_test, first.n_classes) == ("first", 1500, 500, 10)
    assert first.present_at == f"system package {world / 'system'}"
    assert second.present_at is None
    assert second.download_bytes == sum(p.stat().st_size for p in FIXTURES.glob("mnist2k-*"))
    assert digits.present_at is not None
    assert digits.download_bytes == 0
    assert digits.licence == "CC BY 4.0"


def test_the_manifest_is_complete() -> None:
    manifest = read_manifest()
    assert list(manifest) == ["fashion-mnist", "mnist", "digits", "fsdd"]
    for name in ("fashion-mnist", "mnist"):
        entry = manifest[name]
        assert len(entry.label_names) == 10
        assert [file.payload_bytes for file in entry.files] == [47040016, 60008, 7840016, 10008]
        for file in entry.files:
            assert len(file.payload_sha256) == len(file.download_sha256) == 64
            assert file.urls[0].startswith("https://")
            assert all(url.endswith(f"/{file.name}.gz") for url in file.urls)


def test_importing_needs_no_cluster_and_no_torch() -> None:
    script = (
        "import sys, workers.datasets\n"
        "print([m for m in ('ray', 'prefect', 'torch', 'PIL', 'requests') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True)
    assert shown.stdout.decode().strip() == "[]"


@pytest.fixture
def real_data() -> Path:
    root = os.environ.get("BITSPIN_DATA", "")
    if not root:
        pytest.skip("BITSPIN_DATA is not set: no folder with the real data sets")
    return Path(root)


def test_real_mnist(real_data: Path) -> None:
    if not (real_data / "mnist").is_dir():
        pytest.skip(f"no folder mnist in BITSPIN_DATA={real_data}")
    data = load("mnist", offline=True)
    assert data.train_images.shape == (60000, 28, 28, 1)
    assert data.test_images.shape == (10000, 28, 28, 1)
    # The mean and label counts that every description of MNIST gives: 0.1307 and 980 zeros.
    assert data.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert np.bincount(data.test_labels)[:3].tolist() == [980, 1135, 1032]
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_real_fashion_mnist() -> None:
    record = next(record for record in catalogue() if record.name == "fashion-mnist")
    if record.present_at is None:
        pytest.skip("Fashion-MNIST is neither in BITSPIN_DATA nor in a system package nor cached")
    data = load("fashion-mnist", offline=True)
    assert data.train_images.shape == (60000, 28, 28, 1)
    assert data.train_images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    assert data.label_names[int(data.train_labels[0])] == "Ankle boot"

import hashlib
import io
import os
import tarfile
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workers import places
from workers.datasets import DataError, DataUnavailable, catalogue, fetch, load
from workers.log_mel import log_mel
from workers.manifest import FileEntry, read_manifest
from workers.spoken_digits import content_digest, read_recordings, spoken_digit_arrays

SPEAKERS = ("anna", "bert")


def recording(hertz: float, n_samples: int, rate: int = 8000) -> bytes:
    samples = 12000 * np.sin(2 * np.pi * hertz * np.arange(n_samples) / rate)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def recordings() -> dict[str, bytes]:
    """Digits 0 and 1 of two speakers, seven of each: two tones, longer and shorter."""
    return {
        f"{digit}_{speaker}_{number}.wav": recording(
            400 + 1500 * digit + 40 * number, 1600 + 700 * number
        )
        for digit in (0, 1)
        for speaker in SPEAKERS
        for number in range(7)
    }


def features(content: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as stream:
        samples = np.frombuffer(stream.readframes(1 << 20), dtype="<i2") / 32768
    return log_mel(samples, 8000, 64, 32)


def archive(path: Path, recordings: dict[str, bytes], mode: str = "w:xz") -> FileEntry:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.addfile(tarfile.TarInfo("recordings/"), None)
        for name, content in {**recordings, "README.md": b"text"}.items():
            member = tarfile.TarInfo(f"recordings/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    file = read_manifest()["fsdd"].files[0]
    return replace(file, payload_sha256=content_digest(recordings))


def test_the_content_digest_is_that_of_sha256sum(recordings: dict[str, bytes]) -> None:
    lines = [f"{hashlib.sha256(recordings[n]).hexdigest()}  {n}" for n in sorted(recordings)]
    expected = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    assert content_digest(dict(reversed(recordings.items()))) == expected


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_is_read_however_it_is_compressed(
    recordings: dict[str, bytes], tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "fsdd-recordings.tar.xz"
    file = archive(path, dict(reversed(recordings.items())), mode)
    assert read_recordings(path, file) == recordings
    assert list(read_recordings(path, file)) == sorted(recordings)


def test_another_content_is_refused(recordings: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "fsdd-recordings.tar.xz"
    file = archive(path, recordings)
    fewer = {name: recordings[name] for name in list(recordings)[1:]}
    archive(path, fewer)
    with pytest.raises(DataError, match=r"got 27 recordings with .*; the archive is corrupt"):
        read_recordings(path, file)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="expected a tar archive of recordings, got: "):
        read_recordings(path, file)


def test_parts_and_labels_are_those_of_the_names(recordings: dict[str, bytes]) -> None:
    arrays = spoken_digit_arrays(recordings)
    assert {name: a.shape for name, a in arrays.items()} == {
        "train_images": (8, 1, 64, 32),
        "train_labels": (8,),
        "test_images": (20, 1, 64, 32),
        "test_labels": (20,),
    }
    assert all(array.dtype == np.uint8 for array in arrays.values())
    assert arrays["train_labels"].tolist() == [0] * 4 + [1] * 4
    assert arrays["test_labels"].tolist() == [0] * 10 + [1] * 10


def test_bands_are_standardised_on_the_sounding_frames_of_the_training_part(
    recordings: dict[str, bytes],
) -> None:
    arrays = spoken_digit_arrays(recordings)
    # Numbers 5 and 6 have 5,100 and 5,800 samples: 62 and 64 (of 71) frames.
    train = [
        features(recordings[f"{d}_{s}_{n}.wav"]) for d in (0, 1) for s in SPEAKERS for n in (5, 6)
    ]
    frames = np.concatenate([x[:n] for x, n in zip(train, [62, 64] * 4, strict=True)])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    for part, expected in (
        (arrays["train_images"], train[1]),
        (arrays["test_images"], features(recordings["0_anna_1.wav"])),
    ):
        levels = np.floor(128 + 32 * (expected - mean) / deviation + 0.5)
        assert (part[1, 0] == np.clip(levels, 0, 255)).all()
    silence = arrays["test_images"][0, 0, 20:]  # after 1,600 samples
    assert (silence == silence[0]).all()


def test_what_is_no_such_recording_is_named(recordings: dict[str, bytes]) -> None:
    name = "0_anna_6.wav"
    with pytest.raises(DataError, match=f"{name}: expected 1 channel .* at 16000 Hz"):
        spoken_digit_arrays({**recordings, name: recording(500, 900, rate=16000)})
    with pytest.raises(DataError, match=f"{name}: expected a WAV file, got: "):
        spoken_digit_arrays({**recordings, name: b"RIFF"})
    with pytest.raises(DataError, match="expected numbers below and from 5, got none"):
        spoken_digit_arrays(
            {
                n: c
                for n, c in recordings.items()
                if not n.endswith("_6.wav") and not n.endswith("_5.wav")
            }
        )


def test_it_is_in_the_catalogue_and_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BITSPIN_DATA", raising=False)
    (record,) = [r for r in catalogue() if r.name == "fsdd"]
    assert (record.n_train, record.n_test, record.image_shape) == (2700, 300, (1, 64, 32))
    assert record.present_at is None
    for get in (load, fetch):
        with pytest.raises(
            DataUnavailable,
            match=r"put fsdd-recordings.tar.xz into .*; it comes from https://github.com/Jakobovski",
        ):
            get("fsdd")


def test_a_damaged_archive_is_found_by_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recordings: dict[str, bytes]
) -> None:
    (tmp_path / "fsdd").mkdir()
    archive(tmp_path / "fsdd" / "fsdd-recordings.tar.xz", recordings)
    monkeypatch.setenv("BITSPIN_DATA", str(tmp_path))
    with pytest.raises(DataError, match="got 28 recordings with"):
        fetch("fsdd")


@pytest.mark.slow
def test_the_published_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.environ.get("BITSPIN_DATA", "")
    if not root or places.find_place(read_manifest()["fsdd"]) is None:
        pytest.skip("fsdd-recordings.tar.xz is missing in BITSPIN_DATA/fsdd")
    data = load("fsdd")
    assert data.train_images.shape == (2700, 1, 64, 32)
    assert data.test_images.shape == (300, 1, 64, 32)
    assert np.bincount(data.test_labels).tolist() == [30] * 10
    assert np.bincount(data.train_labels).tolist() == [270] * 10

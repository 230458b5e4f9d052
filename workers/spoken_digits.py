"""The Free Spoken Digit Dataset: from an archive of recordings to images that a network reads.

A recording ``{digit}_{speaker}_{number}.wav`` becomes an image (1, T, F): T frames as columns, F
log-mel bands as channels, each band standardised on the training part and written as uint8. Split:
numbers 0 to 4 of every digit and speaker are the test part, as the data set's authors have it.

Archives of the same recordings circulate in different bytes, so what is verified is their content:
the SHA-256 of the lines ``sha256  name`` of all recordings, sorted by name.
"""

import hashlib
import io
import lzma
import re
import tarfile
import wave
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.image_data import DataError
from workers.log_mel import log_mel, n_frames_of
from workers.manifest import FileEntry

N_FRAMES = 64
"""Columns of an image: 0.655 s, which is longer than 95 of 100 recordings; the rest is cut off."""
N_BANDS = 32
"""Channels of an image."""
_SAMPLE_RATE = 8000
_N_TEST_NUMBERS = 5
_MAX_RECORDING_BYTES = 1 << 20  # the longest has 37 kB: whatever is larger is something else
_MAX_RECORDINGS = 10_000
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_MIDDLE, _STEPS_PER_SIGMA = 128, 32  # 255 is four standard deviations above the mean


def read_recordings(path: Path, file: FileEntry) -> dict[str, bytes]:
    """Read and verify an archive of recordings, compressed in any way that tar knows.

    Parameters
    ----------
    path
        The archive; recordings may lie in folders of it, everything else is passed over.
    file
        What the manifest says about its content.

    Returns
    -------
    dict
        Bytes of every recording by file name, sorted by name.

    Raises
    ------
    DataError
        If the archive cannot be read, or does not hold the recordings that the manifest names.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                stream = archive.extractfile(member) if _NAME.fullmatch(name) else None
                if stream is None:
                    continue
                found[name] = stream.read(_MAX_RECORDING_BYTES)
                if len(found) > _MAX_RECORDINGS:
                    break
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise DataError(
            f"{path}: expected a tar archive of recordings, got: {error}; replace the file"
        ) from error
    found = {name: found[name] for name in sorted(found)}
    digest = content_digest(found)
    if digest != file.payload_sha256:
        raise DataError(
            f"{path}: expected recordings with content sha256 {file.payload_sha256}, got "
            f"{len(found)} recordings with {digest}; the archive is corrupt or of another version"
        )
    return found


def content_digest(recordings: dict[str, bytes]) -> str:
    """SHA-256 (hex) of the lines that ``sha256sum *.wav`` prints."""
    lines = (f"{hashlib.sha256(recordings[n]).hexdigest()}  {n}\n" for n in sorted(recordings))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def spoken_digit_arrays(recordings: dict[str, bytes]) -> dict[str, NDArray[np.uint8]]:
    """Turn recordings into the images and labels of both parts.

    Parameters
    ----------
    recordings
        WAV files by name: mono, 16 bit, 8 kHz.

    Returns
    -------
    dict
        ``train_images`` (N, 1, T, F), ``train_labels`` (N,), and the same of ``test``, uint8.

    Raises
    ------
    DataError
        If a recording is not what the data set consists of, or a part is empty.
    """
    features, lengths, labels, is_test = [], [], [], []
    for name, content in recordings.items():
        digit, _, number = _parts(name)
        signal = _signal(name, content)
        features.append(log_mel(signal, _SAMPLE_RATE, N_FRAMES, N_BANDS))
        lengths.append(min(N_FRAMES, n_frames_of(len(signal), _SAMPLE_RATE)))
        labels.append(digit)
        is_test.append(number < _N_TEST_NUMBERS)
    test = np.array(is_test, dtype=np.bool_)
    if not test.any() or test.all():
        raise DataError(f"recordings: expected numbers below and from {_N_TEST_NUMBERS}, got none")
    images = _grey_levels(np.stack(features), np.array(lengths), ~test)
    classes = np.array(labels, dtype=np.uint8)
    return {
        "train_images": images[~test],
        "train_labels": classes[~test],
        "test_images": images[test],
        "test_labels": classes[test],
    }


def _parts(name: str) -> tuple[int, str, int]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"{name}: expected a recording called digit_speaker_number.wav")
    return int(match[1]), match[2], int(match[3])


def _signal(name: str, content: bytes) -> NDArray[np.float64]:
    """Samples of a recording in [-1, 1)."""
    try:
        with wave.open(io.BytesIO(content)) as recording:
            form = (recording.getnchannels(), recording.getsampwidth(), recording.getframerate())
            samples = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2")
    except (wave.Error, EOFError, ValueError) as error:
        raise DataError(f"{name}: expected a WAV file, got: {error}; replace the file") from error
    if form != (1, 2, _SAMPLE_RATE):
        raise DataError(
            f"{name}: expected 1 channel of 2 bytes at {_SAMPLE_RATE} Hz, got {form[0]} of "
            f"{form[1]} at {form[2]} Hz; convert the recording"
        )
    return samples.astype(np.float64) / 32768.0


def _grey_levels(
    features: NDArray[np.float64], lengths: NDArray[np.int64], is_train: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Standardise each band and quantise: mean 128, standard deviation 32.

    Mean and deviation are those of the sounding frames of the training part; the silence that fills
    a short recording up would be most of the frames.
    """
    sounds = np.arange(features.shape[1]) < lengths[:, None]
    frames = features[sounds & is_train[:, None]]
    standard = (features - frames.mean(axis=0)) / np.maximum(frames.std(axis=0), 1e-9)
    levels = np.floor(_MIDDLE + _STEPS_PER_SIGMA * standard + 0.5)
    images: NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)[:, None]
    return images

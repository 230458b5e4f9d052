"""Log-mel features of speech: frames, windows, spectra, bands; numpy alone.

The mel scale is HTK's, m = 2595 log10(1 + f / 700). The triangles of the bank are triangles on that
scale, so between the first and the last centre every frequency is shared out completely.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.025
"""Length of a frame."""
HOP_SECONDS = 0.010
"""From the start of a frame to the start of the next."""
LOWEST_HERTZ = 20.0
"""Where the first band begins."""
_FLOOR = 1e-6  # of the power, so that silence has a logarithm
_LARGEST_SHARE = 0.95  # of half the sampling rate: recordings are filtered near it


def mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequency on the mel scale, any shape."""
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def mel_bank(n_bands: int, n_fft: int, sample_rate: int) -> NDArray[np.float64]:
    """Weight of every bin of a spectrum in every band.

    Parameters
    ----------
    n_bands
        Triangles, evenly spaced in mel from 20 Hz to 95 % of half the sampling rate.
    n_fft
        Length of the transform.
    sample_rate
        Samples per second.

    Returns
    -------
    NDArray
        Shape (n_bands, n_fft // 2 + 1), in [0, 1].
    """
    bins = mel(np.arange(n_fft // 2 + 1, dtype=np.float64) * sample_rate / n_fft)
    ends = mel(np.array([LOWEST_HERTZ, _LARGEST_SHARE * sample_rate / 2]))
    step = (ends[1] - ends[0]) / (n_bands + 1)
    centres = ends[0] + step * np.arange(1, n_bands + 1)
    weights: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(bins - centres[:, None]) / step)
    return weights


_bank = cache(mel_bank)


def n_frames_of(n_samples: int, sample_rate: int) -> int:
    """Whole frames in ``n_samples`` samples."""
    length, hop = _frame(sample_rate)
    return 0 if n_samples < length else 1 + (n_samples - length) // hop


def log_mel(
    signal: NDArray[np.float64], sample_rate: int, n_frames: int, n_bands: int = 32
) -> NDArray[np.float64]:
    r"""Logarithm of the power in each band of each frame.

    .. math:: y_{tb} = \ln(10^{-6} + \sum_k B_{bk} |\mathrm{rfft}(w \cdot x_t)_k|^2)

    with Hann's window w and the bank B of :func:`mel_bank`.

    Parameters
    ----------
    signal
        Shape (n_samples,), in [-1, 1].
    sample_rate
        Samples per second.
    n_frames
        Frames to return: the signal is cut, or followed by silence, which is ln(1e-6).
    n_bands
        Bands per frame.

    Returns
    -------
    NDArray
        Shape (n_frames, n_bands), float64.
    """
    length, hop = _frame(sample_rate)
    padded = np.zeros(length + (n_frames - 1) * hop)
    kept = signal[: len(padded)]
    padded[: len(kept)] = kept
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    # Twice the next power of two: below it, the lowest triangles are narrower than a bin.
    n_fft = 2 << (length - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(length), n_fft)) ** 2
    result: NDArray[np.float64] = np.log(_FLOOR + power @ _bank(n_bands, n_fft, sample_rate).T)
    return result


def _frame(sample_rate: int) -> tuple[int, int]:
    """Samples of a frame and of a hop."""
    return round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)

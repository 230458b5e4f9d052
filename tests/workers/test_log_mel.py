import numpy as np
import pytest

from workers.log_mel import log_mel, mel, mel_bank, n_frames_of

RATE = 8000


def slow_log_mel(signal: np.ndarray, n_frames: int, n_bands: int) -> np.ndarray:
    """A frame and a bin at a time, by the definition of the transform."""
    length, hop, n_fft = 200, 80, 512
    window = [0.5 - 0.5 * np.cos(2 * np.pi * n / (length - 1)) for n in range(length)]
    bank = mel_bank(n_bands, n_fft, RATE)
    rows = []
    for t in range(n_frames):
        frame = [
            window[n] * (signal[t * hop + n] if t * hop + n < len(signal) else 0.0)
            for n in range(length)
        ]
        n = np.arange(length)
        power = [
            abs(np.sum(np.array(frame) * np.exp(-2j * np.pi * k * n / n_fft))) ** 2
            for k in range(n_fft // 2 + 1)
        ]
        rows.append([np.log(1e-6 + bank[b] @ power) for b in range(n_bands)])
    return np.array(rows)


@pytest.mark.parametrize("n_samples", [150, 200, 279, 700])
def test_features_are_those_of_the_definition(n_samples: int) -> None:
    signal = np.sin(np.arange(n_samples) * 0.4) * np.linspace(0.1, 0.9, n_samples)
    fast = log_mel(signal, RATE, 5, 6)
    # Both are sums of 200 products in float64; where a band is nearly silent the logarithm of
    # 1e-6 + rounding (about 1e-13) moves by 1e-7.
    np.testing.assert_allclose(fast, slow_log_mel(signal, 5, 6), atol=1e-6)


def test_between_the_centres_every_frequency_is_shared_out() -> None:
    bank = mel_bank(32, 512, RATE)
    assert bank.shape == (32, 257)
    assert bank.min() == 0.0
    assert bank.max() <= 1.0
    bins = mel(np.arange(257) * RATE / 512)
    ends = mel(np.array([20.0, 3800.0]))
    step = (ends[1] - ends[0]) / 33
    between = (bins >= ends[0] + step) & (bins <= ends[1] - step)
    np.testing.assert_allclose(bank.sum(axis=0)[between], 1.0, rtol=1e-12)
    assert (bank.sum(axis=1) > 0).all()  # no triangle lies between two bins
    assert bank[:, bins > ends[1]].sum() == 0


def test_mel_of_known_frequencies() -> None:
    # 2595 log10(1 + 1000 / 700) = 999.99, the scale's anchor; 6300 Hz gives 2595.
    np.testing.assert_allclose(
        mel(np.array([0.0, 1000.0, 6300.0])), [0.0, 999.99, 2595.0], atol=0.01
    )


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3000.0])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(2000) / RATE)
    loudest = log_mel(tone, RATE, 20).argmax(axis=1)
    ends = mel(np.array([20.0, 3800.0]))
    centres = ends[0] + (ends[1] - ends[0]) / 33 * np.arange(1, 33)
    expected = np.abs(centres - mel(np.array([hertz]))).argmin()
    assert set(loudest.tolist()) == {int(expected)}


def test_frames_are_counted_and_the_rest_is_silence() -> None:
    assert [n_frames_of(n, RATE) for n in (199, 200, 279, 280, 8000)] == [0, 1, 1, 2, 98]
    features = log_mel(np.ones(200), RATE, 4)
    assert (features[3] == np.log(1e-6)).all()
    assert (features[0] > np.log(1e-6)).any()

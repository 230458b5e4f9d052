"""3x3 binary convolution, one image, one thread: bitspin against int8 of oneDNN, through torch.

Bitspin binarises a float32 image and convolves it; torch convolves an image that is uint8 already,
in channels-last order, with int8 weights packed for oneDNN, so its quantisation is not counted.
Padding 1, as many channels out as in. Repetitions alternate, the best counts.

    PYTHONPATH=. python tests/benchmarks/peers/torch_int8_convolution.py
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from kernels import reference_convolution
from kernels.backends import current_backend
from kernels.convolution import ConvWeights, FloatConvolution

SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512))
"""Height and width of the image, channels."""


def peer(image: torch.Tensor, weights: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The quantised convolution of an NCHW image and +-1 weights; sums are counted in steps of 8."""
    channels = len(weights)
    scales, zeros = torch.full((channels,), 1.0), torch.zeros(channels, dtype=torch.int64)
    quantised = torch.quantize_per_channel(weights, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.conv2d_prepack(quantised, None, [1, 1], [1, 1], [1, 1], 1)
    signs = torch.where(image >= 0, 1.0, -1.0)
    quantised_image = torch.quantize_per_tensor(signs, 1.0, 128, torch.quint8)
    quantised_image = quantised_image.contiguous(memory_format=torch.channels_last)
    return lambda: torch.ops.quantized.conv2d(quantised_image, packed, 8.0, 128)


def measure(size: int, channels: int, seconds: float) -> dict[str, object]:
    """Check and time one shape."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, size, size, channels)).astype(np.float32)
    weights = rng.random((channels, 3, 3, channels)) < 0.5
    ours = FloatConvolution(ConvWeights.of(weights), (size, size), padding=1, border="zero")
    signs = [2 * (x > 0).astype(np.int64) - 1 for x in (image, weights)]
    sums = reference_convolution.convolve(*signs, padding=(1, 1))
    out = ours(image)
    np.testing.assert_array_equal(out, sums)
    planes = [torch.from_numpy(x).permute(0, 3, 1, 2) for x in (image, signs[1].astype(np.float32))]
    theirs = peer(planes[0], planes[1].contiguous(memory_format=torch.channels_last))
    rounded = theirs().dequantize().permute(0, 2, 3, 1).numpy()
    assert np.abs(rounded - sums)[np.abs(sums) < 1000].max() <= 4

    minus_one = FloatConvolution(ConvWeights.of(weights), (size, size), padding=1)
    runs: dict[str, Callable[[], object]] = {
        "bitspin": lambda: minus_one(image, out),
        "bitspin, zero border": lambda: ours(image, out),
        "oneDNN int8": theirs,
    }
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            for _ in range(5):
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
    operations = 2 * 9 * channels * channels * size * size
    return {
        "shape": f"{size}x{size}x{channels}",
        "backend": current_backend().name,
        "microseconds": {name: round(1e6 * value, 1) for name, value in best.items()},
        "tops": {name: round(operations / value / 1e12, 2) for name, value in best.items()},
        "times_int8": round(best["oneDNN int8"] / best["bitspin"], 2),
    }


def main() -> None:
    """Print one JSON object per shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shape")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    torch.backends.quantized.engine = "onednn"
    warnings.simplefilter("ignore")  # torch announces that its quantised tensors will go
    with torch.no_grad():
        for size, channels in SHAPES:
            print(json.dumps(measure(size, channels, seconds)), flush=True)


if __name__ == "__main__":
    main()

"""3x3 binary convolution, one image, one thread: bitspin against OpenVINO, in one process.

Both binarise a float32 image and convolve it with +-1 weights; padding 1, as many channels out as
in. Bitspin gets NHWC, OpenVINO its own order NCHW (2026.4 crashes with NHWC before a binary
convolution). Results are compared with the numpy reference before anything is timed; repetitions
alternate, the best counts.

    python -m venv peers && peers/bin/pip install -r tests/benchmarks/peers/requirements.txt
    PYTHONPATH=. peers/bin/python tests/benchmarks/peers/openvino_binary_convolution.py
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset1

from kernels import reference_convolution
from kernels.backends import current_backend
from kernels.convolution import ConvWeights, FloatConvolution

SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512))
"""Height and width of the image, channels."""
OUTSIDE = {"minus_one": -1.0, "zero": 0.0}


def peer(
    weights: NDArray[np.bool_], size: int, border: str
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Compile OpenVINO's graph for one NCHW image.

    The quantiser has to have 2 levels and the range [0, 1], and the constant little-endian bits:
    with anything else the result is wrong without a word.
    """
    n_out, kernel_h, kernel_w, channels = weights.shape
    image = opset1.parameter([1, channels, size, size], np.float32, name="image")
    zero, one = (opset1.constant(np.full((1, 1, 1, 1), v, np.float32)) for v in (0.0, 1.0))
    bits = opset1.fake_quantize(image, zero, zero, zero, one, 2)
    filters = openvino.Tensor(
        openvino.Type.u1, openvino.Shape([n_out, channels, kernel_h, kernel_w])
    )
    filters.data[:] = np.packbits(weights.transpose(0, 3, 1, 2).reshape(-1), bitorder="little")
    sums = opset1.binary_convolution(
        bits, openvino.op.Constant(filters), [1, 1], [1, 1], [1, 1], [1, 1],
        "xnor-popcount", OUTSIDE[border], "explicit",
    )  # fmt: skip
    model = openvino.Model([sums], [image])
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(x: NDArray[np.float32], _kept: object = filters) -> NDArray[np.float32]:
        # The constant does not copy the filters, so they have to live as long as this function.
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        request.infer()
        out: NDArray[np.float32] = request.get_output_tensor().data
        return out

    return run


def measure(size: int, channels: int, border: str, seconds: float) -> dict[str, object]:
    """Check and time one shape."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, size, size, channels)).astype(np.float32)
    weights = rng.random((channels, 3, 3, channels)) < 0.5
    signs = [2 * (bits > 0).astype(np.int64) - 1 for bits in (image, weights)]
    outside = int(OUTSIDE[border])
    expected = reference_convolution.convolve(*signs, (1, 1), (1, 1), outside)

    ours = FloatConvolution(ConvWeights.of(weights), (size, size), padding=1, border=border)
    theirs = peer(weights, size, border)
    nchw = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    out = ours(image)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(theirs(nchw), expected.transpose(0, 3, 1, 2))

    runs = {"bitspin": lambda: ours(image, out), "openvino": lambda: theirs(nchw)}
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            for _ in range(5):
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
    operations = 2 * 9 * channels * channels * size * size
    tops = {name: operations / value / 1e12 for name, value in best.items()}
    return {
        "shape": f"{size}x{size}x{channels}",
        "border": border,
        "backend": current_backend().name,
        "microseconds": {name: round(1e6 * value, 1) for name, value in best.items()},
        "tops": {name: round(value, 2) for name, value in tops.items()},
        "times_openvino": round(best["openvino"] / best["bitspin"], 2),
    }


def main() -> None:
    """Print one JSON object per shape and border."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shape and border")
    seconds = parser.parse_args().seconds
    for border in OUTSIDE:
        for size, channels in SHAPES:
            print(json.dumps(measure(size, channels, border, seconds)), flush=True)


if __name__ == "__main__":
    main()

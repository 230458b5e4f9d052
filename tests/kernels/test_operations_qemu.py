"""All operations under qemu-user: on a processor with 32 bits, and on the oldest with 64."""

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import DType, Layout, Model, run_model, write_model
from kernels.build import SOURCES
from kernels.native import encode_images
from kernels.targets import TARGETS

pytestmark = pytest.mark.arm

RUNNER = Path(__file__).with_name("qemu_runner.c")
EMULATORS = {
    "aarch64-linux": ["qemu-aarch64", "-cpu", "cortex-a53"],
    "armv7-linux": ["qemu-arm", "-cpu", "cortex-a15"],
}


@pytest.fixture(scope="module", params=EMULATORS)
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What runs a model that comes in through standard input."""
    emulator = EMULATORS[request.param]
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is missing: pip install 'bitspin[arm]'")
    if shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is missing: apt-get install qemu-user")
    path = tmp_path_factory.mktemp(request.param) / "runner"
    zig = [sys.executable, "-m", "ziglang", "cc", *TARGETS[request.param].zig]
    flags = ["-O2", "-std=c99", "-static", "-nostdlib", "-ffreestanding", "-fno-unwind-tables"]
    sources = [str(RUNNER), *sorted(map(str, SOURCES.glob("*.c")))]
    build = [*zig, *flags, f"-I{SOURCES}", *sources, "-o", str(path)]
    subprocess.run(build, check=True, capture_output=True)
    return [*emulator, str(path)]


def _run(command: list[str], model: Model, layout: Layout, images: NDArray[Any]) -> NDArray[Any]:
    # The runner hands the images over where they lie: behind the model, and bits are words.
    files = (write_model(replace(model, metadata={"fill": "x" * n}), layout) for n in range(4))
    file = next(file for file in files if len(file) % 4 == 0)
    inputs = encode_images(model.tensors[0], images)
    header = struct.pack("<QQQ", len(file), inputs.shape[1], len(inputs))
    source = header + file + inputs.tobytes()
    done = subprocess.run(command, input=source, capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<i4").reshape(len(images), -1)


@pytest.mark.parametrize("seed", range(12))
def test_any_graph(
    graphs: ModuleType,
    make_images: Callable[..., NDArray[Any]],
    command: list[str],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    dtype = [DType.U8, DType.I8, DType.BITS][seed % 3]
    if seed < 9:
        model = graphs.every_operation(dtype, (2, 33, 64)[seed // 3], seed)
    else:
        image = (int(rng.integers(1, 8)), 5, int(rng.choice([1, 6, 31, 33, 65])))
        model = graphs.Graph(dtype, image, seed).grow(rng.choice(list(graphs.STEPS), 6)).model()
    images = make_images(model, 3, seed)
    expected = run_model(model, images)
    for layout in (Layout.ROWS, Layout.VECTORS):
        assert np.array_equal(_run(command, model, layout, images), expected), layout

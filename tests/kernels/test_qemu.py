"""A second opinion on the ARM runtime: the same sources under qemu-user, on base CPUs.

``-cpu cortex-a53`` ends the run at the first instruction that ARMv8.0 does not have.
"""

import importlib.util
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bnn
from kernels.build import SOURCES, TARGETS
from kernels.model_format import write_model
from kernels.philox import Purpose, random_words

pytestmark = pytest.mark.arm

RUNNER = Path(__file__).with_name("qemu_runner.c")
EMULATORS = {
    "aarch64-linux": ["qemu-aarch64", "-cpu", "cortex-a53"],
    "armv7-linux": ["qemu-arm", "-cpu", "cortex-a15"],
}
N_IMAGES = 40


def build_runner(target: str, path: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", *TARGETS[target].zig, "-O2", "-std=c99"]
    flags = ["-static", "-nostdlib", "-ffreestanding", "-fno-unwind-tables", "-s", f"-I{SOURCES}"]
    sources = [str(RUNNER), *sorted(map(str, SOURCES.glob("*.c")))]
    subprocess.run([*command, *flags, *sources, "-o", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("target", EMULATORS)
def test_qemu_returns_the_integer_networks_integers(target: str, tmp_path: Path) -> None:
    emulator = EMULATORS[target]
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is missing: pip install 'bitspin[arm]'")
    if shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is missing: apt-get install qemu-user")
    net = bnn.BinaryConvNet((12, 9, 1), 7, widths=(33, 64), seed=3)
    integer_net = bnn.integerize(net)
    words = random_words(5, Purpose.DIAGNOSTICS, 12 * 9, rows=np.arange(N_IMAGES))
    images = (words & 0xFF).astype(np.uint8).reshape(N_IMAGES, 12, 9, 1)
    model = write_model(bnn.to_model(integer_net))
    build_runner(target, tmp_path / "runner")
    header = struct.pack("<QQQ", len(model), images[0].size, N_IMAGES)
    done = subprocess.run(
        [*emulator, str(tmp_path / "runner")],
        input=header + model + images.tobytes(),
        capture_output=True,
        check=True,
    )
    outputs = np.frombuffer(done.stdout, dtype="<i4").reshape(N_IMAGES, 7)
    assert np.array_equal(outputs, integer_net(images))

"""Every architecture as it ships: the file, the host's runtime and the emulated ARM one.

All of them return the integers of the integer network, as the two steps of a run that verify do.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bnn
from bnn.models import MODELS, build_model
from kernels import BackendUnavailable, Runtime, read_model, write_model
from kernels.build import build_library
from kernels.bundle import layout_of
from kernels.emulate import emulate
from tests.bnn.integer_twins import randomise
from workers.datasets import load
from workers.ship import ARM_TARGET

N_HOST, N_ARM = 200, 8
N_CLASSES = 10
WIDTHS = {"binary_mlp": (96, 70), "react_mobilenet": (16, 32, 64), "keyword_spotter": (48, 40, 33)}
OTHER_WIDTHS = (32, 40, 64)
FRAMES = (1, 16, 4)
"""The digits' 64 pixels as 16 frames of 4 bands, for the network that hears."""


def digits(name: str) -> NDArray[np.uint8]:
    images = load("digits").test_images[:N_HOST]
    return images.reshape(-1, *FRAMES) if name == "keyword_spotter" else images


@pytest.fixture(scope="module")
def host_library() -> Path:
    try:
        return build_library()
    except BackendUnavailable as error:
        pytest.skip(f"no runtime for this machine: {error}")


@pytest.fixture(scope="module")
def arm_library() -> Path:
    try:
        return build_library(ARM_TARGET)
    except BackendUnavailable as error:
        pytest.skip(f"no runtime for ARM: {error}")


@pytest.mark.arm
@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_gives_the_integers_of_the_network_everywhere(
    name: str, host_library: Path, arm_library: Path, tmp_path: Path
) -> None:
    images = digits(name)
    height, width, channels = images.shape[1:]
    widths = WIDTHS.get(name, OTHER_WIDTHS)
    net = build_model(name, (height, width, channels), N_CLASSES, widths, seed=1)
    randomise(net, seed=3)
    integer_net = bnn.integerize(net)
    expected = integer_net(images)
    assert len(np.unique(expected, axis=0)) > N_HOST // 2  # or a dead network would agree, too
    file = tmp_path / "model.bspn"
    bnn.export(integer_net, file)
    np.testing.assert_array_equal(Runtime(file, host_library)(images), expected)
    shipped = write_model(read_model(file.read_bytes()), layout=layout_of(ARM_TARGET))
    try:
        arm = emulate(arm_library, shipped, images[:N_ARM], n_counted=1)
    except BackendUnavailable as error:
        pytest.skip(f"no emulator here, the host agrees: {error}")
    np.testing.assert_array_equal(arm.outputs, expected[:N_ARM])

"""The aarch64 library, emulated: the same integers, and a count that repeats."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import BackendUnavailable, Model, ModelFormatError, OpCode, run_model, write_model
from kernels.build import build_library
from kernels.emulate import emulate
from kernels.model import CONVOLUTIONS

MakeImages = Callable[..., NDArray[np.uint8]]
CHANNELS = (1, 31, 33, 64, 129)


@pytest.fixture(scope="module")
def arm_library() -> Path:
    return build_library("aarch64-linux")


@pytest.mark.arm
def test_a_whole_network_gives_the_integers_of_the_reference(
    make_network: Callable[..., Model], make_images: MakeImages, arm_library: Path
) -> None:
    model = make_network()
    images = make_images(model, 9)
    run = emulate(arm_library, write_model(model), images, n_counted=2)
    assert np.array_equal(run.outputs, run_model(model, images))
    assert run.outputs.dtype == np.int32
    again = emulate(arm_library, write_model(model), images[:2], n_counted=2)
    assert run.instructions_per_image == again.instructions_per_image
    assert run.n_counted == 2
    # Three vector instructions per 128 bits is the floor; the count cannot be below it.
    assert run.instructions_per_image > 3 * 6 * 4 * 40 * 9 * 2 / 4


@pytest.mark.arm
@pytest.mark.parametrize("code", CONVOLUTIONS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_ragged_channels(
    make_model: Callable[..., Model],
    make_images: MakeImages,
    arm_library: Path,
    code: OpCode,
    channels: int,
) -> None:
    model = make_model(
        code,
        (4, 5, channels),
        33,
        padding=(1, 1),
        stride=(1, 2),
        pool=(2, 1),
        threshold=True,
        bias=True,
    )
    images = make_images(model, 2)
    run = emulate(arm_library, write_model(model), images, n_counted=1)
    assert np.array_equal(run.outputs, run_model(model, images))


@pytest.mark.arm
def test_long_rows_do_not_overflow_a_byte_lane(
    make_model: Callable[..., Model], make_images: MakeImages, arm_library: Path
) -> None:
    model = make_model(OpCode.CONV_B1, (1, 1, 9000), 2, kernel=(1, 1))
    images = make_images(model, 2)
    bits = np.frombuffer(model.tensors[1].data or b"", np.uint8)
    # The complement of the first row of weights differs in every bit.
    row = np.unpackbits(bits[: bits.size // 2], bitorder="little")[:9000]
    images[1] = 1 - row.reshape(1, 1, -1)
    run = emulate(arm_library, write_model(model), images)
    assert run.outputs[1, 0] == -9000
    assert np.array_equal(run.outputs, run_model(model, images))


@pytest.mark.arm
def test_counts_grow_with_the_work(
    make_model: Callable[..., Model], make_images: MakeImages, arm_library: Path
) -> None:
    counts = []
    for n_out in (32, 64, 96):
        model = make_model(OpCode.CONV_B1, (6, 6, 64), n_out, kernel=(3, 3))
        run = emulate(arm_library, write_model(model), make_images(model, 1), n_counted=1)
        counts.append(run.instructions_per_image)
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    assert first > 3 * 32 * 16 * 9 * 2 / 4  # the products of 32 channels, 16 positions, 9 x 64 bits
    assert 0.9 * first < second < 1.1 * first


@pytest.mark.arm
def test_a_library_for_another_machine_is_named(
    tiny_model: Model, make_images: MakeImages, library: Path
) -> None:
    with pytest.raises(ValueError, match="library: expected an aarch64 ELF"):
        emulate(library, write_model(tiny_model), make_images(tiny_model), n_counted=1)


def test_a_damaged_model_is_refused_before_it_runs(
    tiny_model: Model, make_images: MakeImages, tmp_path: Path
) -> None:
    pytest.importorskip("unicorn", reason="unicorn (extra arm) is missing")
    with pytest.raises(ModelFormatError, match="magic"):
        emulate(tmp_path, b"x" * 100, make_images(tiny_model), n_counted=1)


def test_counted_images_have_to_be_there(tiny_model: Model, make_images: MakeImages) -> None:
    pytest.importorskip("unicorn", reason="unicorn (extra arm) is missing")
    with pytest.raises(ValueError, match="n_counted: expected 1 to 3"):
        emulate(Path(), write_model(tiny_model), make_images(tiny_model), n_counted=4)


def test_a_missing_extra_is_named(
    tiny_model: Model, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"unicorn: .*pip install 'bitspin\[arm\]'"):
        emulate(Path(), write_model(tiny_model), make_images(tiny_model))

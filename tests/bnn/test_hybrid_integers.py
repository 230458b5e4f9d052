"""Hybrid networks as integers: one number, whoever computes it, from the file that ships."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bnn
from bnn.hybrid import PartitionedConv2d, binary_inputs, make_hybrid, partition, recalibrate
from bnn.models import MODELS, Classifier, build_model
from bnn.quantizers import SteTern
from kernels import OpCode, run_model
from tests.bnn.integer_twins import images_of, randomise, runtime_library

SHAPES = {"keyword_spotter": (1, 24, 16)}
WIDTHS = {"react_mobilenet": (8, 16, 16)}
PARTED = {"binary_conv_net": "stages.1", "binary_vgg": "convs.2", "quicknet": "blocks.1.conv"}
REAL = {"all": slice(None), "first": slice(1), "all_but_the_first": slice(1, None)}


def network(name: str) -> tuple[Classifier, NDArray[np.uint8]]:
    shape = SHAPES.get(name, (10, 9, 3))
    net = build_model(name, shape, 5, WIDTHS.get(name, (8, 12)), seed=2).eval()
    randomise(net, 1)
    return net, images_of(shape, 40)


def n_mismatches(integer_net: bnn.IntegerNet, images: NDArray[np.uint8], path: Path) -> int:
    """Integers of the C runtime and of numpy, from the file, that are not those of torch."""
    expected = integer_net(images)
    assert len(np.unique(expected)) > 40  # of 200
    bnn.export(integer_net, path)
    found = bnn.Runtime(path, runtime_library())(images)
    literal = run_model(bnn.to_model(integer_net), images[:5])
    return int((found != expected).sum()) + int((literal != expected[:5]).sum())


@pytest.mark.parametrize("activation", ["hardtanh", "relu"])
@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_hybrids_of_the_zoo(name: str, real: str, activation: str, tmp_path: Path) -> None:
    net, images = network(name)
    places = list(binary_inputs(net))
    mixed = make_hybrid(net, places[REAL[real]], activation=activation)
    recalibrate(mixed, images)
    integer_net = bnn.integerize(mixed)
    assert n_mismatches(integer_net, images, tmp_path / "hybrid.bspn") == 0
    found = bnn.agreement(mixed, integer_net, images)
    assert found.class_agreement >= 0.97  # one image of 40
    assert found.n_bit_mismatches <= 1e-3 * found.n_bits
    assert (found.n_bits == 0) == (real == "all")
    codes = [op.code for op in integer_net.model.ops]
    assert OpCode.CONV_I32 in codes
    if real == "all":
        assert OpCode.CONV_B1 not in codes


@pytest.mark.parametrize("name", PARTED)
def test_partitioned_networks(name: str, tmp_path: Path) -> None:
    net, images = network(name)
    parted = partition(net, PARTED[name], 0.4)
    recalibrate(parted, images)
    assert any(isinstance(module, PartitionedConv2d) for module in parted.modules())
    integer_net = bnn.integerize(parted)
    assert n_mismatches(integer_net, images, tmp_path / "parted.bspn") == 0
    found = bnn.agreement(parted, integer_net, images)
    assert found.class_agreement >= 0.97  # one image of 40
    assert found.n_bit_mismatches <= 1e-3 * found.n_bits


def test_a_hybrid_with_a_share_of_int8_channels(tmp_path: Path) -> None:
    """Both at once: real activations in front, int8 channels behind."""
    net, images = network("binary_vgg")
    places = list(binary_inputs(net))
    mixed = partition(make_hybrid(net, places[:1]), PARTED["binary_vgg"], 0.5)
    recalibrate(mixed, images)
    integer_net = bnn.integerize(mixed)
    assert n_mismatches(integer_net, images, tmp_path / "both.bspn") == 0
    codes = {op.code for op in integer_net.model.ops}
    assert codes >= {OpCode.CONV_I32, OpCode.CONV_B1, OpCode.CONV_B1_I8, OpCode.CONCAT}


def test_what_has_no_integer_form_is_named_in_a_hybrid() -> None:
    net, _ = network("binary_conv_net")
    net.stages[1].conv.weight_quantizer = SteTern()
    mixed = make_hybrid(net, list(binary_inputs(net))[:1])
    with pytest.raises(ValueError, match=r"^stages\.1.*levels -1 and \+1, got SteTern"):
        bnn.integerize(mixed)

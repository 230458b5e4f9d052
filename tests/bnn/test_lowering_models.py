import numpy as np
import pytest

import bnn
from bnn.models import MODELS, build_model
from tests.bnn.integer_twins import assert_twins_agree, images_of, randomise

SHAPES = {"keyword_spotter": (1, 20, 13)}
WIDTHS = {"react_mobilenet": (12, 24, 24)}
WITHOUT_STREAM = ("binary_mlp", "binary_conv_net", "binary_vgg")


@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_zoo(name: str) -> None:
    shape = SHAPES.get(name, (12, 10, 3))
    net = build_model(name, shape, 5, WIDTHS.get(name, (20, 20, 37)), seed=1)
    randomise(net, seed=3)
    integer_net = bnn.integerize(net)
    images = images_of(shape, 40)
    assert_twins_agree(integer_net, images)
    labels = np.zeros(40, np.int64)
    found = bnn.agreement(net, integer_net, images, labels)
    assert found.class_agreement >= 0.97  # one image of 40
    assert found.n_bits > 0
    allowed = 0 if name in WITHOUT_STREAM else 1e-3 * found.n_bits
    assert found.n_bit_mismatches <= allowed
    assert abs(found.float_accuracy - found.integer_accuracy) <= 0.03
    assert found.layers[-1].name.startswith("head")


@pytest.mark.parametrize("name", MODELS)
def test_twins_of_the_zoo_are_refused(name: str) -> None:
    shape = SHAPES.get(name, (12, 10, 3))
    twin = build_model(name, shape, 5, WIDTHS.get(name, (20, 20, 37)), full_precision=True)
    with pytest.raises(ValueError, match="expected a binary network, got a full-precision twin"):
        bnn.integerize(twin)

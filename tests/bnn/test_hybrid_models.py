import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.hybrid import binary_inputs, input_errors, make_hybrid
from bnn.layers import Sign
from bnn.models import MODELS, build_model
from bnn.quantizers import RSign
from kernels import Purpose, uniform


def images_of(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    draws = uniform(seed, Purpose.DIAGNOSTICS, math.prod(shape), index=7)[0]
    return (draws * 256).astype(np.uint8).reshape(shape)


def logits_of(net: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    with torch.no_grad():
        return net(torch.from_numpy(images))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_its_hybrids(name: str) -> None:
    shape = (1, 40, 40) if name == "keyword_spotter" else (32, 32, 3)
    net = build_model(name, shape, 5, seed=2).eval()
    images = images_of((2, *shape))
    places = binary_inputs(net)
    assert all(place.macs > 0 and place.layers for place in places.values())
    assert torch.equal(logits_of(make_hybrid(net, []), images), logits_of(net, images))
    hybrid = make_hybrid(net, places)
    assert not any(isinstance(module, Sign | RSign) for module in hybrid.modules())
    assert torch.isfinite(logits_of(hybrid, images)).all()
    errors = input_errors(net, images)
    assert list(errors) == list(places)
    some = make_hybrid(net, list(places)[1:])
    assert list(binary_inputs(some)) == list(places)[:1]

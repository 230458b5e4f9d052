"""The warning that latent weights are trained without a clip, and the clip itself."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import bnn
from bnn.layers import (
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    Sign,
    UnclippedWarning,
    warn_about_unclipped,
)
from bnn.optimizers import clip_after_step
from bnn.quantizers import SteSign

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.5),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=0.5, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.5, fused=True),
}


def network(**options: str) -> nn.Sequential:
    net = nn.Sequential(Sign(), BinaryLinear(4, 3, **options))
    net[1].latent_weight.data.copy_(torch.linspace(-0.9, 0.9, 12).reshape(3, 4))
    return net


def train(net: nn.Module, optimizer: torch.optim.Optimizer, n_steps: int) -> list[str]:
    """Push every output up, and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(n_steps):
            optimizer.zero_grad()
            (-net(torch.ones(1, 4)).sum()).backward()
            optimizer.step()
    assert all(w.category is UnclippedWarning for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_without_a_clip_is_warned_of_once(name: str) -> None:
    net = network()
    messages = train(net, OPTIMIZERS[name](net.parameters()), 20)
    assert len(messages) == 1
    assert messages[0].startswith("BinaryLinear(4, 3): ")
    assert "of 12 latent weights are beyond ±1: they receive no gradient again" in messages[0]
    assert "clip_after_step(optimizer, weights)" in messages[0]
    assert "\n" not in messages[0]


def test_what_the_warning_says_is_so() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    train(net, optimizer, 3)
    beyond = net[1].latent_weight.detach().abs() > 1
    assert 0 < int(beyond.sum())
    net.zero_grad()
    net(torch.ones(1, 4)).sum().backward()
    assert not net[1].latent_weight.grad[beyond].any()


def test_weights_of_a_quantizer_without_a_clip_drift() -> None:
    net = network(weight_quantizer="identity_sign")
    (message,) = train(net, torch.optim.SGD(net.parameters(), lr=0.5), 8)
    assert "drift without bound" in message
    assert float(net[1].latent_weight.detach().max()) > 4


def test_who_clips_is_not_warned() -> None:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    clip_after_step(optimizer, [net[1].latent_weight])
    assert train(net, optimizer, 20) == []


def test_weights_that_were_given_beyond_the_clip_are_no_mistake() -> None:
    net = network()
    net[1].latent_weight.data.mul_(5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    assert train(net.eval(), optimizer, 8) == []
    net = network()
    net[1].latent_weight.data.mul_(5)
    for _ in range(8):
        net(torch.ones(1, 4))  # a warning would be an error


def test_fit_clips_and_does_not_warn() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)
    labels = rng.integers(0, 2, 64)
    net = bnn.BinaryConvNet((4, 4, 1), 2, widths=(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnn.fit(net, images, labels, bnn.TrainConfig(epochs=4, learning_rate=1.0))
    layers = [m for m in net.modules() if isinstance(m, BinaryLayer)]
    assert max(float(m.latent_weight.detach().abs().max()) for m in layers) == 1.0
    assert warn_about_unclipped(net) == []


def test_layers_are_named_by_their_place_in_the_network() -> None:
    net = nn.Sequential(nn.ReLU(), BinaryLinear(2, 2), BinaryConv2d(1, 1, kernel=1))
    assert warn_about_unclipped(net) == []
    net[2].latent_weight.data.fill_(-1.5)
    with pytest.warns(UnclippedWarning, match="^2: BinaryConv2d: 1 of 1 latent weights"):
        assert warn_about_unclipped(net) == ["2"]


@pytest.mark.parametrize(
    ("quantizer", "limit"),
    [
        ("ste_sign", 1.0),
        (SteSign(1.25), 1.25),
        ("approx_sign", 1.0),
        ("identity_sign", 1.0),
        ("magnitude_aware", 1.0),
        ("ste_tern", 1.0),
        ("recu_sign", math.inf),
        ("irnet_sign", math.inf),
        ("dorefa", math.inf),
    ],
)
def test_the_clip_is_that_of_the_quantizer(quantizer: str | SteSign, limit: float) -> None:
    layer = BinaryLinear(2, 1, weight_quantizer=quantizer)
    assert layer.latent_limit == limit
    layer.latent_weight.data.copy_(torch.tensor([[-3.0, 0.5]]))
    layer.clip_latent()
    assert layer.latent_weight.tolist() == [[max(-3.0, -limit), 0.5]]

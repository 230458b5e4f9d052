import numpy as np
import pytest
import torch

import bnn
from bnn.layers import BinaryConv2d, Int8Conv2d, Int8Head, RealConv2d
from bnn.models import stage_geometry

SHAPES = [(28, 28, 1), (8, 8, 1), (9, 7, 3), (3, 5, 2), (2, 2, 1), (1, 1, 13), (1, 4, 4)]


def images_for(shape: tuple[int, int, int], n: int) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 256, (n, *shape), dtype=np.uint8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("full_precision", [False, True])
def test_any_input_shape_gives_logits(shape: tuple[int, int, int], full_precision: bool) -> None:
    net = bnn.BinaryConvNet(shape, 4, widths=(5, 6, 7), full_precision=full_precision)
    logits = net(images_for(shape, 6))
    assert logits.shape == (6, 4)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert len(set(logits[:, 0].tolist())) > 1


@pytest.mark.parametrize(
    ("extent", "kernel", "padding", "pool"),
    [
        ((28, 28), 3, 1, 2),
        ((4, 4), 3, 1, 2),
        ((3, 9), 3, 1, 1),
        ((2, 9), 1, 0, 1),
        ((1, 1), 1, 0, 1),
    ],
)
def test_stage_geometry(extent: tuple[int, int], kernel: int, padding: int, pool: int) -> None:
    geometry = stage_geometry(*extent)
    assert (geometry.kernel, geometry.padding, geometry.pool) == (kernel, padding, pool)


def test_layer_kinds_of_the_network_and_its_twin() -> None:
    net = bnn.BinaryConvNet((8, 8, 1), 10)
    twin = bnn.BinaryConvNet((8, 8, 1), 10, full_precision=True)
    assert [type(stage.conv) for stage in net.stages] == [Int8Conv2d, BinaryConv2d, BinaryConv2d]
    assert isinstance(net.head, Int8Head)
    assert [type(stage.conv) for stage in twin.stages] == [RealConv2d] * 3
    assert isinstance(twin.head, RealConv2d)
    # The same topology: the same parameter shapes in the same order.
    assert [p.shape for p in net.parameters()] == [p.shape for p in twin.parameters()]


def test_activations_are_spins_or_rectified() -> None:
    images = images_for((8, 8, 1), 4)
    for outputs in bnn.BinaryConvNet((8, 8, 1), 10).activations(images):
        assert set(outputs.unique().tolist()) == {-1.0, 1.0}
    twin = bnn.BinaryConvNet((8, 8, 1), 10, full_precision=True)
    with torch.no_grad():
        assert [float(outputs.min()) for outputs in twin.activations(images)] == [0.0] * 3


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = bnn.BinaryConvNet((8, 8, 1), 10, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = bnn.BinaryConvNet((8, 8, 1), 10, seed=7).state_dict()
    other = bnn.BinaryConvNet((8, 8, 1), 10, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(
        first["stages.1.conv.latent_weight"], other["stages.1.conv.latent_weight"]
    )


def test_initial_weights_are_symmetric_and_within_bounds() -> None:
    net = bnn.BinaryConvNet((28, 28, 1), 10)
    latent = net.get_parameter("stages.2.conv.latent_weight").detach()
    # Uniform in ±a: mean 0 with standard error a / sqrt(3 n), here n = 73728.
    assert abs(float(latent.mean())) < 5 * 0.03 / (3 * latent.numel()) ** 0.5
    assert 0.0299 < float(latent.abs().max()) <= 0.03
    other = net.get_parameter("stages.1.conv.latent_weight").detach()
    assert not torch.equal(latent.flatten()[:100], other.flatten()[:100])  # a stream each
    head = net.get_parameter("head.weight").detach()
    assert float(head.abs().max()) <= (6 / 1152) ** 0.5


def test_wrong_images_are_refused() -> None:
    net = bnn.BinaryConvNet((8, 8, 1), 10)
    with pytest.raises(TypeError, match="images: expected dtype uint8, got torch"):
        net(torch.zeros(1, 8, 8, 1))
    with pytest.raises(ValueError, match=r"expected shape \(N, 8, 8, 1\), got \(2, 1, 8, 8\)"):
        net(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (8, 8)}, "input_shape: expected three"),
        ({"input_shape": (8, 0, 1)}, "input_shape: expected three"),
        ({"n_classes": 1}, "n_classes: expected 2 or more"),
        ({"widths": ()}, "widths: expected one or more"),
        ({"widths": (8, 0)}, "widths: expected one or more"),
        ({"quantizer": "tanh"}, r"quantizer: expected one of .*'approx_sign', .*'ste_sign'"),
    ],
)
def test_wrong_architecture_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bnn.BinaryConvNet(**{"input_shape": (8, 8, 1), "n_classes": 10, **arguments})  # type: ignore[arg-type]

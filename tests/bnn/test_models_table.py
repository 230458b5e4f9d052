"""Every model of the table: shapes, twins, seeds, gradients, learning, tracing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bnn.layers import BatchNorm
from bnn.models import MODELS, BinaryConvNet, BinaryVGG, Classifier, KeywordSpotter, build_model
from bnn.models.extent import halve_extent, keep_extent
from kernels import Purpose, uniform

IMAGE_SHAPES = [(28, 28, 1), (8, 8, 1), (9, 7, 3), (17, 16, 1), (3, 5, 2), (2, 2, 1), (1, 1, 13)]
SEQUENCE_SHAPES = [(1, 32, 32), (1, 9, 5), (1, 4, 3), (1, 2, 3), (1, 1, 13)]
RAGGED = {"react_mobilenet": (5, 5, 10)}
BOTH = pytest.mark.parametrize("full_precision", [False, True])
EACH = pytest.mark.parametrize("name", sorted(MODELS))


def shapes_for(name: str) -> list[tuple[int, int, int]]:
    return SEQUENCE_SHAPES if name == "keyword_spotter" else [*IMAGE_SHAPES, (1, 9, 5)]


def build(name: str, shape: tuple[int, int, int] | None = None, **arguments: object) -> Classifier:
    shape = shape or ((1, 8, 8) if name == "keyword_spotter" else (8, 8, 1))
    widths = arguments.pop("widths", RAGGED.get(name, (5, 33, 40)))
    return build_model(name, shape, 4, widths, **arguments)  # type: ignore[arg-type]


def images_for(net: Classifier, n: int) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 256, (n, *net.input_shape), dtype=np.uint8))


class LogitsTracer(torch.fx.Tracer):
    traced_func_name = "logits"

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        is_ours = m.__module__.startswith(("bnn.layers", "bnn.quantizers"))
        return is_ours or super().is_leaf_module(m, module_qualified_name)


@EACH
@BOTH
def test_any_input_shape_and_ragged_widths_give_logits(name: str, full_precision: bool) -> None:
    for shape in shapes_for(name):
        net = build(name, shape, full_precision=full_precision)
        logits = net(images_for(net, 6))
        assert logits.shape == (6, 4)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()
        assert len(set(logits[:, 0].tolist())) > 1, shape


@EACH
def test_defaults_have_whole_words_and_attributes(name: str) -> None:
    shape = (1, 32, 32) if name == "keyword_spotter" else (28, 28, 1)
    net = build_model(name, shape, 10)
    assert net.widths == MODELS[name].default_widths
    assert all(width % 32 == 0 for width in net.widths)
    assert (net.input_shape, net.n_classes, net.full_precision) == (shape, 10, False)
    assert type(net) is MODELS[name]


@EACH
def test_twin_has_the_same_weights_and_no_sign(name: str) -> None:
    net, twin = build(name), build(name, full_precision=True)
    # Activations of the twin have no parameters, and a dense head no window of one pixel.
    shapes, twins = (
        [
            tuple(p.shape) if p.dim() != 4 or p.shape[2:] != (1, 1) else tuple(p.shape[:2])
            for module_name, module in each.named_modules()
            for p in module.parameters(recurse=False)
            if not type(module).__module__.startswith("bnn.quantizers")
            and not isinstance(module, torch.nn.PReLU)
        ]
        for each in (net, twin)
    )
    assert shapes == twins
    assert any(key.endswith("latent_weight") for key in net.state_dict())
    assert not any(key.endswith("latent_weight") for key in twin.state_dict())


@EACH
def test_seeds_give_the_bytes(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (build(name, seed=seed).state_dict() for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if first[key].dim() >= 2]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)
    latent = [first[key] for key in drawn if key.endswith("latent_weight")]
    assert all(0.02 < float(weight.abs().max()) <= 0.03 for weight in latent)


def test_initial_weights_are_stream_0_of_the_parameters_number() -> None:
    net = BinaryConvNet((8, 8, 1), 10, seed=7)
    key = "stages.1.conv.latent_weight"
    parameter, number = net.get_parameter(key).detach(), 3
    assert [name for name, _ in net.named_parameters()][number] == key
    draws = uniform(7, Purpose.INITIAL_WEIGHTS, parameter.numel(), index=number)[0]
    expected = 0.03 * (2 * torch.from_numpy(draws).reshape(parameter.shape) - 1)
    # Three products are rounded, each by at most 6e-8 of its value.
    torch.testing.assert_close(parameter, expected, rtol=2e-7, atol=0)


@EACH
@BOTH
def test_every_parameter_gets_a_gradient(name: str, full_precision: bool) -> None:
    net = build(name, full_precision=full_precision)
    F.cross_entropy(net(images_for(net, 16)), torch.arange(16) % 4).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@EACH
def test_a_few_steps_lower_the_loss_on_digits(name: str, digits) -> None:
    images = torch.from_numpy(digits.train_images[:64])
    labels = torch.from_numpy(digits.train_labels[:64])
    if name == "keyword_spotter":
        images = images.reshape(-1, 1, 8, 8)
    widths = (32, 64) if name != "binary_vgg" else (32, 64, 64)
    net = build_model(name, tuple(images.shape[1:]), 10, widths)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # Chance is ln 10 = 2.30.
    assert losses[-1] < 1.2
    assert losses[-1] < 0.6 * losses[0]


@EACH
@BOTH
def test_traced_logits_are_the_logits(name: str, full_precision: bool) -> None:
    net = build(name, full_precision=full_precision).eval()
    graph = torch.fx.GraphModule(net, LogitsTracer().trace(net))
    images = images_for(net, 3)
    with torch.no_grad():
        assert torch.equal(graph(net.pixels(images)), net(images))
    called = {n.target for n in graph.graph.nodes if n.op in ("call_function", "call_method")}
    assert {getattr(target, "__name__", target) for target in called} <= {"add", "cat", "flatten"}


@EACH
def test_batch_statistics_stay_where_they_are(name: str) -> None:
    net = build(name)
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    net(images_for(net, 8))
    assert all(torch.equal(norm.running_mean, torch.zeros(norm.n_channels)) for norm in norms)
    assert all(float(norm.batch_var.std()) > 0 for norm in norms)


@pytest.mark.parametrize("n", range(1, 30))
def test_windows_fit_and_halves_are_those_of_a_pool(n: int) -> None:
    for size in (3, 5):
        for window in (
            keep_extent((n, 7), 1),
            keep_extent((n, 7), size),
            halve_extent((n, 7), size),
        ):
            reached = (n + 2 * window.padding[0] - window.kernel[0]) // window.stride[0] + 1
            assert reached == window.output[0]
            assert window.kernel[0] <= min(n, size)
            assert window.padding[0] >= 0
    assert halve_extent((n, 7)).output[0] == (n // 2 if n >= 4 else n)
    assert keep_extent((n, 7)).output[0] == n


def test_vgg_is_the_one_it_says() -> None:
    net = BinaryVGG((28, 28, 1), 10)
    shapes = [tuple(p.shape) for p in net.parameters() if p.dim() == 4]
    assert shapes == [
        (32, 1, 3, 3),
        (32, 32, 3, 3),
        (64, 32, 3, 3),
        (64, 64, 3, 3),
        (256, 64, 7, 7),
        (10, 256, 1, 1),
    ]
    assert [conv.pool for conv in net.convs] == [1, 2, 1, 2, 1]


def test_a_residual_block_adds_to_its_input() -> None:
    net = build("bireal_resnet", widths=(32, 32)).eval()
    with torch.no_grad():
        net.blocks[1].conv.norm.weight.zero_()
    x = torch.randn(2, 32, 8, 8)
    assert torch.equal(net.blocks[1](x), x)


def test_doubling_concatenates_two_branches_on_one_shortcut() -> None:
    net = build("react_mobilenet", widths=(32, 64)).eval()
    block = net.blocks[1]
    with torch.no_grad():
        for conv in (block.spatial, *block.pointwise):
            conv.norm.weight.zero_()
        for activation in (block.spatial_activation, block.activation):
            activation.slope.fill_(1.0)
    x = torch.randn(2, 32, 8, 8)
    pooled = F.avg_pool2d(x, 2)
    assert torch.equal(block(x), torch.cat([pooled, pooled], 1))


@pytest.mark.parametrize(
    ("name", "shape", "widths", "message"),
    [
        ("lenet", (8, 8, 1), None, "model: expected one of .*'binary_mlp'.* got 'lenet'"),
        ("react_mobilenet", (8, 8, 1), (32, 96), "widths: expected a block to keep 32 .* got 96"),
        ("keyword_spotter", (8, 8, 1), None, r"expected \(1, T, F\).* got \(8, 8, 1\)"),
        ("binary_vgg", (8, 8, 1), (), "widths: expected one or more"),
    ],
)
def test_what_cannot_be_built_is_refused(name, shape, widths, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, shape, 10, widths)


def test_a_spotter_sees_neighbouring_frames_only() -> None:
    """Changing the last frame changes nothing at the first, which a 1-D stem of 5 taps excludes."""
    net = KeywordSpotter((1, 16, 4), 2, widths=(8,)).eval()
    images = images_for(net, 1)
    changed = images.clone()
    changed[:, :, -1] = 255 - changed[:, :, -1]
    with torch.no_grad():
        difference = (net.stem(net.pixels(images)) - net.stem(net.pixels(changed))).abs().amax(1)
    assert difference.shape == (1, 1, 16)
    assert (difference[0, 0, :13] == 0).all()
    assert (difference[0, 0, 14:] > 0).all()

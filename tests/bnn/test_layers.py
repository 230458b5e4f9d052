from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bnn.layers import (
    INT8_UNIT,
    BatchNorm,
    BinaryConv2d,
    BinaryLinear,
    Int8Conv2d,
    Int8Head,
    RealConv1d,
    RealConv2d,
    RealLinear,
    Sign,
)
from bnn.quantizers import QUANTIZERS, ste_sign

# Sums of 128 values of order 1 in float32.
RTOL = 1e-5
RNG = np.random.default_rng(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape).astype(np.float32))


def spins(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.choice([-1.0, 1.0], size=shape).astype(np.float32))


def test_binary_conv_pads_with_minus_one() -> None:
    layer = BinaryConv2d(2, 3, kernel=3, padding=1)
    layer.latent_weight.data.copy_(draw(3, 2, 3, 3))
    x = spins(4, 2, 5, 6)
    y = layer(x).detach().numpy()
    padded = np.full((4, 2, 7, 8), -1.0)
    padded[:, :, 1:-1, 1:-1] = x.numpy()
    weights = np.where(layer.latent_weight.detach().numpy() >= 0, 1.0, -1.0)
    for row in range(5):
        for column in range(6):
            window = padded[:, :, row : row + 3, column : column + 3]
            expected = np.einsum("ncij,ocij->no", window, weights)
            np.testing.assert_array_equal(y[:, :, row, column], expected)


def test_binary_conv_sums_have_the_parity_of_k() -> None:
    layer = BinaryConv2d(3, 4, kernel=3, padding=1)
    layer.latent_weight.data.copy_(draw(4, 3, 3, 3))
    sums = layer(spins(2, 3, 6, 6)).detach()
    assert torch.equal(sums.remainder(2), torch.ones_like(sums))  # K = 27
    assert float(sums.abs().max()) <= 27


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), (2, 0)])
def test_binary_conv_has_the_gradients_of_the_float_convolution(kernel: int, padding: int) -> None:
    weight, x = 2 * draw(5, 33, kernel, kernel), spins(3, 33, 6, 5)
    results = []
    for dtype in (torch.float32, torch.float64):  # bits, and torch's own convolution
        layer = BinaryConv2d(33, 5, kernel=kernel, padding=padding).to(dtype)
        layer.latent_weight.data.copy_(weight)
        inputs = (x.to(dtype, copy=True).requires_grad_(), layer.latent_weight)
        y = layer(inputs[0])
        incoming = torch.arange(float(y.numel())).reshape(y.shape).sub(100).remainder(7).to(dtype)
        results.append((y, *torch.autograd.grad(y, inputs, incoming)))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours.double(), expected)  # sums of small integers are exact
    assert float(results[0][2][weight.abs() > 1].abs().max()) == 0


def test_binary_conv_saves_one_bit_of_an_activation() -> None:
    layer = BinaryConv2d(64, 8, kernel=3, padding=1)
    saved = []
    x = spins(2, 64, 5, 5).requires_grad_() * 1
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda nothing: nothing):
        layer(x)
    others = [t for t in saved if t.data_ptr() != layer.latent_weight.data_ptr()]
    assert sum(t.untyped_storage().nbytes() for t in others) == x.numel() / 8


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch
def test_a_stage_compiles_in_one_graph() -> None:
    layer = BinaryConv2d(32, 8, kernel=3, padding=1)
    layer.latent_weight.data.copy_(draw(8, 32, 3, 3))

    def stage(x: torch.Tensor) -> torch.Tensor:
        return layer(ste_sign(x)).square().mean()

    compiled = torch.compile(stage, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (stage, compiled):
        x = torch.linspace(-2, 2, 2 * 32 * 25).reshape(2, 32, 5, 5).requires_grad_()
        gradients.append(torch.autograd.grad(function(x), (x, layer.latent_weight)))
    for eager, other in zip(*gradients, strict=True):
        assert eager.abs().max() > 0
        assert torch.allclose(eager, other)


def test_clip_latent() -> None:
    layer = BinaryConv2d(1, 1, kernel=1, padding=0)
    layer.latent_weight.data.fill_(-1.5)
    layer.clip_latent()
    assert layer.latent_weight.item() == -1.0


def test_int8_conv_is_the_integer_accumulator_times_a_power_of_two() -> None:
    layer = Int8Conv2d(2, 3, kernel=3, padding=1)
    layer.weight.data.copy_(draw(3, 2, 3, 3))
    pixels = RNG.integers(0, 256, (4, 2, 5, 5))
    y = layer(torch.from_numpy(pixels).float() * 2.0**-8)
    integers = layer.integer_weight().detach().to(torch.int64)
    assert int(integers.abs().max()) == 127
    exact = F.conv2d(torch.from_numpy(pixels), integers, padding=1)
    assert torch.equal(y.double() * 2**15, exact.double())


def test_head_is_the_integer_logits_times_the_scale() -> None:
    layer = Int8Head(6, 4, kernel=(2, 3))
    layer.weight.data.copy_(draw(4, 6, 2, 3))
    layer.bias.data.copy_(draw(4))
    x = spins(5, 6, 2, 3)
    integers = layer.integer_weight().detach().double().flatten(1)
    logits = x.double().flatten(1) @ integers.T + layer.integer_bias().detach().double()
    assert torch.equal(logits, logits.round())
    assert torch.equal(layer(x).detach(), logits.float() * layer.scale())


def test_batch_norm_leaves_running_statistics_alone() -> None:
    norm = BatchNorm(3)
    x = draw(8, 3, 4, 4) * 3 + 1
    y = norm(x)
    assert norm.running_mean.tolist() == [0.0] * 3
    assert norm.running_var.tolist() == [1.0] * 3
    np.testing.assert_allclose(norm.batch_mean, x.mean(dim=(0, 2, 3)), rtol=RTOL)
    np.testing.assert_allclose(norm.batch_var, x.var(dim=(0, 2, 3), unbiased=True), rtol=RTOL)
    biased = x.var(dim=(0, 2, 3), unbiased=False)[:, None, None]
    expected = (x - x.mean(dim=(0, 2, 3))[:, None, None]) / (biased + norm.eps).sqrt()
    np.testing.assert_allclose(y.detach(), expected, rtol=RTOL, atol=RTOL)


def test_batch_norm_moves_by_momentum_and_uses_it_in_evaluation() -> None:
    norm = BatchNorm(2, momentum=0.25)
    norm.update_running(torch.tensor([4.0, 8.0]), torch.tensor([5.0, 1.0]))
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.running_var.tolist() == [2.0, 1.0]
    norm.eval()
    y = norm(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)).flatten().tolist()
    assert y == pytest.approx([0.0, 1.0], abs=1e-5)


def test_batch_norm_buffers_are_saved() -> None:
    assert set(BatchNorm(1).state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_real_conv_pads_with_zero() -> None:
    layer = RealConv2d(1, 1, kernel=(3, 3), padding=1, bias=True)
    layer.weight.data.fill_(1.0)
    layer.bias.data.fill_(0.5)
    assert layer(torch.ones(1, 1, 2, 2)).flatten().tolist() == [4.5] * 4


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 2, 4)])
def test_batch_norm_takes_any_rank(shape: tuple[int, ...]) -> None:
    norm, x = BatchNorm(3), draw(*shape) + 2
    norm.weight.data.copy_(draw(3))
    norm.bias.data.copy_(draw(3))
    y = norm(x).detach().double()
    wide, others = x.double(), [axis for axis in range(len(shape)) if axis != 1]
    along = (1, 3, *[1] * (len(shape) - 2))
    mean, var = wide.mean(dim=others), wide.var(dim=others, unbiased=False)
    expected = (wide - mean.view(along)) / (var.view(along) + norm.eps).sqrt()
    expected = expected * norm.weight.detach().view(along) + norm.bias.detach().view(along)
    np.testing.assert_allclose(y, expected, rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(norm.batch_mean, mean, rtol=RTOL)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, \.\.\.\), got \(3, 2\)"):
        norm(torch.ones(3, 2))


GEOMETRY = [
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": (1, 3), "stride": (2, 1), "padding": (0, 1), "groups": 2},
    {"kernel": 2, "groups": 4},
]


@pytest.mark.parametrize("options", GEOMETRY)
@pytest.mark.parametrize("of", ["pixels", "spins", "reals"])
def test_int8_conv_is_exact_on_any_input(options: dict[str, Any], of: str) -> None:
    layer = Int8Conv2d(4, 8, **options)
    layer.weight.data.copy_(draw(*layer.weight.shape))
    # Reals with 8 bits behind the point, as they ship.
    integers, unit = {
        "pixels": (RNG.integers(0, 256, (2, 4, 6, 5)), 2.0**-8),
        "spins": (RNG.choice([-1, 1], (2, 4, 6, 5)), 1.0),
        "reals": (RNG.integers(-900, 900, (2, 4, 6, 5)), 2.0**-8),
    }[of]
    y = layer(torch.from_numpy(integers * unit).float()).detach()
    weight = layer.integer_weight().detach().to(torch.int64)
    window, groups = layer.window, layer.groups
    exact = F.conv2d(
        torch.from_numpy(integers), weight, None, window.stride, window.padding, 1, groups
    )
    assert torch.equal(y.double() / (unit * INT8_UNIT), exact.double())


@pytest.mark.parametrize("options", GEOMETRY)
def test_real_conv_is_the_float_convolution(options: dict[str, Any]) -> None:
    layer = RealConv2d(4, 8, **options, bias=True)
    for parameter in layer.parameters():
        parameter.data.copy_(draw(*parameter.shape))
    twin = nn.Conv2d(4, 8, options["kernel"], options.get("stride", 1), options.get("padding", 0),
                     groups=options.get("groups", 1))  # fmt: skip
    twin.weight.data.copy_(layer.weight)
    twin.bias.data.copy_(layer.bias)
    x = draw(2, 4, 6, 5)
    torch.testing.assert_close(layer(x), twin(x), rtol=RTOL, atol=RTOL)


def test_real_conv1d_and_linear_are_torchs() -> None:
    conv, linear = RealConv1d(4, 6, kernel=3, stride=2, padding=1, groups=2), RealLinear(5, 3)
    conv.weight.data.copy_(draw(6, 2, 1, 3))
    linear.weight.data.copy_(draw(3, 5))
    x, row = draw(2, 4, 9), draw(2, 5)
    expected = F.conv1d(x, conv.weight[:, :, 0], None, 2, 1, 1, 2)
    torch.testing.assert_close(conv(x), expected, rtol=RTOL, atol=RTOL)
    assert torch.equal(linear(row), F.linear(row, linear.weight))
    assert linear.bias is None
    assert RealLinear(5, 3, bias=True).bias.tolist() == [0.0] * 3


def test_head_takes_rows_and_real_activations() -> None:
    head = Int8Head(6, 4)
    head.weight.data.copy_(draw(4, 6, 1, 1))
    head.bias.data.copy_(draw(4))
    x = torch.from_numpy(RNG.integers(-99, 99, (5, 6)) * 2.0**-4).float()
    q = head.integer_weight().detach().double().flatten(1)
    exact = (x.double() @ q.T + head.integer_bias().detach().double()).float() * head.scale()
    assert torch.equal(head(x), exact)
    assert torch.equal(head(x[:, :, None, None]), exact)
    with pytest.raises(ValueError, match=r"expected shape \(N, 6, 1, 1\), got \(5, 6, 2, 1\)"):
        head(draw(5, 6, 2, 1))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_sign_is_the_quantizer_of_its_name(name: str) -> None:
    x = torch.tensor([-2.0, -0.25, 0.0, 0.5, 3.0], requires_grad=True)
    y, expected = Sign(name)(x), QUANTIZERS[name](x)
    assert y.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    assert torch.equal(*(torch.autograd.grad(out.sum(), x)[0] for out in (y, expected)))


def test_sign_of_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"quantizer: expected one of .*, got 'relu'"):
        Sign("relu")


def test_layers_are_leaves_or_traceable() -> None:
    net = nn.Sequential(Sign(), BinaryLinear(4, 3), BatchNorm(3), Int8Head(3, 2))

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return type(module).__module__.startswith("bnn.layers") or super().is_leaf_module(
                module, name
            )

    modules = [node.target for node in Tracer().trace(net).nodes if node.op == "call_module"]
    assert modules == ["0", "1", "2", "3"]

"""Packed against simulated and against loops, over a table of all binary layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bnn.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryEmbedding,
    BinaryLayer,
    BinaryLinear,
)
from bnn.quantizers import QUANTIZER_MODULES, Quantizer, SteSign, StochasticSign
from bnn.quantizers.react import RSign

# Sums of at most 400 products of order 1, in float32 and in float64: 400 * 2^-24 with room.
ATOL = 1e-4
OPTIONS: dict[str, Any] = {
    "plain": {"kernel": 1},
    "one word": {"kernel": 3, "padding": 1},
    "zeros": {"kernel": 3, "padding": 1, "border": "zero"},
    "stride": {"kernel": 3, "stride": 2, "padding": 1},
    "wide border": {"kernel": 3, "padding": 2, "stride": 4, "border": "zero"},
    "gaps": {"kernel": 2, "padding": 1, "stride": 3},
}
PAIRS: dict[str, Any] = {
    "oblong": {"kernel": (2, 3), "stride": (1, 2), "padding": (0, 2)},
    "oblong zeros": {"kernel": (3, 1), "stride": (2, 1), "padding": (2, 0), "border": "zero"},
}


@dataclass(frozen=True)
class Case:
    build: Callable[..., BinaryLayer]
    shape: tuple[int, ...]
    """Of the input; for an embedding, of its entries."""


def _cases() -> dict[str, Case]:
    cases = {
        f"linear {n_in}": Case(lambda n=n_in, **o: BinaryLinear(n, 7, **o), (5, n_in))
        for n_in in (1, 31, 32, 33, 65)
    }
    cases["linear of rank 3"] = Case(lambda **o: BinaryLinear(9, 4, **o), (2, 3, 9))
    cases["embedding"] = Case(lambda **o: BinaryEmbedding(11, 37, **o), (4, 3))
    channels = {"": (5, 6, 1), " words": (33, 32, 1), " groups": (6, 9, 3), " depthwise": (7, 7, 7)}
    for of, (n_in, n_out, groups) in channels.items():
        for name, options in {**OPTIONS, **PAIRS}.items():
            every = {"groups": groups, **options}
            for layer, width in ((BinaryConv2d, 6), (BinaryConvTranspose2d, 4)):
                build = lambda a=layer, n=n_in, m=n_out, e=every, **o: a(n, m, **e, **o)  # noqa: E731
                cases[f"{layer.__name__} {name}{of}"] = Case(build, (2, n_in, 5, width))
            if name in OPTIONS:
                build = lambda n=n_in, m=n_out, e=every, **o: BinaryConv1d(n, m, **e, **o)  # noqa: E731
                cases[f"BinaryConv1d {name}{of}"] = Case(build, (2, n_in, 7))
    return cases


CASES = _cases()


def draw(layer: BinaryLayer, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Fill the latent weights, a third of them beyond the clip, and draw an input."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=layer.latent_weight.shape)
    values.reshape(-1)[0] = 0.0  # sign(0) = +1
    layer.latent_weight.data.copy_(torch.from_numpy(values))
    if isinstance(layer, BinaryEmbedding):
        return torch.from_numpy(rng.integers(0, layer.n_entries, shape))
    return torch.from_numpy(rng.choice([-1.0, 1.0], size=shape).astype(np.float32))


def outcome(layer: BinaryLayer, x: Tensor) -> list[Tensor]:
    """Output, gradient by the latent weight and, if there is one, by x; small integers come in."""
    inputs = [layer.latent_weight]
    if x.is_floating_point():
        x = x.clone().requires_grad_()
        inputs.append(x)
    y = layer(x)
    incoming = (torch.arange(y.numel()) % 7 - 3).to(y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad(y, inputs, incoming)]


@pytest.mark.parametrize("name", CASES)
def test_packed_is_simulated(name: str) -> None:
    case = CASES[name]
    packed, simulated = case.build(), case.build(simulate=True)
    double = case.build().double()
    x = draw(packed, case.shape)
    for other in (simulated, double):
        draw(other, case.shape)
    y, *gradients = outcome(packed, x)
    assert y.dtype == torch.float32
    assert torch.equal(y, y.round())
    wide = x.double() if x.is_floating_point() else x
    for layer, argument in ((simulated, x), (double, wide)):
        expected = outcome(layer, argument)
        assert torch.equal(y.double(), expected[0].double())
        for ours, theirs in zip(gradients, expected[1:], strict=True):
            assert torch.equal(ours.double(), theirs.double())  # sums of small integers
    beyond = gradients[0][packed.latent_weight.abs() > 1]
    assert not beyond.any()


def counts(name: str) -> Tensor:
    """Products in each output: all weights and inputs +1 and a border that counts itself."""
    case = CASES[name]
    layer = case.build(simulate=True)
    if getattr(layer, "border", "zero") == "minus_one":
        # Where +1 all over meets -1 outside, (sum of +1) = inside - outside; the other way round
        # with weights -1 gives the same; so count by an image of -1, which the border continues.
        layer.latent_weight.data.fill_(-1.0)
        return layer(-torch.ones(case.shape)).detach()
    layer.latent_weight.data.fill_(1.0)
    return layer(torch.ones(case.shape)).detach()


@pytest.mark.parametrize("name", [name for name in CASES if name != "embedding"])
def test_sums_have_the_parity_and_the_bound_of_their_number_of_products(name: str) -> None:
    layer = CASES[name].build()
    y = layer(draw(layer, CASES[name].shape, seed=1)).detach()
    n_products = counts(name)
    if getattr(layer, "border", "") == "minus_one" and not isinstance(layer, BinaryConvTranspose2d):
        assert torch.equal(n_products, torch.full_like(y, layer.latent_weight[0].numel()))
    assert torch.equal((y - n_products).remainder(2), torch.zeros_like(y))
    assert bool((y.abs() <= n_products).all())


def by_loops(layer: BinaryConv2d | BinaryConvTranspose2d, x: Tensor) -> np.ndarray:
    """Convolution or transposed convolution, product by product."""
    weight = np.where(layer.latent_weight.detach().numpy() >= 0, 1, -1)
    n_out, n_in_group, kernel_h, kernel_w = weight.shape
    stride, padding = layer.window.stride, layer.window.padding
    is_transposed = isinstance(layer, BinaryConvTranspose2d)
    sizes = layer.window.transposed_size if is_transposed else layer.window.out_size
    out = np.zeros((len(x), n_out, *sizes(*x.shape[2:])))
    outside = {"minus_one": -1, "zero": 0}[layer.border]

    def pixel(n: int, c: int, i: int, j: int) -> float:
        inside = 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
        return float(x[n, c, i, j]) if inside else outside

    for n, o, row, column in np.ndindex(*out.shape):
        for c, a, b in np.ndindex(n_in_group, kernel_h, kernel_w):
            channel = o // (n_out // layer.groups) * n_in_group + c
            if is_transposed:
                i, rest_i = divmod(row + padding[0] - a, stride[0])
                j, rest_j = divmod(column + padding[1] - b, stride[1])
                if rest_i or rest_j:
                    continue
            else:
                i, j = row * stride[0] - padding[0] + a, column * stride[1] - padding[1] + b
            out[n, o, row, column] += weight[o, c, a, b] * pixel(n, channel, i, j)
    return out


@pytest.mark.parametrize("layer", [BinaryConv2d, BinaryConvTranspose2d])
@pytest.mark.parametrize("options", [*OPTIONS.values(), *PAIRS.values()])
def test_convolutions_are_the_loops(layer: type[BinaryConv2d], options: dict[str, Any]) -> None:
    for groups, n_in, n_out in ((1, 3, 2), (2, 4, 6), (3, 3, 3)):
        conv = layer(n_in, n_out, groups=groups, **options)
        x = draw(conv, (1, n_in, 4, 5), seed=2)
        np.testing.assert_array_equal(conv(x).detach(), by_loops(conv, x))


def test_linear_and_embedding_are_their_formulas() -> None:
    linear, embedding = BinaryLinear(40, 3), BinaryEmbedding(6, 35)
    x, entries = draw(linear, (2, 40)), draw(embedding, (2, 4))
    signs = np.where(linear.latent_weight.detach().numpy() >= 0, 1, -1)
    np.testing.assert_array_equal(linear(x).detach(), x.numpy() @ signs.T)
    table = np.where(embedding.latent_weight.detach().numpy() >= 0, 1, -1)
    np.testing.assert_array_equal(embedding(entries).detach(), table[entries.numpy()])


WEIGHT_QUANTIZERS: dict[str, Callable[[], str | Quantizer]] = {
    **{
        name: (lambda name=name: name)
        for name in QUANTIZER_MODULES
        if name not in ("recu_activations", "rsign", "stochastic_sign")
    },
    "sign with another clip": lambda: SteSign(0.5),
    "stochastic_sign": lambda: StochasticSign(seed=3, layer=1),
}
EXACT = {
    "approx_sign", "ede_sign", "identity_sign", "irnet_sign", "magnitude_aware", "recu_sign",
    "ste_sign", "stochastic_sign", "swish_sign", "sign with another clip",
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
@pytest.mark.parametrize("case", ["linear 33", "BinaryConv2d stride groups", "embedding",
                                  "BinaryConvTranspose2d oblong"])  # fmt: skip
def test_weight_quantizers(name: str, case: str) -> None:
    build, shape = CASES[case].build, CASES[case].shape
    packed = build(weight_quantizer=WEIGHT_QUANTIZERS[name]())
    other = build(weight_quantizer=WEIGHT_QUANTIZERS[name](), simulate=True)
    x = draw(packed, shape)
    draw(other, shape)
    for layer in (packed, other):
        layer.weight_quantizer.set_step(5, row_begin=64)
    assert packed.is_packed(x.float()) == (name in EXACT)
    ours, theirs = outcome(packed, x), outcome(other, x)
    assert torch.equal(ours[0], theirs[0])
    for mine, expected in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=ATOL)
    # The gradient is the quantizer's own, of the product with its values as they are.
    values = packed.weight_quantizer(packed.latent_weight)
    assert values.abs().max() > 0
    plain = build(weight_quantizer="identity_sign", simulate=True)
    plain.weight_quantizer = _AsIs()
    plain.latent_weight.data.copy_(values.detach())
    y, gradient, *_ = outcome(plain, x)
    torch.testing.assert_close(ours[0], y, rtol=0, atol=ATOL)
    (expected,) = torch.autograd.grad(values, packed.latent_weight, gradient)
    torch.testing.assert_close(ours[1], expected, rtol=0, atol=ATOL)
    assert float(expected.abs().max()) > 0


class _AsIs(Quantizer):
    levels = ()

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


def test_a_channel_whose_scale_is_zero_gives_zero() -> None:
    layer = BinaryLinear(8, 2, weight_quantizer="magnitude_aware")
    layer.latent_weight.data[1] = 0.5
    y = layer(torch.ones(1, 8))
    assert y.tolist() == [[0.0, 4.0]]
    assert bool(torch.autograd.grad(y.sum(), layer.latent_weight)[0].isfinite().all())


def test_a_stochastic_weight_does_not_depend_on_the_shard() -> None:
    layer = BinaryLinear(64, 4, weight_quantizer=StochasticSign(seed=1, layer=2))
    outputs = []
    for row_begin in (0, 128):
        layer.weight_quantizer.set_step(9, row_begin)
        outputs.append(layer(torch.ones(1, 64)))
    assert torch.equal(*outputs)
    layer.weight_quantizer.set_step(10)
    assert not torch.equal(outputs[0], layer(torch.ones(1, 64)))


@pytest.mark.parametrize("name", CASES)
def test_saved_tensors_are_bits(name: str) -> None:
    layer = CASES[name].build()
    x = draw(layer, CASES[name].shape)
    if x.is_floating_point():
        x = x.requires_grad_() * 1
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda nothing: nothing):
        layer(x)
    floats = [t for t in saved if t.is_floating_point()]
    # A float that is saved has the size of the weight, whatever the batch is.
    assert all(t.numel() == layer.latent_weight.numel() for t in floats)
    words = [t for t in saved if t.dtype == torch.int32]
    if isinstance(layer, BinaryEmbedding):
        # Of the table, not of what was looked up: one bit that says what is within the clip.
        assert sum(t.numel() for t in words) == -(-layer.latent_weight.numel() // 32)
        return
    # One bit each, in words of 32 along the channels; a border of -1 may be part of the image.
    n_channels = x.shape[-1] if isinstance(layer, BinaryLinear) else x.shape[1]
    n_places = x.numel() // n_channels
    if isinstance(layer, BinaryConvTranspose2d):
        n_places = 2 * layer._with_border(x)[0][0, 0].numel()
    assert sum(t.numel() for t in words) == n_places * -(-n_channels // 32)


@pytest.mark.parametrize("name", ["linear 33", "BinaryConv2d one word", "embedding"])
def test_bfloat16_activations_give_the_same_integers(name: str) -> None:
    layer = CASES[name].build()
    x = draw(layer, CASES[name].shape)
    expected = layer(x)
    y = layer(x.to(torch.bfloat16)) if x.is_floating_point() else layer(x.int())
    assert torch.equal(y.float(), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BinaryConv2d(3, 4, kernel=0), "kernel: expected a number >= 1 or two"),
        (lambda: BinaryConv2d(3, 4, kernel=(1, 2, 3)), r"kernel: .*got \(1, 2, 3\)"),
        (lambda: BinaryConv2d(3, 4, kernel=1, stride=0), "stride: expected a number >= 1"),
        (lambda: BinaryConv2d(3, 4, kernel=1, padding=-1), "padding: expected a number >= 0"),
        (lambda: BinaryConv2d(3, 4, kernel=(3, 1), padding=1), "padding: expected less than"),
        (lambda: BinaryConv2d(3, 4, kernel=1, groups=2), "multiples of groups, got 3 and 4"),
        (lambda: BinaryConv2d(3, 4, kernel=1, border="one"), "border: expected one of"),
        (lambda: BinaryLinear(0, 4), "n_in, n_out: expected positive"),
        (lambda: BinaryLinear(2, 4, weight_quantizer="x"), "weight_quantizer: expected one of"),
        (lambda: BinaryLinear(2, 4, weight_quantizer="rsign"), "expected an instance of RSign"),
        (lambda: BinaryConv2d(3, 4, kernel=1)(torch.ones(1, 2, 1, 1)), r"expected shape \(N, 3, H"),
        (lambda: BinaryConv2d(3, 4, kernel=3)(torch.ones(1, 3, 2, 2)), "x: expected an image"),
        (lambda: BinaryConv1d(3, 4, kernel=1)(torch.ones(1, 3)), r"\(N, 3, L\), got \(1, 3\)"),
        (lambda: BinaryLinear(3, 4)(torch.ones(1, 2)), r"expected shape \(\.\.\., 3\), got"),
        (
            lambda: BinaryConvTranspose2d(1, 1, kernel=1, padding=1)(torch.ones(1, 1, 2, 2)),
            "x: expected an image of which .* leaves something",
        ),
        (lambda: BinaryEmbedding(4, 4)(torch.tensor([4])), "entries: expected 0 <= entry < 4"),
        (
            lambda: BinaryLinear(3, 4)(torch.tensor([[1.0, 0.5, float("nan")]])),
            r"BinaryLinear\(3, 4\): expected activations -1 and \+1, got 2 others of 3, .* 0\.5",
        ),
    ],
)
def test_mistakes_are_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_integers_are_refused() -> None:
    for layer, x in (
        (BinaryLinear(2, 1), torch.ones(1, 2, dtype=torch.int32)),
        (BinaryConv2d(2, 1, kernel=1), torch.ones(1, 2, 1, 1, dtype=torch.int8)),
        (BinaryEmbedding(2, 1), torch.ones(1)),
    ):
        with pytest.raises(TypeError, match="expected"):
            layer(x)


def test_activations_are_looked_at_in_passes_that_are_powers_of_two() -> None:
    layer, good, bad = BinaryLinear(4, 2), torch.ones(1, 4), torch.zeros(1, 4)
    refused = []
    for number in range(1, 20):
        try:
            layer(bad if number > 1 else good)
        except ValueError:
            refused.append(number)
    assert refused == [2, 4, 8, 16]


def test_rsign_may_quantise_weights() -> None:
    layer = BinaryLinear(5, 3, weight_quantizer=RSign(5))
    x = draw(layer, (2, 5))
    assert torch.equal(layer(x).remainder(2), torch.ones(2, 3))

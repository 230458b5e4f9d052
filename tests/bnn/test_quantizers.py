"""What holds for every quantizer; the tests run over the two tables."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

from bnn.quantizers import QUANTIZER_MODULES, QUANTIZERS, Quantizer, sign, ste_sign
from kernels import Purpose, normal

POINTS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
CLIPPED = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
TRIANGLE = [0.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0]


def swish_slope(x: float, beta: float = 5.0) -> float:
    return beta * (2 - beta * x * math.tanh(beta * x / 2)) / (1 + math.cosh(beta * x))


# Pseudo-gradients at POINTS; EDE is at progress 3/4, where t = k = 1.
SLOPES = {
    "approx_sign": TRIANGLE,
    "dorefa": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0],
    "ede_sign": [1 - math.tanh(x) ** 2 for x in POINTS],
    "identity_sign": [1.0] * 7,
    "rsign": TRIANGLE,
    "ste_heaviside": CLIPPED,
    "ste_sign": CLIPPED,
    "ste_tern": CLIPPED,
    "stochastic_sign": CLIPPED,
    "swish_sign": [swish_slope(x) for x in POINTS],
}
# Pseudo-gradients that depend on more than the element: test_quantizers_weights.py.
OF_A_CHANNEL = {"irnet_sign", "magnitude_aware", "recu_activations", "recu_sign"}
ELEMENTWISE = sorted(SLOPES)
N_BITS = {"dorefa": 2, "ste_tern": 2}
INTEGRALS = {"dorefa": 1.0, "identity_sign": 100.0}
BITS_SAVED = {"approx_sign": 32, "ede_sign": 32, "identity_sign": 0, "rsign": 32, "swish_sign": 32}
# Trapezoids of width 1e-3 miss at most one step at each of the two jumps of the clipped slope.
INTEGRAL_TOLERANCE = 2e-3
FLOAT32_TOLERANCE = 1e-6  # a few roundings of numbers near 1


def swish(x: Tensor) -> Tensor:
    s = torch.sigmoid(5 * x)
    return 2 * s * (1 + 5 * x * (1 - s)) - 1


def quadratic(x: Tensor) -> Tensor:
    inner = torch.where(x < 0, 2 * x + x * x, 2 * x - x * x)
    return torch.where(x.abs() > 1, torch.sign(x), inner)


# Functions whose derivative the pseudo-gradient is.
SMOOTH = {
    "approx_sign": quadratic,
    "dorefa": lambda x: x.clamp(0, 1),
    "ede_sign": torch.tanh,
    "identity_sign": lambda x: 1 * x,
    "rsign": quadratic,
    "swish_sign": swish,
}


def build(name: str, n_channels: int = 7) -> Quantizer:
    arguments = {"rsign": {"n_channels": n_channels}, "stochastic_sign": {"seed": 0, "layer": 0}}
    quantizer = QUANTIZER_MODULES[name](**arguments.get(name, {}))
    quantizer.set_progress(0.75)
    quantizer.set_step(0)
    return quantizer


def slope(quantizer, x: Tensor, factor: Tensor | None = None) -> Tensor:
    x = x.clone().requires_grad_()
    factor = torch.ones_like(x) if factor is None else factor
    (gradient,) = torch.autograd.grad(quantizer(x), x, factor)
    return gradient


def normals(*shape: int) -> Tensor:
    return torch.from_numpy(normal(3, Purpose.DIAGNOSTICS, math.prod(shape))).reshape(shape)


def test_every_quantizer_states_its_slopes() -> None:
    assert set(SLOPES) | OF_A_CHANNEL == set(QUANTIZER_MODULES)
    assert set(QUANTIZERS) <= set(QUANTIZER_MODULES)


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_function_is_sign_and_zero_is_plus_one(name: str) -> None:
    x = torch.tensor([-3.0, -1e-30, -0.0, 0.0, 1e-30, 3.0])
    assert QUANTIZERS[name](x).tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    assert sign(x).tolist() == QUANTIZERS[name](x).tolist()


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_module_is_the_function(name: str) -> None:
    x = normals(5, 7)
    assert torch.equal(build(name)(x), QUANTIZERS[name](x))
    torch.testing.assert_close(slope(build(name), x), slope(QUANTIZERS[name], x))


@pytest.mark.parametrize("name", sorted({*ELEMENTWISE, "recu_activations"}))
def test_module_without_training_is_a_step_at_zero(name: str) -> None:
    x = torch.tensor([[-3.0, -1e-30, -0.0, 0.0, 1e-30, 3.0]])
    values = build(name, 6).eval()(x)[0].tolist()
    if name in ("dorefa", "ste_tern"):
        low = {"dorefa": 0.0, "ste_tern": -1.0}[name]
        assert values == [low, 0.0, 0.0, 0.0, 0.0, 1.0]
    elif name == "ste_heaviside":
        assert values == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    else:
        assert values == [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", sorted(QUANTIZER_MODULES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_values_are_the_levels(name: str, dtype: torch.dtype, is_channels_last: bool) -> None:
    x = normals(8, 16, 3, 5).to(dtype)
    if is_channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    quantizer = build(name, 16)
    assert quantizer.n_bits == N_BITS.get(name, 1)
    y = quantizer(x)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    if quantizer.is_scaled:
        y = y / y.abs().amax(dim=(1, 2, 3), keepdim=True)
    levels = torch.tensor(quantizer.levels, dtype=torch.float64).to(dtype)
    assert torch.equal(y.unique(), levels)
    assert slope(quantizer, x).dtype == dtype


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_backward_values(name: str) -> None:
    gradient = slope(build(name), torch.tensor([POINTS]))[0]
    assert gradient.tolist() == pytest.approx(SLOPES[name], abs=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_incoming_gradient_is_a_factor(name: str) -> None:
    weights = torch.arange(1.0, 8.0)
    gradient = slope(build(name), torch.tensor([POINTS]), weights[None])[0]
    expected = [a * b for a, b in zip(SLOPES[name], weights.tolist(), strict=True)]
    assert gradient.tolist() == pytest.approx(expected, abs=7 * FLOAT32_TOLERANCE)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slope_is_the_derivative_of_a_function(name: str) -> None:
    x = 2 * normals(100, 7).double()
    function = SMOOTH.get(name, torch.nn.functional.hardtanh)
    torch.testing.assert_close(slope(build(name), x), slope(function, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slope_integrates_to_two(name: str) -> None:
    x = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    area = torch.trapezoid(slope(build(name, 1), x[:, None])[:, 0], x)
    assert abs(float(area) - INTEGRALS.get(name, 2.0)) < INTEGRAL_TOLERANCE


@pytest.mark.parametrize("name", sorted(QUANTIZER_MODULES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_values_do_not_overflow(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[-1e4, -1.0, -1e-4, 0.0, 0.5, 2.0, 1e4]] * 2, dtype=dtype)
    quantizer = build(name)
    gradient = slope(quantizer, x)
    assert bool(quantizer(x).isfinite().all())
    assert bool(gradient.isfinite().all())
    if name in SLOPES:
        infinite = torch.full((1, 7), torch.inf, dtype=dtype)
        assert bool(slope(quantizer, infinite).isfinite().all())
        far = 1.0 if name == "identity_sign" else 0.0
        assert gradient[:, [0, -1]].tolist() == [pytest.approx([far, far], abs=1e-30)] * 2


@pytest.mark.parametrize("name", sorted(QUANTIZER_MODULES))
@pytest.mark.parametrize("how", ["copied", "pickled", "from state"])
def test_a_copy_is_equal(name: str, how: str) -> None:
    quantizer = build(name)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.copy_(torch.linspace(-1, 1, 7))
    if how == "copied":
        other = copy.deepcopy(quantizer)
    elif how == "pickled":
        other = pickle.loads(pickle.dumps(quantizer))
    else:
        other = build(name)
        other.load_state_dict(quantizer.state_dict())
    x = normals(4, 7)
    assert torch.equal(other(x), quantizer(x))
    assert torch.equal(slope(other, x), slope(quantizer, x))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_bits_saved_for_an_element(name: str) -> None:
    x = torch.linspace(-2, 2, 2 * 5 * 96).reshape(2, 96, 5, 1).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda nothing: nothing):
        build(name, 96)(x)
    n_bits = 8 * sum(t.untyped_storage().nbytes() for t in saved)
    assert n_bits == BITS_SAVED.get(name, 1) * x.numel()


@pytest.mark.parametrize("name", sorted(QUANTIZER_MODULES))
def test_no_global_generator_is_touched(name: str) -> None:
    before = torch.get_rng_state()
    slope(build(name), normals(3, 7))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5, 7), (2, 64, 3, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("name", ["ste_sign", "ste_heaviside", "ste_tern", "dorefa"])
def test_ste_slope_is_at_its_place_in_every_shape(name, shape, dtype, is_channels_last) -> None:
    if is_channels_last and len(shape) != 4:
        return
    x = (2 * normals(*shape)).to(dtype)
    if is_channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    factor = normals(*shape).flip(tuple(range(len(shape)))).to(dtype)
    low = 0 if name == "dorefa" else -1
    gradient = slope(build(name), x, factor)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, torch.where((x >= low) & (x <= 1), factor, 0))


def test_ste_clip_is_adjustable_and_checked() -> None:
    x = torch.tensor([1.2, 1.25, 1.3])
    for name in ("ste_sign", "ste_heaviside", "ste_tern"):
        assert slope(QUANTIZER_MODULES[name](clip=1.25), x).tolist() == [1.0, 1.0, 0.0]
        with pytest.raises(ValueError, match="clip: expected clip > 0, got 0"):
            QUANTIZER_MODULES[name](clip=0.0)
    with pytest.raises(ValueError, match="clip: expected clip > 0, got -1"):
        ste_sign(x, clip=-1.0)


def test_swish_beta_is_the_slope_at_zero_and_checked() -> None:
    swish_sign = QUANTIZER_MODULES["swish_sign"]
    assert slope(swish_sign(beta=3.0), torch.zeros(1)).tolist() == [3.0]
    with pytest.raises(ValueError, match="beta: expected beta > 0, got 0"):
        swish_sign(beta=0)

"""The fused stage against the modules in a row, in float64: values, statistics, gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.layers import (
    BinaryConv2d,
    BinaryLinear,
    ConvNorm,
    Int8Conv2d,
    RealConv2d,
    Sign,
    run_stages,
)
from bnn.quantizers import ApproxSign, SteSign
from kernels.backends import BACKENDS, available_backends, use_backend

# Sums of up to 10^5 products in float32 over blocks; relative to the largest gradient.
RELATIVE = 1e-6
COMPILED = [name for name in available_backends() if BACKENDS[name].code is not None]
CASES = (
    # class of the convolution, channels in, out, size, kernel, stride, padding, pool, border
    (BinaryConv2d, 32, 32, (12, 12), 3, 1, 1, 2, "minus_one"),
    (BinaryConv2d, 5, 7, (9, 10), 3, 1, 1, 3, "zero"),
    (BinaryConv2d, 40, 33, (8, 7), (3, 5), (2, 1), (1, 2), 1, "minus_one"),
    (BinaryConv2d, 33, 20, (7, 9), 3, (1, 2), 1, 1, "minus_one"),
    (BinaryConv2d, 64, 16, (6, 6), 1, 1, 0, 1, "minus_one"),
    (BinaryConv2d, 70, 9, (11, 11), 5, 2, 2, 2, "zero"),
    (BinaryConv2d, 40, 35, (7, 9), 3, 1, 1, 1, "minus_one"),
    (BinaryConv2d, 64, 18, (8, 6), 3, 1, 0, 1, "zero"),
    (BinaryConv2d, 17, 6, (6, 7), 3, 1, 1, 1, "zero"),
    (Int8Conv2d, 1, 32, (12, 12), 3, 1, 1, 1, None),
    (Int8Conv2d, 3, 5, (9, 11), 3, (1, 2), (1, 0), 2, None),
)


class SignedStage(nn.Module):
    """A stage and its sign."""

    def __init__(self, conv: nn.Module, n_channels: int, *, pool: int = 1) -> None:
        super().__init__()
        self.stage, self.sign = ConvNorm(conv, n_channels, pool=pool), Sign()
        self.conv, self.norm = conv, self.stage.norm

    def forward(self, x: Tensor) -> Tensor:
        return run_stages([self.stage], [self.sign], x)


def _stage(cls, case, seed=0):
    kind, n_in, n_out, size, kernel, stride, padding, pool, border = case
    options = {} if border is None else {"border": border}
    conv = kind(n_in, n_out, kernel=kernel, stride=stride, padding=padding, **options)
    module, draws = cls(conv, n_out, pool=pool), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.7)
        x = torch.randn(4, n_in, *size, generator=draws)
        x = torch.where(x >= 0, 1.0, -1.0) if border else (x.abs() * 50).round() / 256
    return module, x.contiguous(memory_format=torch.channels_last)


def _outputs(module, x: Tensor, wants_x: bool):
    """Output, gradients of all parameters and of x, statistics."""
    x = x.detach().clone().requires_grad_(wants_x)
    y = module(x)
    draws = torch.Generator().manual_seed(5)
    factor = torch.randn(y.shape, generator=draws).to(y.dtype)
    inputs = [*module.parameters(), *([x] if wants_x else [])]
    gradients = torch.autograd.grad((y * factor).sum(), inputs)
    return y, gradients, (module.norm.batch_mean, module.norm.batch_var)


def _is_fused(module, x: Tensor) -> bool:
    return "FusedStages" in type(module(x).grad_fn).__name__


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("cls", [ConvNorm, SignedStage])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_modules_in_a_row(cls, case, backend) -> None:
    module, x = _stage(cls, case)
    wants_x = case[0] is BinaryConv2d
    with use_backend(backend):
        assert _is_fused(module, x)
        y, gradients, statistics = _outputs(module, x, wants_x)
    exact = _outputs(module.double(), x.double(), wants_x)
    if cls is SignedStage:
        assert torch.equal(y.double(), exact[0])
    else:
        assert torch.allclose(y.double(), exact[0], rtol=1e-6, atol=2e-6)
    for ours, theirs in zip(gradients, exact[1], strict=True):
        assert theirs.abs().max() > 0
        assert (ours - theirs).abs().max() <= RELATIVE * theirs.abs().max()
    for ours, theirs in zip(statistics, exact[2], strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-6, atol=1e-6)


def test_back_ends_give_the_same_bytes_for_bits() -> None:
    module, x = _stage(SignedStage, CASES[0])
    results = []
    for backend in COMPILED:
        with use_backend(backend):
            results.append(_outputs(module, x, True)[1])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_first_of_equal_sums_wins_the_window() -> None:
    conv = BinaryConv2d(1, 1, kernel=1)
    conv.latent_weight.data.fill_(0.5)
    module = ConvNorm(conv, 1, pool=2)
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, :2, :2] = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    x[0, 0, 2:, 2:] = -1.0
    x.requires_grad_()
    y = module(x)
    assert _is_fused(module, x)
    (y * torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum().backward()
    places = x.grad[0, 0].nonzero().tolist()
    assert places == [[0, 1], [0, 2], [2, 0], [2, 2]]


def test_weights_beyond_the_clip_get_no_gradient() -> None:
    module, x = _stage(SignedStage, CASES[0])
    with torch.no_grad():
        module.conv.latent_weight[0].fill_(1.5)
    y = module(x)
    (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
    assert not module.conv.latent_weight.grad[0].any()
    assert module.conv.latent_weight.grad[1].any()


def test_running_statistics_are_used_in_evaluation() -> None:
    module, x = _stage(ConvNorm, CASES[0])
    module(x)
    before = module.norm.batch_mean
    module.norm.update_running(torch.full((32,), 2.0), torch.full((32,), 3.0))
    module.eval()
    pooled = F.max_pool2d(module.conv(x), 2)
    assert torch.equal(module(x), module.norm(pooled))
    assert module.norm.batch_mean is before


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (BinaryConv2d(8, 4, kernel=3, groups=2), (3, 8, 6, 6)),
        (BinaryConv2d(8, 4, kernel=3, weight_quantizer="magnitude_aware"), (3, 8, 6, 6)),
        (BinaryConv2d(8, 4, kernel=6), (3, 8, 6, 6)),
        (RealConv2d(8, 4, kernel=(3, 3)), (3, 8, 6, 6)),
        (Int8Conv2d(8, 4, kernel=3), (3, 8, 6, 6)),
        (BinaryLinear(8, 4), (3, 8)),
    ],
)
def test_every_other_convolution_runs_module_by_module(conv, shape) -> None:
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        next(conv.parameters()).copy_(
            torch.randn(next(conv.parameters()).shape, generator=draws) * 0.3
        )
    x = torch.where(torch.randn(shape, generator=draws) >= 0, 1.0, -1.0)
    module = SignedStage(conv, 4)
    assert not _is_fused(module, x)
    expected = torch.where(module.norm(conv(x)) >= 0, 1.0, -1.0)
    assert torch.equal(module(x), expected)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="pool: expected 1 or more, got 0"):
        ConvNorm(BinaryConv2d(2, 2, kernel=1), 2, pool=0)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        run_stages([ConvNorm(BinaryConv2d(2, 2, kernel=1), 2)], [], torch.ones(1, 2, 4, 4))
    module = ConvNorm(BinaryConv2d(2, 2, kernel=1), 2)
    with pytest.raises(ValueError, match="put a Sign"):
        module(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"expected shape \(N, 2"):
        module(torch.ones(1, 3, 4, 4))


def _chain(*signs: nn.Module) -> tuple[nn.ModuleList, nn.ModuleList, Tensor]:
    """Pixels to 33, 20 and 40 channels, with pools of 2, 1 and 2."""
    draws = torch.Generator().manual_seed(3)
    stages = nn.ModuleList(
        ConvNorm(conv(n_in, n_out, kernel=3, padding=1), n_out, pool=pool)
        for conv, n_in, n_out, pool in (
            (Int8Conv2d, 1, 33, 2),
            (BinaryConv2d, 33, 20, 1),
            (BinaryConv2d, 20, 40, 2),
        )
    )
    with torch.no_grad():
        for parameter in stages.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.7)
    x = torch.randint(0, 256, (6, 1, 14, 13), generator=draws) / 256
    return stages, nn.ModuleList(signs), x


def _n_nodes(y: Tensor) -> int:
    """Fused nodes in the graph of ``y``."""
    found, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [following for following, _ in node.next_functions]
    return sum("FusedStages" in type(node).__name__ for node in found)


def _in_a_row(stages: nn.ModuleList, signs: nn.ModuleList, x: Tensor) -> Tensor:
    for stage, sign in zip(stages, signs, strict=True):
        x = sign(stage(x))
    return x


@pytest.mark.parametrize("backend", COMPILED)
def test_a_chain_is_one_node_with_the_gradients_of_its_modules(backend: str) -> None:
    stages, signs, x = _chain(Sign(), SteSign(0.5), SteSign(1.25))
    factor = torch.randn((6, 40, 3, 3), generator=torch.Generator().manual_seed(1))
    with use_backend(backend):
        y = run_stages(stages, signs, x)
    assert _n_nodes(y) == 1
    gradients = torch.autograd.grad((y * factor).sum(), list(stages.parameters()))
    stages.double()
    exact = _in_a_row(stages, signs, x.double())
    assert torch.equal(y.double(), exact)
    expected = torch.autograd.grad((exact * factor).sum(), list(stages.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        assert theirs.abs().max() > 0
        assert (ours - theirs).abs().max() <= RELATIVE * theirs.abs().max()


def test_a_chain_breaks_where_a_module_is_watched_or_of_another_kind() -> None:
    stages, signs, x = _chain(Sign(), Sign(), Sign())
    whole = run_stages(stages, signs, x)
    assert _n_nodes(whole) == 1
    seen: list[Tensor] = []
    handle = signs[1].register_forward_hook(lambda module, inputs, y: seen.append(y))
    watched = run_stages(stages, signs, x)
    assert [tuple(y.shape) for y in seen] == [(6, 20, 7, 6)]
    assert _n_nodes(watched) == 3
    assert torch.equal(watched, whole)
    handle.remove()
    stages, signs, x = _chain(Sign(), ApproxSign(), Sign())
    assert _n_nodes(run_stages(stages, signs, x)) == 3
    assert torch.equal(run_stages(stages, signs, x), whole)
    stages.eval()
    assert _n_nodes(run_stages(stages, signs, x)) == 0

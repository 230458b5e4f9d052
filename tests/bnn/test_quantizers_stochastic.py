import numpy as np
import pytest
import torch

from bnn.quantizers import StochasticSign, sign, stochastic_sign
from kernels import Purpose, normal, uniform

ADDRESS = {"seed": 3, "step": 2, "layer": 1}


def normals(*shape: int) -> torch.Tensor:
    values = normal(7, Purpose.DIAGNOSTICS, torch.Size(shape).numel())
    return torch.from_numpy(values).reshape(shape)


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("seed", [3, 2**64 - 3])
def test_draws_are_those_of_their_address(is_channels_last: bool, seed: int) -> None:
    x = normals(6, 5, 3, 2)
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    y = stochastic_sign(
        x.contiguous(memory_format=layout), row_begin=9, **(ADDRESS | {"seed": seed})
    )
    u = uniform(seed, Purpose.DROPOUT, 30, rows=np.arange(9, 15), step=2, index=1)
    p = np.clip((x.numpy().reshape(6, 30) + np.float32(1)) / 2, 0, 1)
    assert torch.equal(y, torch.from_numpy(np.where(u < p, 1.0, -1.0)).float().reshape(x.shape))
    assert y.is_contiguous(memory_format=layout)


def test_a_batch_may_be_split() -> None:
    x = normals(10, 33)
    whole = stochastic_sign(x, **ADDRESS)
    parts = [stochastic_sign(x[a:b], row_begin=a, **ADDRESS) for a, b in ((0, 3), (3, 10))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("name", sorted(ADDRESS))
def test_every_part_of_the_address_matters(name: str) -> None:
    x = torch.zeros(8, 64)
    other = stochastic_sign(x, **{**ADDRESS, name: ADDRESS[name] + 1})
    assert 0.3 < float((stochastic_sign(x, **ADDRESS) != other).float().mean()) < 0.7


def test_mean_is_the_clipped_value() -> None:
    values = torch.tensor([-0.9, -0.5, 0.0, 0.25, 0.8])
    n_rows = 20_000
    mean = stochastic_sign(values.expand(n_rows, 5), **ADDRESS).mean(dim=0)
    deviation = ((1 - values**2) / n_rows).sqrt()
    assert bool(((mean - values).abs() < 4 * deviation).all())


def test_beyond_one_nothing_is_random() -> None:
    x = torch.tensor([-torch.inf, -2.0, -1.0, 1.0, 2.0, torch.inf, torch.nan]).expand(500, 7)
    y = stochastic_sign(x, **ADDRESS)
    assert y.unique(dim=0).tolist() == [[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0]]


def test_module_draws_in_training_and_signs_in_evaluation() -> None:
    module = StochasticSign(seed=3, layer=1)
    x = normals(4, 40)
    with pytest.raises(RuntimeError, match=r"step: expected set_step\(step\) before a pass in"):
        module(x)
    module.set_step(2, row_begin=5)
    assert torch.equal(module(x), stochastic_sign(x, row_begin=5, **ADDRESS))
    assert not torch.equal(module(x), sign(x))
    assert torch.equal(module.eval()(x), sign(x))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5,)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    assert stochastic_sign(torch.zeros(shape), **ADDRESS).shape == shape


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, r"seed: expected 0 <= seed < 2\*\*64, got -1"),
        ({"seed": 1 << 64}, r"seed: expected 0 <= seed < 2\*\*64"),
        ({"step": 1 << 32}, r"step: expected 0 <= step < 2\*\*32"),
        ({"layer": 1 << 24}, r"index: expected 0 <= index < 2\*\*24"),
    ],
)
def test_numbers_are_checked(wrong, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stochastic_sign(torch.zeros(1, 3), **{**ADDRESS, **wrong})
    with pytest.raises(ValueError, match=r"x: expected shape \(rows, ...\), got \(\)"):
        stochastic_sign(torch.zeros(()), **ADDRESS)

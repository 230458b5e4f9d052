"""The torch operators of samplers: draws by their address, and the statistics of a batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import torch_ops
from kernels.philox import Purpose, uniform


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_bernoulli_compares_the_uniforms_of_the_stream() -> None:
    field = 2 * _normal(5, 77)
    stream = {"step": 9, "index": 2}
    words = torch_ops.bernoulli(
        field, seed=1 << 40, purpose=Purpose.GIBBS_VISIBLE, row_begin=100, **stream
    )
    u = uniform(1 << 40, Purpose.GIBBS_VISIBLE, 77, rows=np.arange(100, 105), **stream)
    p = torch.sigmoid(field.double()).numpy()
    assert np.abs(u - p).min() > 1e-6  # no draw of this stream hangs on the rounding of sigma
    assert np.array_equal(torch_ops.unpack(words, 77).numpy(), u < p)
    parts = [
        torch_ops.bernoulli(
            field[a:b], seed=1 << 40, purpose=Purpose.GIBBS_VISIBLE, row_begin=100 + a, **stream
        )
        for a, b in ((0, 2), (2, 5))
    ]
    assert torch.equal(torch.cat(parts), words)


def test_a_seed_has_64_bits() -> None:
    field, seed = _normal(3, 40), (1 << 64) - 5
    words = torch_ops.bernoulli(field, seed=seed, purpose=Purpose.SWAPS)
    u = uniform(seed, Purpose.SWAPS, 40, rows=np.arange(3))
    assert np.array_equal(torch_ops.unpack(words, 40).numpy(), u < torch.sigmoid(field).numpy())
    for wrong in (-1, 1 << 64):
        with pytest.raises(ValueError, match="seed: expected 0 <= seed"):
            torch_ops.bernoulli(field, seed=wrong, purpose=Purpose.SWAPS)


def test_bernoulli_of_probabilities_is_exact() -> None:
    u = torch.from_numpy(uniform(3, Purpose.SWAPS, 70, rows=np.arange(6, 9), step=4, index=1))
    for p, on in ((u, 0.0), (u.nextafter(torch.tensor(2.0)), 1.0), (1 - u, u < 1 - u)):
        words = torch_ops.bernoulli_probabilities(
            p, seed=3, purpose=Purpose.SWAPS, step=4, index=1, row_begin=6
        )
        assert (torch_ops.unpack(words, 70) == on).all()


@pytest.mark.parametrize(
    ("batch", "n_visible", "n_hidden"), [(1, 1, 1), (65, 33, 31), (100, 9, 64)]
)
def test_batch_products_are_the_float_outer_product(batch, n_visible, n_hidden) -> None:
    visible, hidden = _normal(batch, n_visible), _normal(batch, n_hidden, seed=1)
    counts = torch_ops.batch_products(
        torch_ops.pack(visible), n_visible, torch_ops.pack(hidden), n_hidden
    )
    expected = (visible >= 0).float().T @ (hidden >= 0).float()
    assert counts.dtype == torch.int32
    assert torch.equal(counts, expected.to(torch.int32))

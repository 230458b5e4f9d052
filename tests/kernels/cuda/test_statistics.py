"""Batch products on the GPU against integer products of numpy."""

import numpy as np
import pytest

from kernels import pack_bits
from kernels.cuda_statistics import batch_products


def states(batch, n):
    return np.random.default_rng(batch + n).random((batch, n)) < 0.5


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize(
    ("batch", "n_visible", "n_hidden"), [(1, 1, 1), (31, 33, 9), (129, 20, 70), (300, 65, 31)]
)
def test_products_are_exact(make_launcher, on, capability, batch, n_visible, n_hidden):
    visible, hidden = states(batch, n_visible), states(batch, n_hidden)
    words = on(pack_bits(visible)), on(pack_bits(hidden))
    counts = batch_products(make_launcher(capability), words[0], n_visible, words[1], n_hidden)
    expected = visible.T.astype(np.int64) @ hidden.astype(np.int64)
    assert np.array_equal(counts.cpu().numpy(), expected)


def test_an_empty_batch_counts_nothing(launcher, on):
    empty = on(np.zeros((0, 2), np.uint32))
    counts = batch_products(launcher, empty, 40, empty, 33)
    assert counts.tolist() == [[0] * 33] * 40


def test_batches_that_differ_are_named(launcher, on):
    with pytest.raises(ValueError, match="expected two matrices of equally many rows"):
        batch_products(
            launcher, on(np.zeros((3, 1), np.uint32)), 5, on(np.zeros((4, 1), np.uint32)), 5
        )

"""Packing on the GPU against numpy."""

import numpy as np
import pytest
import torch

from kernels import pack_bits


@pytest.mark.parametrize("n", [1, 31, 32, 33, 200])
def test_pack_equals_numpy(launcher, on, n):
    x = np.random.default_rng(n).standard_normal((37, n)).astype(np.float32)
    words = torch.full((37, -(-n // 32)), -1, dtype=torch.int32, device=launcher.device)
    counts = torch.full((37,), -1, dtype=torch.int32, device=launcher.device)
    launcher.launch("pack", "pack_f32", 5, on(x), 37, n, 0.0, words, counts)
    assert np.array_equal(words.cpu().numpy().view(np.uint32), pack_bits(x >= 0))
    assert np.array_equal(counts.cpu().numpy(), (x >= 0).sum(1))

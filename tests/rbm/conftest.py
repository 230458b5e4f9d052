import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rbm import RBM

_DIGITS = Path(__file__).parents[2] / "workers" / "data" / "digits.csv.gz"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digit_pixels() -> Tensor:
    """The 1797 digits, shape (1797, 64), values 0 ... 16."""
    with gzip.open(_DIGITS, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return torch.from_numpy(table[:, :64])


@pytest.fixture(scope="session")
def digit_bits(digit_pixels: Tensor) -> Tensor:
    return (digit_pixels > 8).to(torch.uint8)


@pytest.fixture
def master() -> RBM:
    """The 3 x 2 machine whose values are known to many digits."""
    weights = torch.tensor([[0.5, -0.3], [0.2, 0.8], [-0.6, 0.1]], dtype=torch.float64)
    visible_bias = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    hidden_bias = torch.tensor([-0.4, 0.25], dtype=torch.float64)
    return RBM.from_parameters(weights, visible_bias, hidden_bias)


@pytest.fixture
def random_machine():
    """Makes machines with normal parameters of a given scale, float64."""

    def make(n_visible: int, n_hidden: int, seed: int = 0, scale: float = 1.0) -> RBM:
        g = torch.Generator().manual_seed(seed)
        draw = [
            scale * torch.randn(*shape, generator=g, dtype=torch.float64)
            for shape in ((n_visible, n_hidden), (n_visible,), (n_hidden,))
        ]
        return RBM.from_parameters(*draw)

    return make

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bnn

DIGITS = Path(bnn.__file__).parents[1] / "workers" / "data" / "digits.csv.gz"
N_TRAIN, N_TEST = 1347, 450


@dataclass(frozen=True)
class Digits:
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The promise of equal bytes is made for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Digits:
    with gzip.open(DIGITS, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, 64].astype(np.int64)
    return Digits(images[:N_TRAIN], labels[:N_TRAIN], images[-N_TEST:], labels[-N_TEST:])


@pytest.fixture(scope="session")
def trained(digits: Digits) -> bnn.BinaryConvNet:
    """The default network, trained by the recommended configuration."""
    net = bnn.BinaryConvNet((8, 8, 1), 10)
    bnn.fit(net, digits.train_images, digits.train_labels)
    return net


@pytest.fixture
def ragged() -> bnn.BinaryConvNet:
    """An untrained network with widths that fill no word and statistics that are not trivial."""
    net = bnn.BinaryConvNet((9, 7, 3), 5, widths=(5, 33, 40), seed=3)
    _randomise_norms(net, np.random.default_rng(5))
    return net


@pytest.fixture(scope="session")
def randomise_norms() -> Callable[[bnn.BinaryConvNet, np.random.Generator], None]:
    return _randomise_norms


def _randomise_norms(net: bnn.BinaryConvNet, rng: np.random.Generator) -> None:
    """Both signs of gamma, gamma = 0 in a channel, and statistics on the scale of the sums."""
    for number, stage in enumerate(net.stages):
        norm, n = stage.norm, stage.norm.n_channels
        spread = 0.5 if number == 0 else 8.0
        gamma = rng.normal(size=n)
        gamma[0] = 0.0
        with torch.no_grad():
            norm.weight.copy_(torch.from_numpy(gamma))
            norm.bias.copy_(torch.from_numpy(rng.normal(scale=0.5, size=n)))
            norm.running_mean.copy_(torch.from_numpy(rng.normal(scale=spread, size=n)))
            norm.running_var.copy_(torch.from_numpy(spread**2 * rng.uniform(0.5, 2, size=n)))
    with torch.no_grad():
        net.head.bias.copy_(torch.from_numpy(rng.normal(size=net.n_classes)))

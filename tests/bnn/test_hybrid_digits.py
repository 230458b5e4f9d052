import numpy as np
import pytest

from bnn import TrainConfig, evaluate, fit
from bnn.hybrid import binary_inputs, make_hybrid
from bnn.models import Classifier, build_model
from kernels import permutation


@pytest.mark.slow
def test_accuracy_grows_with_the_share_of_real_inputs(digits: object) -> None:
    """Means of three seeds: binary <= hybrid + 0.5 points <= real inputs + 1 point."""
    images = np.concatenate([digits.train_images, digits.test_images]).reshape(-1, 1, 1, 64)
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    # The last rows of the file are other writers'; the reference's split is a random one.
    order = permutation(5, len(labels), epoch=0)
    data, test = ((images[rows], labels[rows]) for rows in (order[:1347], order[1347:]))

    def build(seed: int, n_real: int) -> Classifier:
        net = build_model("binary_mlp", (1, 1, 64), 10, (256, 256), seed=seed)
        return make_hybrid(net, list(binary_inputs(net))[:n_real], activation="relu")

    def accuracy(n_real: int) -> float:
        found = []
        for seed in range(3):
            net = build(seed, n_real)
            fit(net, *data, TrainConfig(epochs=EPOCHS, seed=seed))
            found.append(evaluate(net, *test).accuracy)
        return float(np.mean(found))

    binary, hybrid, real = (accuracy(n_real) for n_real in (0, 1, 2))
    assert min(binary, hybrid, real) > 0.93
    assert binary <= hybrid + 0.005
    assert hybrid + 0.005 <= real + 0.01


EPOCHS = 4

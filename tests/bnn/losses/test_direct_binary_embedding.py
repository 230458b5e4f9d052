import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bnn.losses import dbe_joint
from bnn.losses.direct_binary_embedding import (
    CODE_THRESHOLD,
    DirectBinaryEmbedding,
    code_statistics,
    embedding_activation,
    embedding_code,
    hamming_distances,
    head_on_signs,
    quantization_penalty,
)
from kernels import Purpose, normal, pack, permutation, uniform

N_BITS = 32
N_RETRIEVED = 50


def test_activation_values() -> None:
    u = torch.tensor([-1.0, 0.0, 0.5493061, 1.0, 3.0], dtype=torch.float64)
    expected = [0.0, 0.0, 0.5, 0.761594, 0.995055]
    assert embedding_activation(u).tolist() == pytest.approx(expected, abs=1e-6)
    assert embedding_activation(u)[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_code_is_the_rounded_activation(dtype: torch.dtype) -> None:
    u = torch.linspace(-3, 3, 100_000, dtype=dtype)
    code = embedding_code(u)
    assert code.dtype == dtype
    assert torch.equal(code, (embedding_activation(u) >= 0.5).to(dtype))
    around = torch.tensor([CODE_THRESHOLD - 1e-6, CODE_THRESHOLD + 1e-6])
    assert embedding_code(around).tolist() == [0.0, 1.0]
    assert pytest.approx(0.549306, abs=1e-6) == CODE_THRESHOLD


def test_gradient_of_the_activation() -> None:
    u = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    a = embedding_activation(u)
    (gradient,) = torch.autograd.grad(a.sum(), u)
    expected = (1 - a.detach() ** 2) * (u.detach() > 0)
    assert torch.allclose(gradient, expected, atol=1e-14)


def test_layer_is_its_formula() -> None:
    layer = DirectBinaryEmbedding(7, 5, seed=4).double()
    features = torch.from_numpy(normal(1, Purpose.DIAGNOSTICS, 7, rows=range(30))).double()
    fields = features @ layer.weight.T
    spread = torch.sqrt(fields.var(0, correction=0) + layer.norm.eps)
    u = (fields - fields.mean(0)) / spread
    assert torch.allclose(layer.pre_activation(features), u)
    assert torch.allclose(layer(features), torch.tanh(u.clamp(min=0)))
    assert torch.equal(layer.code(features), (u >= CODE_THRESHOLD).double())
    assert not layer.code(features).requires_grad
    layer.eval()
    expected = (fields / math.sqrt(1 + layer.norm.eps) >= CODE_THRESHOLD).double()
    assert torch.equal(layer.code(features), expected)


def test_initial_weights_are_a_function_of_the_seed() -> None:
    first, again, other = (
        DirectBinaryEmbedding(300, 64, seed=seed).weight.detach() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Fields of unit inputs have variance 1: 19,200 draws give it within 3 %.
    assert float(first.square().sum() / 64) == pytest.approx(1, abs=0.03)


def test_head_on_signs_gives_the_logits_of_the_code() -> None:
    weight = torch.from_numpy(normal(1, Purpose.DIAGNOSTICS, 20, rows=range(3))).double()
    bias = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    code = torch.from_numpy(uniform(2, Purpose.DIAGNOSTICS, 20, rows=range(50)) < 0.4).double()
    sign_weight, sign_bias = head_on_signs(weight, bias)
    signs = 2 * code - 1
    assert torch.allclose(signs @ sign_weight.T + sign_bias, code @ weight.T + bias)


@pytest.mark.parametrize("n_bits", [1, 31, 32, 33, 64, 65, 100])
def test_hamming_distances_of_packed_codes(n_bits: int) -> None:
    bits = uniform(3, Purpose.DIAGNOSTICS, n_bits, rows=range(12)) < 0.5
    queries, database = bits[:5], bits[5:]
    expected = (queries[:, None] != database[None]).sum(axis=2)
    result = hamming_distances(pack(queries), pack(database), n_bits)
    assert np.array_equal(result, expected)


def test_statistics_of_known_activations() -> None:
    # Bits: balanced; its complement; constant; independent of the first.
    a = torch.tensor(
        [[0.9, 0.0, 0.6, 0.8], [0.9, 0.0, 0.6, 0.2], [0.1, 1.0, 0.6, 0.8], [0.1, 1.0, 0.6, 0.2]]
    )
    statistics = code_statistics(a)
    assert statistics.quantization_error == pytest.approx((0.1 + 0.0 + 0.4 + 0.2) / 4)
    assert statistics.bit_balance.tolist() == [0.5, 0.5, 1.0, 0.5]
    assert statistics.bit_entropy.tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0])
    # One pair of six is perfectly (anti)correlated.
    assert statistics.bit_correlation == pytest.approx(1 / 6)
    quarter = code_statistics(torch.tensor([[0.9], [0.1], [0.1], [0.1]]))
    assert float(quarter.bit_entropy) == pytest.approx(0.811278, abs=1e-6)
    assert quarter.bit_correlation == 0


def test_penalty_is_the_mean_square_to_a_constant_code() -> None:
    a = torch.tensor([0.49, 0.9], requires_grad=True)
    penalty = quantization_penalty(a)
    assert penalty.item() == pytest.approx((0.49**2 + 0.1**2) / 2)
    (gradient,) = torch.autograd.grad(penalty, a)
    assert gradient.tolist() == pytest.approx([0.49, -0.1])


@dataclass
class Trained:
    errors: list[float]
    """Mean |a - c| on the training set after each epoch."""
    codes: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    """Of the training and the test set."""
    accuracies: tuple[float, float]
    """Of the head on activations and on codes, test set."""


@pytest.fixture(scope="module")
def trained(digits) -> Trained:
    """64 pixels, 128 ReLU, 32 bits, 10 classes; 12 epochs, rate 0.01, momentum 0.9."""
    train, test = (
        torch.from_numpy(images.reshape(len(images), -1) / 255).float()
        for images in (digits.train_images, digits.test_images)
    )
    targets = nn.functional.one_hot(torch.from_numpy(digits.train_labels), 10)
    first, embedding = _linear(64, 128, index=1), DirectBinaryEmbedding(128, N_BITS, seed=1)
    head = _linear(N_BITS, 10, index=2)
    parameters = [p for layer in (first, embedding, head) for p in layer.parameters()]
    velocities = [torch.zeros_like(p) for p in parameters]
    errors = []
    for epoch in range(12):
        for batch in torch.from_numpy(permutation(1, len(train), epoch=epoch)).split(32):
            a = embedding(torch.relu(first(train[batch])))
            loss = dbe_joint(head(a), targets[batch], nu=0.0)
            gradients = torch.autograd.grad(loss, parameters)
            for p, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                p.data.add_(velocity.mul_(0.9).add_(gradient), alpha=-1e-2)
            embedding.norm.update_running(embedding.norm.batch_mean, embedding.norm.batch_var)
        with torch.no_grad():
            embedding.eval()
            a = embedding(torch.relu(first(train)))
            errors.append(code_statistics(a).quantization_error)
            embedding.train()
    embedding.eval()
    with torch.no_grad():
        codes = [embedding.code(torch.relu(first(images))) for images in (train, test)]
        kinds = embedding(torch.relu(first(test))), codes[1]
        labels = torch.from_numpy(digits.test_labels)
        hits = [float((head(x).argmax(1) == labels).float().mean()) for x in kinds]
    return Trained(errors, (codes[0].bool().numpy(), codes[1].bool().numpy()), (hits[0], hits[1]))


def _linear(n_in: int, n_out: int, *, index: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    draws = uniform(1, Purpose.INITIAL_WEIGHTS, n_out * n_in, index=index)
    with torch.no_grad():
        layer.weight.copy_(
            torch.from_numpy(2 * draws[0] - 1).reshape(n_out, n_in) * (6 / n_in) ** 0.5
        )
        layer.bias.zero_()
    return layer


def test_units_become_binary_without_a_term_for_it(trained: Trained) -> None:
    assert trained.errors[-1] < 0.9 * trained.errors[0]


def test_head_is_evaluated_on_activations_and_on_codes(trained: Trained) -> None:
    on_activations, on_codes = trained.accuracies
    assert on_activations > 0.9
    assert on_activations - 0.03 < on_codes < on_activations + 0.01


def test_retrieval_by_packed_codes(trained: Trained, digits) -> None:
    database, queries = trained.codes
    distances = hamming_distances(pack(queries), pack(database), N_BITS)
    # 0.903 when the gate was set.
    assert mean_average_precision(distances, digits.test_labels, digits.train_labels) > 0.85


def mean_average_precision(
    distances: NDArray[np.int32], queries: NDArray[np.int64], database: NDArray[np.int64]
) -> float:
    """Over queries, of the average precision among the 50 nearest; equal distances by number."""
    order = np.argsort(distances, axis=1, kind="stable")[:, :N_RETRIEVED]
    relevant = database[order] == queries[:, None]
    precision = np.cumsum(relevant, axis=1) / np.arange(1, N_RETRIEVED + 1)
    n_relevant = (database[None] == queries[:, None]).sum(axis=1)
    return float(((precision * relevant).sum(axis=1) / np.minimum(n_relevant, N_RETRIEVED)).mean())

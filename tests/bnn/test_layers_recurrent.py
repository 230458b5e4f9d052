"""The binary LSTM and GRU cells against their equations, written out in numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnn.layers import CELL_LIMIT, BinaryGRUCell, BinaryLinear, BinaryLSTMCell
from bnn.layers.recurrent import RecurrentCell

# sigmoid and tanh of float32 against float64, after a few steps of a contraction.
ATOL = 2e-6
CELLS: dict[str, type[RecurrentCell]] = {"lstm": BinaryLSTMCell, "gru": BinaryGRUCell}
Array = NDArray[np.float64]


def randomise(cell: RecurrentCell, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for parameter in cell.parameters():
        values = rng.normal(size=parameter.shape)
        scale = 1.0 if parameter.dim() > 1 else 0.3
        parameter.data.copy_(torch.from_numpy(scale * values))


def spins(*shape: int, seed: int = 1) -> Tensor:
    values = np.random.default_rng(seed).choice([-1.0, 1.0], size=shape)
    return torch.from_numpy(values.astype(np.float32))


def sign(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def values_of(cell: RecurrentCell) -> dict[str, Array]:
    return {name: p.detach().double().numpy() for name, p in cell.named_parameters()}


def lstm_step(p: dict[str, Array], x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    h, c = state
    n = (
        x @ sign(p["input.latent_weight"]).T
        + sign(h + p["sign.shift"]) @ sign(p["hidden.latent_weight"]).T
    )
    i, f, g, o = np.split(p["scale"] * n + p["bias"], 4, axis=1)
    c = np.clip(sigmoid(f) * c + sigmoid(i) * np.tanh(g), -8, 8)
    return sigmoid(o) * np.tanh(c), c


def gru_step(p: dict[str, Array], x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    (h,) = state
    m_r, m_z, m_g = np.split(x @ sign(p["input.latent_weight"]).T, 3, axis=1)
    n_r, n_z, n_g = np.split(sign(h) @ sign(p["hidden.latent_weight"]).T, 3, axis=1)
    s_r, s_z, s_g = np.split(p["scale"], 3)
    b_r, b_z, b_g = np.split(p["bias"], 3)
    r = sigmoid(s_r * (m_r + n_r) + b_r)
    z = sigmoid(s_z * (m_z + n_z) + b_z)
    g = np.tanh(s_g * m_g + b_g + r * (p["hidden_scale"] * n_g + p["hidden_bias"]))
    return ((1 - z) * g + z * h,)


STEPS: dict[str, Callable[..., tuple[Array, ...]]] = {"lstm": lstm_step, "gru": gru_step}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("n_in", "n_hidden"), [(1, 1), (33, 5), (7, 40)])
def test_cells_are_their_equations(name: str, n_in: int, n_hidden: int) -> None:
    cell = CELLS[name](n_in, n_hidden)
    randomise(cell)
    expected = tuple(np.zeros((3, n_hidden)) for _ in range(2 if name == "lstm" else 1))
    state = None
    for step in range(4):
        x = spins(3, n_in, seed=step)
        state = cell(x, state)
        expected = STEPS[name](values_of(cell), x.double().numpy(), expected)
        got = state if isinstance(state, tuple) else (state,)
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours.detach(), theirs, rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", CELLS)
def test_packed_is_simulated_with_gradients_through_time(name: str) -> None:
    results = []
    for simulate in (False, True):
        cell = CELLS[name](33, 6, simulate=simulate)
        randomise(cell, seed=4)
        x, state = spins(2, 33).requires_grad_(), None
        for _ in range(3):
            state = cell(x, state)
        h = state[0] if isinstance(state, tuple) else state
        assert h is not None
        inputs = [x, *cell.parameters()]
        results.append([h.detach(), *torch.autograd.grad((h * h).sum(), inputs)])
    assert torch.equal(results[0][0], results[1][0])
    names = ["x", *dict(cell.named_parameters())]
    for of, ours, theirs in zip(names, results[0][1:], results[1][1:], strict=True):
        assert float(theirs.abs().max()) > 0, of
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # sums in another order


def test_the_gates_of_an_lstm_see_an_integer_of_the_parity_of_both_widths() -> None:
    cell = BinaryLSTMCell(4, 3)
    randomise(cell)
    h = torch.full((2, 3), 0.3)
    n = cell.input(spins(2, 4)) + cell.hidden(cell.sign(h))
    n = n.detach()
    assert n.shape == (2, 12)
    assert torch.equal(n.remainder(2), torch.ones(2, 12))  # 4 + 3
    assert float(n.abs().max()) <= 7


def test_the_cell_state_is_clipped_and_the_hidden_state_of_a_gru_bounded() -> None:
    cell = BinaryLSTMCell(8, 2)
    cell.scale.data.fill_(10.0)  # gates open, the candidate is 1
    x = torch.ones(1, 8)
    state = (torch.zeros(1, 2), torch.full((1, 2), CELL_LIMIT - 0.5))
    h, c = cell(x, state)
    assert c.tolist() == [[CELL_LIMIT] * 2]
    assert h.tolist() == [[pytest.approx(1.0, abs=1e-6)] * 2]
    gru = BinaryGRUCell(8, 5)
    randomise(gru)
    h = torch.ones(4, 5)
    for step in range(10):
        h = gru(spins(4, 8, seed=step), h)
        assert float(h.detach().abs().max()) <= 1


def test_the_output_gate_is_seen_by_the_next_step() -> None:
    # With θ = 0 the sign of h is that of c, whatever the gate does.
    cell = BinaryLSTMCell(2, 1)
    h = {gate: torch.sigmoid(torch.tensor([[gate]])) * np.tanh(0.5) for gate in (-3.0, 3.0)}
    assert {float(cell.sign(value).detach()) for value in h.values()} == {1.0}
    cell.sign.shift.data.fill_(-0.2)
    assert [float(cell.sign(value).detach()) for value in h.values()] == [-1.0, 1.0]


def test_fields_start_with_the_variance_of_one_product() -> None:
    lstm, gru = BinaryLSTMCell(60, 40), BinaryGRUCell(60, 40)
    assert lstm.scale.tolist() == pytest.approx([0.1] * 160)
    assert lstm.bias.tolist() == [0.0] * 40 + [1.0] * 40 + [0.0] * 80
    assert gru.scale.tolist() == pytest.approx([0.1] * 80 + [60**-0.5] * 40)
    assert gru.hidden_scale.tolist() == pytest.approx([40**-0.5] * 40)


@pytest.mark.parametrize("name", CELLS)
def test_mistakes_are_one_line(name: str) -> None:
    cell = CELLS[name](3, 2)
    with pytest.raises(ValueError, match=r"^x: expected shape \(N, 3\), got \(1, 2\)$"):
        cell(torch.ones(1, 2))
    bad = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"^h: expected shape \(1, 2\), got \(2, 2\)$"):
        cell(torch.ones(1, 3), (bad, bad) if name == "lstm" else bad)
    with pytest.raises(ValueError, match="expected activations -1"):
        CELLS[name](3, 2)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="quantizer: expected one of"):
        CELLS[name](3, 2, quantizer="tanh")


@pytest.mark.parametrize("name", CELLS)
def test_both_weights_of_a_cell_are_clipped_layers(name: str) -> None:
    layers = [m for m in CELLS[name](3, 2).modules() if isinstance(m, BinaryLinear)]
    assert [len(layer.latent_weight) for layer in layers] == [8 if name == "lstm" else 6] * 2

"""Recurrent layers, in floats and in integers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnn
from bnn.layers import (
    BatchNorm,
    BinaryGRUCell,
    BinaryLinear,
    BinaryLSTMCell,
    Int8Conv2d,
    Int8Head,
    Sign,
)
from bnn.layers.recurrent_layer import Recurrent
from bnn.lowering.recurrent import GATE_ERROR, GRU_ERROR, LSTM_ERROR
from kernels import OpCode, run_model, write_model
from kernels.build import build_library
from kernels.emulate import emulate
from tests.bnn.integer_twins import assert_twins_agree, images_of, randomise

CELLS = {"lstm": BinaryLSTMCell, "gru": BinaryGRUCell}
SHAPE = (1, 12, 6)
N_HIDDEN = 19


class Row(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


def network(kind: str, *tail: nn.Module, output: str, quantizer: str = "ste_sign") -> nn.Sequential:
    cell = CELLS[kind](10, N_HIDDEN, weight_quantizer=quantizer)
    stem = [Int8Conv2d(6, 10, kernel=(1, 3), padding=(0, 1)), BatchNorm(10), Row(), Sign()]
    net = nn.Sequential(*stem, Recurrent(cell, output=output), *tail)
    randomise(net, 5)
    rng = np.random.default_rng(6)
    with torch.no_grad():
        cell.scale.copy_(torch.from_numpy(rng.uniform(-0.1, 0.5, cell.scale.shape)))
        if kind == "gru":
            cell.hidden_bias.copy_(torch.from_numpy(rng.normal(size=N_HIDDEN)))
        # Bits that vary from image to image, and logits about 0 in the mean.
        pixels = net_pixels(images_of(SHAPE, 200, seed=7))
        sums = net[0](pixels)
        net[1].running_mean.copy_(sums.mean((0, 2, 3)))
        net[1].running_var.copy_(sums.var((0, 2, 3)))
        net[1].bias.zero_()
        if isinstance(tail[-1], Int8Head):
            tail[-1].bias.sub_(net.eval()(pixels).mean(dim=0))
    return net.eval()


@pytest.mark.parametrize("kind", CELLS)
def test_a_recurrent_layer_is_its_cell_step_by_step(kind: str) -> None:
    cell = CELLS[kind](5, 4)
    with torch.no_grad():
        for weights in (cell.input.latent_weight, cell.hidden.latent_weight):
            weights.copy_(torch.from_numpy(np.random.default_rng(1).normal(size=weights.shape)))
    x = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (3, 5, 7)) * 2.0 - 1).float()
    state, states = None, []
    for step in range(7):
        state = cell(x[:, :, step], state)
        states.append(state[0] if kind == "lstm" else state)
    torch.testing.assert_close(Recurrent(cell)(x), states[-1], rtol=0, atol=0)
    torch.testing.assert_close(
        Recurrent(cell, output="all")(x), torch.stack(states, 2), rtol=0, atol=0
    )


def test_a_recurrent_layer_refuses_by_name() -> None:
    with pytest.raises(ValueError, match="cell: expected a BinaryLSTMCell"):
        Recurrent(nn.Identity())
    with pytest.raises(ValueError, match="output: expected one of"):
        Recurrent(BinaryGRUCell(2, 3), output="first")
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 2, L\)"):
        Recurrent(BinaryGRUCell(2, 3))(torch.ones(1, 2, 0))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("quantizer", ["ste_sign", "magnitude_aware"])
def test_states_are_as_near_as_the_bound_says(kind: str, quantizer: str) -> None:
    net = network(kind, nn.Flatten(), BinaryReadout(), output="all", quantizer=quantizer)
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 60)
    assert_twins_agree(integer_net, images[:9])
    number = next(
        number
        for number, output in enumerate(integer_net.outputs)
        if output is not None and integer_net.names[number] == "4"
    )
    integers = integer_net.activations(images)[number][:, 0].transpose(0, 2, 1) * 2.0**-16
    with torch.no_grad():
        floats = net[:5](net_pixels(images)).double().numpy()
    cell = net[4].cell
    theta = cell.sign.shift.detach().numpy()[:, None] if kind == "lstm" else 0.0
    same = ((floats + theta >= 0) == (integers + theta >= 0)).all(axis=(1, 2))
    assert same.mean() > 0.8
    bound = LSTM_ERROR
    if kind == "gru":
        reach = (cell.hidden_scale.abs() * N_HIDDEN + cell.hidden_bias.abs()).max().item()
        bound = GRU_ERROR + GATE_ERROR * reach
    error = np.abs(floats - integers)[same].max(axis=(0, 1))
    assert (error <= bound * np.arange(1, 13)).all(), error
    assert error.max() > 0
    assert floats.std() > 0.1


class BinaryReadout(nn.Sequential):
    """Signs of all states, and a dense layer of them."""

    def __init__(self) -> None:
        super().__init__(Sign(), BinaryLinear(12 * N_HIDDEN, 5))


def net_pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 256


@pytest.mark.parametrize("kind", CELLS)
def test_a_classifier_keeps_its_classes(kind: str) -> None:
    net = network(kind, Int8Head(N_HIDDEN, 5), output="last")
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 400)
    assert_twins_agree(integer_net, images[:20])
    found = bnn.agreement(net, integer_net, images)
    assert found.class_agreement >= 0.99
    with torch.no_grad():
        classes = net(net_pixels(images)).argmax(dim=1)
    assert len(classes.unique()) > 1


@pytest.mark.parametrize("kind", CELLS)
def test_one_step(kind: str) -> None:
    net = network(kind, Int8Head(N_HIDDEN, 5), output="last")
    integer_net = bnn.integerize(net, input_shape=(1, 1, 6))
    images = images_of((1, 1, 6), 20)
    assert_twins_agree(integer_net, images)
    assert bnn.agreement(net, integer_net, images).class_agreement == 1.0


def test_more_steps_than_operations_are_refused() -> None:
    net = network("gru", Int8Head(N_HIDDEN, 5), output="last")
    with pytest.raises(ValueError, match=r"4: expected at most 39 steps, .* got 40"):
        bnn.integerize(net, input_shape=(1, 40, 6))
    assert len(bnn.integerize(net, input_shape=(1, 39, 6)).model.ops) < 1024


def test_parameters_that_are_not_finite_name_the_layer() -> None:
    net = network("lstm", Int8Head(N_HIDDEN, 5), output="last")
    net[4].cell.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="4: expected finite parameters"):
        bnn.integerize(net, input_shape=SHAPE)


def test_weights_of_three_levels_inside_of_a_cell_are_refused() -> None:
    net = network("gru", Int8Head(N_HIDDEN, 5), output="last", quantizer="ste_tern")
    with pytest.raises(ValueError, match="4: expected a quantizer with the levels"):
        bnn.integerize(net, input_shape=SHAPE)


@pytest.mark.arm
def test_gates_give_the_same_integers_on_arm() -> None:
    net = network("lstm", Int8Head(N_HIDDEN, 5), output="last")
    model = bnn.to_model(bnn.integerize(net, input_shape=(1, 3, 6)))
    assert {op.code for op in model.ops} >= {OpCode.SLICE, OpCode.MULTIPLY, OpCode.LOOKUP}
    images = images_of((1, 3, 6), 32)
    run = emulate(build_library("aarch64-linux"), write_model(model), images)
    np.testing.assert_array_equal(run.outputs, run_model(model, images))

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from bnn import BinaryConvNet
from bnn.metrics import (
    FlipRatio,
    Saturation,
    flip_ratio,
    latent_weights,
    saturation,
    sign_balance,
    sign_bits,
)
from kernels import Purpose, normal

NAMES = ["stages.1.conv.latent_weight", "stages.2.conv.latent_weight"]


def draws(row: int, n: int = 1003) -> np.ndarray:
    return normal(3, Purpose.DIAGNOSTICS, n, rows=row)[0]


def share(mask: np.ndarray) -> float:
    return float(Fraction(int(mask.sum()), mask.size))


@pytest.fixture
def net() -> BinaryConvNet:
    return BinaryConvNet((8, 8, 1), 10, widths=(8, 24, 8), seed=2)


def test_sign_bits_and_balance_count_zero_as_plus_one() -> None:
    x = torch.tensor([0.0, -0.0, -1e-30, 1e-30, -5.0])
    assert sign_bits({"x": x})["x"].tolist() == [True, True, False, True, False]
    assert sign_balance({"x": x, "bits": torch.tensor([True, False])}) == {"x": 0.6, "bits": 0.5}


def test_flip_ratio_against_numpy() -> None:
    a, b = draws(0), draws(1)
    a[::7] = 0.0
    expected = share((a >= 0) != (b >= 0))
    assert 0.3 < expected < 0.7
    before = {"w": torch.from_numpy(a).reshape(17, 59), "v": torch.ones(3)}
    after = {"w": torch.from_numpy(b).reshape(17, 59), "v": torch.tensor([0.1, -0.1, 0.0])}
    assert flip_ratio(before, after) == {"w": expected, "v": 1 / 3}
    assert flip_ratio(sign_bits(before), after) == {"w": expected, "v": 1 / 3}


def test_a_module_stands_for_its_latent_weights(net: BinaryConvNet) -> None:
    before = sign_bits(net)
    assert list(before) == NAMES == list(latent_weights(net))
    with torch.no_grad():
        net.stages[1].conv.latent_weight[0].neg_()
        net.stages[2].conv.latent_weight.mul_(3)
        net.stages[0].conv.weight.neg_()
    assert flip_ratio(before, net) == {NAMES[0]: 1 / 24, NAMES[1]: 0.0}
    weight = net.stages[1].conv.latent_weight.detach().numpy()
    assert sign_balance(net)[NAMES[0]] == share(weight >= 0)
    assert saturation(net, 0.02)[NAMES[0]] == share(np.abs(weight) > 0.02)


def test_snapshots_do_not_follow_the_weights() -> None:
    bits = torch.tensor([True, False])
    snapshot = sign_bits({"x": bits})
    bits.logical_not_()
    assert snapshot["x"].tolist() == [True, False]


def test_accumulated_flip_ratio_of_larqs_example_in_signs() -> None:
    metric = FlipRatio()
    assert metric.result() == {}
    states = [[1.0, 1.0], [-1.0, -1.0], [-1.0, 1.0]]
    assert [metric.update({"w": torch.tensor(state)})["w"] for state in states] == [0.0, 1.0, 0.5]
    assert metric.result() == {"w": 0.75}
    assert metric.n_updates == 2


def test_accumulated_flip_ratio_against_numpy_and_over_a_reset(net: BinaryConvNet) -> None:
    metric, weight = FlipRatio(), net.stages[1].conv.latent_weight
    metric.update(net)
    states = [(weight >= 0).numpy()]
    for row in range(6):
        if row == 4:
            assert metric.result()[NAMES[0]] == share(np.diff(np.stack(states), axis=0))
            metric.reset()
        with torch.no_grad():
            weight.copy_(torch.from_numpy(draws(row, weight.numel())).reshape(weight.shape))
        metric.update(net)
        states.append((weight >= 0).numpy())
    # The first update after a reset is compared with the last one before it.
    assert metric.n_updates == 2
    assert metric.result() == {NAMES[0]: share(np.diff(np.stack(states[4:]), axis=0)), NAMES[1]: 0}


def test_saturation_is_strict_unless_inclusive() -> None:
    x = {"w": torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 1.25])}
    assert saturation(x) == {"w": 3 / 8}
    assert saturation(x, inclusive=True) == {"w": 5 / 8}
    assert saturation(x, 1.25) == {"w": 2 / 8}
    assert saturation(x, 1.25, inclusive=True) == {"w": 3 / 8}


def test_saturation_over_batches_is_that_of_all_values() -> None:
    batches = [draws(0, 100), draws(1, 37), draws(2, 1)]
    metric = Saturation(0.8)
    own = [metric.update({"y": torch.from_numpy(batch)})["y"] for batch in batches]
    assert own == [share(np.abs(batch) > 0.8) for batch in batches]
    assert metric.result() == {"y": share(np.abs(np.concatenate(batches)) > 0.8)}
    metric.reset()
    assert metric.result() == {}


def test_watched_pre_activations_are_those_before_the_sign(net: BinaryConvNet) -> None:
    images = torch.from_numpy((np.arange(5 * 64) * 37 % 256).astype(np.uint8)).reshape(5, 8, 8, 1)
    seen: list[np.ndarray] = []
    net.stages[1].register_forward_hook(lambda m, a, y: seen.append(y.detach().numpy()))
    metric = Saturation()
    with metric.watch(net, ["stages.1"]):
        net(images)
        net(images[:2])
    net(images)  # No longer watched.
    flat = np.concatenate([y.ravel() for y in seen[:2]])
    assert metric.result() == {"stages.1": share(np.abs(flat) > 1)}
    assert 0.05 < metric.result()["stages.1"] < 0.95


def test_a_watched_part_that_never_runs_by_itself_is_named(net: BinaryConvNet) -> None:
    with (
        pytest.raises(ValueError, match=r"'stages\.1\.norm' did not; watch its parent"),
        Saturation().watch(net, ["stages.1.norm"]),
    ):
        net(torch.zeros(2, 8, 8, 1, dtype=torch.uint8))


def test_watch_stops_after_an_error(net: BinaryConvNet) -> None:
    metric = Saturation()
    with pytest.raises(
        ValueError, match=r"names: expected one of .*'stages\.0\.norm'.*, got 'norm'"
    ):
        with metric.watch(net, ["norm"]):
            pass
    with pytest.raises(TypeError), metric.watch(net, ["stages.0.norm"]):
        net(torch.zeros(1, 8, 8, 1))
    assert not net.stages[0].norm._forward_hooks


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_balance(nn.Linear(2, 2)), "Linear: expected parameters called latent_weight"),
        (lambda: sign_balance({}), "source: expected a named tensor or more, got none"),
        (lambda: sign_balance({"w": torch.ones(0, 3)}), r"w: .* got shape \(0, 3\)"),
        (lambda: sign_balance({"w": torch.tensor([1.0, torch.nan])}), "w: .*got 1 NaN of 2"),
        (lambda: saturation({"w": torch.tensor([torch.nan])}), "w: .*got 1 NaN of 1"),
        (lambda: saturation({"w": torch.ones(1)}, 0.0), r"clip: expected clip > 0, got 0\.0"),
        (
            lambda: flip_ratio({"a": torch.ones(2)}, {"b": torch.ones(2)}),
            r"expected \{'a': \(2,\)\}, got \{'b': \(2,\)\}",
        ),
        (
            lambda: flip_ratio({"a": torch.ones(2)}, {"a": torch.ones(2, 1)}),
            r"expected \{'a': \(2,\)\}, got \{'a': \(2, 1\)\}",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

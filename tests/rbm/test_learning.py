import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.philox import permutation
from rbm import (
    RBM,
    PCDConfig,
    Trainer,
    fit,
    independent_log_likelihood,
    log_likelihood,
    recommended_epochs,
)
from rbm.learning import reconstruction_error
from rbm.samplers import gibbs
from rbm.states import enumerate_bits

N_SIGMA = 4.0


@pytest.fixture(scope="module")
def split(digit_bits: Tensor) -> tuple[Tensor, Tensor]:
    shuffled = digit_bits[torch.from_numpy(np.random.default_rng(42).permutation(1797))]
    return shuffled[:1400], shuffled[1400:]


def small(**changes) -> PCDConfig:
    return PCDConfig(**{"epochs": 3, "batch_size": 20, "n_chains": 24, "seed": 5, **changes})


@pytest.mark.parametrize("method", ["pcd", "cd"])
@pytest.mark.parametrize("stop", [0, 1, 14, 29])
def test_resumed_training_ends_with_the_same_bytes(split, method: str, stop: int) -> None:
    train = split[0][:205]
    config = small(method=method)
    whole = Trainer(RBM(64, 8), config, len(train))
    infos = [whole.train_step(train) for _ in range(whole.n_steps)]
    first = Trainer(RBM(64, 8), config, len(train))
    for _ in range(stop):
        first.train_step(train)
    tensors, numbers = first.state()
    second = Trainer(RBM(64, 8, seed=99), config, len(train))
    second.load_state(tensors, numbers)
    assert second.step == stop
    rest = [second.train_step(train) for _ in range(whole.n_steps - stop)]
    assert rest == infos[stop:]
    for name, tensor in whole.state()[0].items():
        assert tensor.numpy().tobytes() == second.state()[0][name].numpy().tobytes(), name
    assert whole.state()[1] == second.state()[1]


def test_state_is_a_copy(split) -> None:
    train = split[0][:100]
    trainer = Trainer(RBM(64, 8), small(), 100)
    trainer.train_step(train)
    tensors, numbers = trainer.state()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    trainer.train_step(train)
    assert all(torch.equal(kept[name], tensors[name]) for name in kept)
    assert numbers["step"] == 1


def test_first_update_by_hand(split) -> None:
    """Base rates, data order, chains, centred gradient and rate, written out once more."""
    train = split[0][:60]
    config = small(epochs=1, learning_rate=0.1, weight_decay=0.01)
    trainer = Trainer(RBM(64, 8, seed=2), config, 60)
    trainer.train_step(train)
    machine = RBM(64, 8, seed=2)
    count = train.sum(0).float()
    machine.visible_bias.copy_(torch.log((count + 1) / (61 - count)))
    mu = count / 60
    chains = torch.arange(24)
    independent = machine.independent(machine.visible_bias, 24)
    start = gibbs.initial_visible(independent, seed=5, chains=chains)
    state, info = gibbs.step(machine, gibbs.init(machine, start, seed=5), seed=5)
    v = train[torch.from_numpy(permutation(5, 60, epoch=0)[:20])].float()
    h = machine.p_hidden(v)
    lam = 0.99 * 0.5 + 0.01 * h.mean(0)
    dw = (v - mu).T @ (h - lam) / 20 - (state.visible - mu).T @ (info.p_hidden - lam) / 24
    da = v.mean(0) - state.visible.mean(0) - dw @ lam
    db = h.mean(0) - info.p_hidden.mean(0) - dw.T @ mu
    after = trainer.machine
    assert torch.allclose(after.weights, machine.weights * (1 - 0.1 * 0.01) + 0.1 * dw, atol=1e-6)
    assert torch.allclose(after.visible_bias, machine.visible_bias + 0.1 * da, atol=1e-6)
    assert torch.allclose(after.hidden_bias, 0.1 * db, atol=1e-6)


def test_rate_falls_linearly_and_rows_are_each_epochs_permutation(split) -> None:
    train = split[0][:60]
    trainer = Trainer(RBM(64, 4), small(epochs=2, learning_rate=0.6), 60)
    infos = [trainer.train_step(train) for _ in range(trainer.n_steps)]
    assert [info.learning_rate for info in infos] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert [(info.step, info.epoch) for info in infos] == [
        (0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1),
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="6 updates are done"):
        trainer.train_step(train)


def test_sampled_cd1_has_the_expected_direction(master: RBM) -> None:
    expected = torch.tensor([[0.124144, 0.188717], [-0.249533, -0.408379], [0.191152, 0.167352]])
    n_rows = 100_000
    rows = torch.tensor([[1, 0, 1]], dtype=torch.uint8).expand(n_rows, -1)
    config = PCDConfig(
        method="cd", n_chains=1, epochs=1, batch_size=n_rows, learning_rate=1.0,
        centred=False, base_rate_start=False,
    )  # fmt: skip
    before = master.weights.clone()
    trainer = Trainer(master, config, n_rows)
    trainer.train_step(rows)
    direction = (master.weights - before).float()
    # A product of a bit and a probability has a standard deviation of at most 1/2.
    assert (direction - expected).abs().max() < N_SIGMA * 0.5 / n_rows**0.5


def test_pcd_approaches_the_optimum_of_a_small_problem() -> None:
    """Bars and stripes 2x2: six patterns; at best log 1/6 each."""
    bits = enumerate_bits(4, dtype=torch.uint8)
    rows = [k for k in range(16) if k in (0, 15, 0b0011, 0b1100, 0b0101, 0b1010)]
    train = bits[rows].repeat(20, 1)
    machine = RBM(4, 8, seed=1, weight_std=0.5)
    config = PCDConfig(epochs=1000, batch_size=120, n_chains=200, learning_rate=1.0)
    fit(machine, train, config)
    mean = log_likelihood(machine, train).mean
    assert mean == pytest.approx(-1.791759, abs=0.1)
    assert mean < -1.791759


def test_machine_beats_the_independent_one_on_digits(split) -> None:
    """Shortened from 800 epochs at rate 0.1, which reach about -17.8."""
    train, test = split
    machine = RBM(64, 16)
    config = PCDConfig(epochs=50, batch_size=50, n_chains=100, learning_rate=0.2)
    history = fit(machine, train, config)
    result = log_likelihood(machine, test)
    assert result.method == "exact"
    assert result.mean > independent_log_likelihood(train, test) + 4.5
    assert len(history) == 50
    assert history[-1].pseudo_log_likelihood > history[0].pseudo_log_likelihood
    assert reconstruction_error(machine, test) < 0.12


@pytest.mark.slow
def test_reference_runs_on_digits(split) -> None:
    train, test = split
    result = {}
    for method in ("pcd", "cd"):
        machine = RBM(64, 16)
        config = PCDConfig(
            method=method, epochs=800, batch_size=50, n_chains=100, learning_rate=0.1
        )
        fit(machine, train, config)
        result[method] = log_likelihood(machine, test).mean
    assert result["pcd"] > -18.2
    assert result["pcd"] > independent_log_likelihood(train, test) + 6.0
    assert result["cd"] < result["pcd"] + 0.3


def test_monitors_estimate_what_they_say(random_machine, monkeypatch) -> None:
    """Mean over many draws of the unit equals the exact pseudo-likelihood of the batch."""
    machine = random_machine(6, 4, seed=1).to(torch.float32)
    machine = RBM.from_parameters(machine.weights, machine.visible_bias, machine.hidden_bias)
    rows = (torch.rand(64, 6, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    config = PCDConfig(epochs=400, batch_size=64, learning_rate=1e-30, base_rate_start=False)
    trainer = Trainer(machine, config, 64)
    infos = [trainer.train_step(rows) for _ in range(400)]
    exact = torch.zeros(64)
    for unit in range(6):
        flipped = rows.clone()
        flipped[:, unit] = 1 - flipped[:, unit]
        rise = machine.free_energy(flipped) - machine.free_energy(rows)
        exact += torch.nn.functional.logsigmoid(rise)
    draws = torch.tensor([info.pseudo_log_likelihood for info in infos])
    assert abs(draws.mean() - exact.mean()) < N_SIGMA * draws.std() / 20
    gap = machine.free_energy(trainer.chains.visible).mean() - machine.free_energy(rows).mean()
    assert infos[-1].free_energy_gap == pytest.approx(gap.item(), abs=1e-4)


def test_epochs_follow_from_the_size_of_the_data() -> None:
    assert recommended_epochs(60_000) == 13
    assert recommended_epochs(1_347) == 600
    assert recommended_epochs(10_000_000) == 10
    assert PCDConfig().n_epochs(60_000) == 13
    assert PCDConfig(epochs=3).n_epochs(60_000) == 3
    with pytest.raises(ValueError, match="n_samples"):
        recommended_epochs(0)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_chains": 0}, {"n_steps": 0}, {"batch_size": 0}, {"epochs": 0}, {"learning_rate": 0.0},
        {"weight_decay": -1.0}, {"hidden_offset_rate": 2.0}, {"seed": -1}, {"method": "pt"},
    ],
)  # fmt: skip
def test_bad_configuration_names_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        PCDConfig(**bad)


def test_wrong_state_is_refused_and_changes_nothing(split) -> None:
    train = split[0][:60]
    trainer = Trainer(RBM(64, 4), small(), 60)
    trainer.train_step(train)
    tensors, numbers = trainer.state()
    with pytest.raises(ValueError, match="names"):
        trainer.load_state({}, numbers)
    with pytest.raises(ValueError, match="weights: expected shape"):
        trainer.load_state({**tensors, "weights": torch.zeros(2, 2)}, numbers)
    with pytest.raises(ValueError, match="step"):
        trainer.load_state(tensors, {**numbers, "step": 1000})
    with pytest.raises(ValueError, match="seed"):
        trainer.load_state(tensors, {**numbers, "seed": 6})
    assert torch.equal(trainer.machine.weights, tensors["weights"])
    with pytest.raises(ValueError, match="visible: expected shape"):
        trainer.train_step(train[:50])
    with pytest.raises(ValueError, match="n_samples"):
        Trainer(RBM(64, 4), small(), 0)

import pytest
import torch
from torch import Tensor

from kernels.philox import Purpose, uniform
from rbm import RBM, conditionals
from rbm.conditionals import Bernoulli, bernoulli
from rbm.samplers import GibbsInfo, GibbsState, gibbs
from rbm.states import enumerate_bits, state_numbers

STATIONARY = 1e-12
N_SIGMA = 4.5


def joint(machine: RBM) -> Tensor:
    """p(v, h), shape (2**n_visible, 2**n_hidden)."""
    visible, hidden = enumerate_bits(machine.n_visible), enumerate_bits(machine.n_hidden)
    n_v, n_h = len(visible), len(hidden)
    energy = machine.energy(visible[:, None].expand(n_v, n_h, -1), hidden.expand(n_v, n_h, -1))
    return torch.softmax(-energy.reshape(-1), 0).reshape(n_v, n_h)


def block_probabilities(p_on: Tensor, states: Tensor) -> Tensor:
    """P(block = state) for each row of ``p_on``, shape (n_rows, n_states)."""
    return torch.where(states > 0, p_on[:, None], 1 - p_on[:, None]).prod(2)


def test_kernel_leaves_the_joint_distribution_invariant(random_machine) -> None:
    machine = random_machine(3, 3, seed=4)
    states = enumerate_bits(3)
    to_visible = block_probabilities(machine.p_visible(states), states)  # [h, v]
    to_hidden = block_probabilities(machine.p_hidden(states), states)  # [v, h]
    transition = to_visible[None, :, :, None] * to_hidden[None, None, :, :]
    transition = transition.expand(8, 8, 8, 8).reshape(64, 64)
    pi = joint(machine).reshape(64)
    assert (transition.sum(1) - 1).abs().max() < STATIONARY
    assert (pi @ transition - pi).abs().max() < STATIONARY


def test_sampled_states_follow_the_joint_distribution(random_machine) -> None:
    machine = random_machine(3, 2, seed=5)
    n_chains = 20_000
    state = gibbs.init(machine, torch.zeros(n_chains, 3), seed=1)
    for _ in range(30):
        state, _ = gibbs.step(machine, state, seed=1)
    number = state_numbers(state.visible) * 4 + state_numbers(state.hidden)
    observed = torch.bincount(number, minlength=32) / n_chains
    expected = joint(machine).reshape(-1)
    sigma = (expected * (1 - expected) / n_chains).sqrt()
    assert ((observed - expected).abs() / sigma).max() < N_SIGMA


def test_one_sweep_is_what_the_addressed_uniforms_say(random_machine) -> None:
    machine = random_machine(5, 4, seed=6)
    chains = torch.tensor([3, 17])
    state = gibbs.init(machine, torch.ones(2, 5), seed=8, chains=chains, sweep=40)
    assert state.sweep == 41
    new, info = gibbs.step(machine, state, seed=8)
    u_v = uniform(8, Purpose.GIBBS_VISIBLE, 5, rows=[3, 17], step=41)
    u_h = uniform(8, Purpose.GIBBS_HIDDEN, 4, rows=[3, 17], step=41)
    p_visible = machine.p_visible(state.hidden)
    assert torch.equal(info.p_visible, p_visible)
    assert torch.equal(new.visible, (torch.from_numpy(u_v) < p_visible).double())
    assert torch.equal(info.p_hidden, machine.p_hidden(new.visible))
    assert torch.equal(new.hidden, (torch.from_numpy(u_h) < info.p_hidden).double())
    assert isinstance(new, GibbsState)
    assert isinstance(info, GibbsInfo)


@pytest.mark.parametrize("split", [1, 33, 64])
def test_states_do_not_depend_on_how_chains_are_split(random_machine, split: int) -> None:
    machine = random_machine(9, 6, seed=7)
    n_chains = 70

    def run(chains: Tensor) -> GibbsState:
        start = gibbs.initial_visible(
            machine.independent(torch.full((9,), -0.4), len(chains)), seed=3, chains=chains
        )
        state = gibbs.init(machine, start, seed=3, chains=chains)
        for _ in range(5):
            state, _ = gibbs.step(machine, state, seed=3)
        return state

    whole = run(torch.arange(n_chains))
    parts = [run(torch.arange(split)), run(torch.arange(split, n_chains))]
    assert torch.equal(whole.visible, torch.cat([part.visible for part in parts]))
    assert torch.equal(whole.hidden, torch.cat([part.hidden for part in parts]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_units_are_on_iff_their_uniform_is_below_p(dtype: torch.dtype) -> None:
    """Probabilities at the uniforms, next to them, and anywhere."""
    chains = torch.tensor([4, 0, 900, 901])
    u = torch.from_numpy(uniform(7, Purpose.SWAPS, 300, rows=chains.numpy(), step=2)).double()
    for p in (u, u + 1e-12, u - 1e-12, u + 2.0**-25, 1 - u, torch.full_like(u, torch.nan), 2 * u):
        on = bernoulli(p.to(dtype), 7, Purpose.SWAPS, chains, 2)
        assert torch.equal(on, (u < p.to(dtype).double()).to(dtype))


def test_draws_on_a_device_are_those_of_the_cpu_chain_by_chain() -> None:
    """Other devices draw runs of neighbouring chains; the states are the same."""
    chains = torch.tensor([4, 5, 6, 0, 1, 900, 3, 4])
    p = torch.rand(8, 301, generator=torch.Generator().manual_seed(1))
    stream = (7, Purpose.SWAPS, chains.numpy(), 2, 0)
    assert torch.equal(
        conditionals._draw_on_device(p, *stream), conditionals._draw_on_cpu(p, *stream)
    )
    nothing = torch.empty(0, dtype=torch.int64).numpy()
    assert conditionals._draw_on_device(p[:0], 7, Purpose.SWAPS, nothing, 2, 0).shape == (0, 10)


@pytest.mark.gpu
def test_chains_on_a_gpu_are_those_of_the_cpu(random_machine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    machine = random_machine(70, 40, seed=7).to(torch.float64)
    states = []
    for device in ("cpu", "cuda"):
        there = machine.to(torch.device(device))
        state = gibbs.init(there, torch.zeros(50, 70, device=device), seed=3)
        for _ in range(3):
            state, _ = gibbs.step(there, state, seed=3)
        assert state.hidden.device.type == device
        states.append(state.hidden.cpu())
    # Draws are exact; a float64 product that is summed in another order moves p by 1e-15.
    assert torch.equal(states[0], states[1])


def test_initial_visible_units_are_independent_with_the_given_rates() -> None:
    p_on = torch.tensor([0.0, 0.1, 0.5, 1.0])
    start = gibbs.initial_visible(
        Bernoulli(p_on.expand(10_000, -1)), seed=0, chains=torch.arange(10_000)
    )
    # s.e. of a mean of 10,000 coin flips is at most 0.005.
    assert (start.mean(0) - p_on).abs().max() < 5 * 0.005
    assert not start[:, 0].any()
    assert start[:, 3].all()

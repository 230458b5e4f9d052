import pytest
import torch
from torch import Tensor

from kernels.philox import Purpose, normal
from rbm import RBM, exact_log_partition
from rbm.gradients import gradient
from rbm.states import enumerate_bits

PRINTED = 5e-7  # gradients are known to six printed digits
EXACT = 1e-12  # rounding of sums of a few float64 terms
FINITE_DIFFERENCE = 1e-8  # central differences of step 1e-5 in float64
STEP = 1e-5

V = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


def log_p(machine: RBM, visible: Tensor) -> Tensor:
    return -machine.free_energy(visible) - exact_log_partition(machine)


def model_statistics(machine: RBM) -> tuple[Tensor, Tensor, Tensor]:
    states = enumerate_bits(machine.n_visible)
    p = log_p(machine, states).exp()
    hidden = machine.p_hidden(states)
    return p, states, hidden


def exact_gradient(machine: RBM, visible: Tensor) -> Tensor:
    p, states, hidden = model_statistics(machine)
    return torch.outer(visible, machine.p_hidden(visible)) - (p[:, None] * states).T @ hidden


def test_master_vector(master: RBM) -> None:
    assert exact_log_partition(master) == pytest.approx(3.7812453271189423, abs=EXACT)
    assert master.free_energy(V).item() == pytest.approx(-1.5925366321933931, abs=EXACT)
    assert log_p(master, V).item() == pytest.approx(-2.188708694925549, abs=EXACT)


def test_master_gradient(master: RBM) -> None:
    expected = torch.tensor(
        [[0.125248, 0.188624], [-0.261672, -0.428299], [0.191902, 0.166638]], dtype=torch.float64
    )
    assert (exact_gradient(master, V) - expected).abs().max() < PRINTED


def test_expected_cd1_direction(master: RBM) -> None:
    """Differs from the exact gradient, so the two cannot be mistaken for each other."""
    p_0 = master.p_hidden(V)
    negative = torch.zeros(3, 2, dtype=torch.float64)
    for hidden in enumerate_bits(2):
        weight = torch.where(hidden > 0, p_0, 1 - p_0).prod()
        p_1 = master.p_visible(hidden)
        for visible in enumerate_bits(3):
            p = weight * torch.where(visible > 0, p_1, 1 - p_1).prod()
            negative += p * torch.outer(visible, master.p_hidden(visible))
    expected = torch.tensor(
        [[0.124144, 0.188717], [-0.249533, -0.408379], [0.191152, 0.167352]], dtype=torch.float64
    )
    direction = torch.outer(V, p_0) - negative
    assert (direction - expected).abs().max() < PRINTED


def test_gradient_function_on_exact_statistics_is_the_finite_difference(random_machine) -> None:
    machine = random_machine(3, 2, seed=1)
    p, states, hidden = model_statistics(machine)
    # Rows weighted by 8 p make the mean over the 8 states the model's expectation only for means
    # of v and h, so the test repeats each state in proportion instead: rational probabilities.
    rows = torch.multinomial(
        p, 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    sampled = states[rows]
    zeros = (torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    result = gradient(
        (V[None], machine.p_hidden(V)[None]), (sampled, machine.p_hidden(sampled)), zeros
    )
    # 20,000 draws of products in [0, 1]: s.e. at most 0.5 / sqrt(20000) = 0.0035, five of them.
    assert (result.weights - exact_gradient(machine, V)).abs().max() < 0.018
    del hidden


@pytest.mark.parametrize("name", ["weights", "visible_bias", "hidden_bias"])
def test_exact_gradient_is_the_finite_difference(random_machine, name: str) -> None:
    machine = random_machine(3, 2, seed=2)
    p, states, hidden = model_statistics(machine)
    analytic = {
        "weights": exact_gradient(machine, V),
        "visible_bias": V - p @ states,
        "hidden_bias": machine.p_hidden(V) - p @ hidden,
    }[name]
    parameter = getattr(machine, name)
    for index in range(parameter.numel()):
        cell = parameter.view(-1)
        cell[index] += STEP
        up = log_p(machine, V).item()
        cell[index] -= 2 * STEP
        down = log_p(machine, V).item()
        cell[index] += STEP
        slope = (up - down) / (2 * STEP)
        assert slope == pytest.approx(analytic.view(-1)[index].item(), abs=FINITE_DIFFERENCE)


def test_free_energies_are_sums_over_the_other_layer(random_machine) -> None:
    machine = random_machine(4, 3)
    visible, hidden = enumerate_bits(4), enumerate_bits(3)
    energies = machine.energy(visible[:, None].expand(-1, 8, -1), hidden.expand(16, -1, -1))
    by_hand = -(visible @ machine.visible_bias)[:, None] - hidden @ machine.hidden_bias
    by_hand = by_hand - visible @ machine.weights @ hidden.T
    assert torch.allclose(energies, by_hand, atol=EXACT)
    assert torch.allclose(machine.free_energy(visible), -(-energies).logsumexp(1), atol=EXACT)
    assert torch.allclose(machine.hidden_free_energy(hidden), -(-energies).logsumexp(0), atol=EXACT)


def test_conditionals_are_ratios_of_joint_probabilities(random_machine) -> None:
    machine = random_machine(3, 2)
    hidden = enumerate_bits(2)
    joint = torch.exp(-machine.energy(V.expand(4, -1), hidden))
    assert torch.allclose(machine.p_hidden(V), joint @ hidden / joint.sum(), atol=EXACT)
    states = enumerate_bits(3)
    joint = torch.exp(-machine.energy(states, hidden[1].expand(8, -1)))
    assert torch.allclose(machine.p_visible(hidden[1]), joint @ states / joint.sum(), atol=EXACT)


@pytest.mark.parametrize("unit", [0, 2])
def test_flipping_a_visible_unit_is_a_change_of_gauge(random_machine, unit: int) -> None:
    machine = random_machine(3, 2, seed=3)
    weights, a, b = (
        machine.weights.clone(),
        machine.visible_bias.clone(),
        machine.hidden_bias.clone(),
    )
    b += weights[unit]
    a[unit] *= -1
    weights[unit] *= -1
    flipped = RBM.from_parameters(weights, a, b)
    states = enumerate_bits(3)
    mirrored = states.clone()
    mirrored[:, unit] = 1 - mirrored[:, unit]
    assert torch.allclose(log_p(machine, states), log_p(flipped, mirrored), atol=1e-10)
    difference = exact_log_partition(flipped) - exact_log_partition(machine)
    assert difference == pytest.approx(-machine.visible_bias[unit].item(), abs=1e-10)


def test_large_fields_do_not_overflow() -> None:
    machine = RBM.from_parameters(torch.full((2, 1), 500.0), torch.zeros(2), torch.zeros(1))
    assert machine.free_energy(torch.ones(2)).item() == -1000.0


def test_initial_weights_are_the_addressed_normals() -> None:
    machine = RBM(5, 4, seed=9, weight_std=0.5)
    expected = 0.5 * torch.from_numpy(normal(9, Purpose.INITIAL_WEIGHTS, 20)).reshape(5, 4)
    assert torch.equal(machine.weights, expected)
    assert not machine.visible_bias.any()
    assert not machine.hidden_bias.any()


def test_bad_arguments_are_named(master: RBM) -> None:
    with pytest.raises(ValueError, match="n_hidden"):
        RBM(3, 0)
    with pytest.raises(ValueError, match="weight_std"):
        RBM(3, 2, weight_std=-1.0)
    with pytest.raises(ValueError, match=r"visible: expected last axis 3.*flatten"):
        master.free_energy(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="hidden_bias"):
        RBM.from_parameters(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="visible_bias"):
        RBM.from_parameters(torch.zeros(3, 2), torch.zeros(3).double(), torch.zeros(2))

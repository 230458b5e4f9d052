import math
from functools import reduce

import pytest
import torch
from torch import Tensor

from rbm import BoltzmannMachine, QBMConfig, QuantumBoltzmannMachine
from rbm.quantum import fit_classical, fit_quantum, kl_divergence

EXACT = 1e-12
FINITE_DIFFERENCE = 1e-8

X = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
Z = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # bit 1 is Z = +1
ONE = torch.eye(2, dtype=torch.float64)


def on_site(operators: dict[int, Tensor], n: int) -> Tensor:
    """Kronecker product with site 0 as the least significant bit: the last factor."""
    return reduce(torch.kron, [operators.get(site, ONE) for site in reversed(range(n))])


def random_machine(n: int, seed: int = 0, scale: float = 1.0) -> QuantumBoltzmannMachine:
    g = torch.Generator().manual_seed(seed)
    bias, field = (scale * torch.randn(n, generator=g, dtype=torch.float64) for _ in range(2))
    return QuantumBoltzmannMachine(
        bias, scale * torch.randn(n, n, generator=g, dtype=torch.float64), field
    )


def test_hamiltonian_is_the_sum_of_kronecker_products() -> None:
    machine = random_machine(3)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for i in range(3):
        expected -= machine.transverse_field[i] * on_site({i: X}, 3)
        expected -= machine.bias[i] * on_site({i: Z}, 3)
        for j in range(i + 1, 3):
            expected -= machine.couplings[i, j] * on_site({i: Z, j: Z}, 3)
    assert torch.allclose(machine.hamiltonian(), expected, atol=EXACT)


def test_one_qubit() -> None:
    machine = QuantumBoltzmannMachine(
        torch.tensor([0.7], dtype=torch.float64),
        torch.zeros(1, 1),
        torch.tensor([0.4], dtype=torch.float64),
    )
    density = machine.density_matrix()
    assert (density @ Z).trace().item() == pytest.approx(0.5795548564305587, abs=EXACT)
    assert (density @ X).trace().item() == pytest.approx(0.331174203674605, abs=EXACT)
    assert machine.log_probabilities()[1].exp().item() == pytest.approx(
        0.7897774282152794, abs=EXACT
    )
    r = math.hypot(0.7, 0.4)
    assert machine.log_partition() == pytest.approx(math.log(2 * math.cosh(r)), abs=EXACT)


def test_transverse_ising_ring() -> None:
    n, coupling, field = 6, 0.8, 0.5
    couplings = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        a, b = sorted((i, (i + 1) % n))
        couplings[a, b] = coupling
    machine = QuantumBoltzmannMachine(
        torch.zeros(n), couplings, torch.full((n,), field, dtype=torch.float64)
    )

    def modes(shift: float) -> list[float]:
        angles = [2 * math.pi * (j + shift) / n for j in range(n)]
        squares = [
            coupling**2 + field**2 - 2 * coupling * field * math.cos(angle) for angle in angles
        ]
        return [math.sqrt(square) for square in squares]

    antiperiodic, periodic = modes(0.5), modes(0.0)
    periodic[0] = field - coupling
    closed = math.log(
        0.5
        * (
            math.prod(2 * math.cosh(e) for e in antiperiodic)
            + math.prod(2 * math.sinh(e) for e in antiperiodic)
            + math.prod(2 * math.cosh(e) for e in periodic)
            - math.prod(2 * math.sinh(e) for e in periodic)
        )
    )
    assert closed == pytest.approx(6.480330953984675, abs=EXACT)
    assert machine.log_partition() == pytest.approx(6.480330953984675, abs=EXACT)


def test_without_field_it_is_the_classical_machine() -> None:
    quantum = random_machine(4, seed=1)
    quantum.transverse_field.zero_()
    classical = BoltzmannMachine(quantum.bias, quantum.couplings)
    assert torch.allclose(quantum.log_probabilities(), classical.log_probabilities(), atol=EXACT)
    assert quantum.log_partition() == pytest.approx(classical.log_partition(), abs=EXACT)
    target = torch.softmax(torch.linspace(0, 3, 16, dtype=torch.float64).cos(), 0)
    for mine, theirs in zip(quantum.gradient(target), classical.gradient(target), strict=False):
        assert torch.allclose(mine, theirs, atol=EXACT)


@pytest.mark.parametrize(("name", "cell"), [("bias", (1,)), ("couplings", (0, 2)), ("couplings", (1, 2)), ("transverse_field", (0,)), ("transverse_field", (2,))])  # fmt: skip
def test_gradient_is_the_finite_difference(name: str, cell: tuple[int, ...]) -> None:
    machine = random_machine(3, seed=2, scale=0.7)
    target = torch.softmax(torch.linspace(0, 5, 8, dtype=torch.float64).sin(), 0)
    position = ["bias", "couplings", "transverse_field"].index(name)
    slope = machine.gradient(target)[position][cell].item()
    parameter, values = getattr(machine, name), []
    for shift in (1e-5, -2e-5):
        parameter[cell] += shift
        values.append((target @ machine.log_probabilities()).item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, abs=FINITE_DIFFERENCE)


def test_gradient_of_degenerate_levels_is_finite() -> None:
    machine = QuantumBoltzmannMachine(torch.zeros(3), torch.zeros(3, 3), torch.ones(3))
    target = torch.full((8,), 0.125, dtype=torch.float64)
    for slope in machine.gradient(target):
        assert torch.allclose(slope, torch.zeros_like(slope), atol=EXACT)


def test_density_matrix_has_unit_trace_and_probabilities_on_its_diagonal() -> None:
    machine = random_machine(4, seed=3)
    assert machine.density_matrix().trace().item() == pytest.approx(1.0, abs=EXACT)
    expected = torch.matrix_exp(-machine.hamiltonian()).diagonal()
    assert torch.allclose(machine.log_probabilities().exp(), expected / expected.sum(), atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_quantum_machine_is_closer_to_the_mixture(seed: int) -> None:
    config = QBMConfig(seed=seed, n_qubits=5, n_steps=250, n_classical_steps=500)
    quantum, classical = fit_quantum(config), fit_classical(config)
    assert quantum.kl <= classical.kl
    assert quantum.kl < quantum.kl_curve[0]
    assert quantum.kl == kl_divergence(config.target(), quantum.machine.log_probabilities())


def test_training_reports_and_repeats_to_the_byte() -> None:
    config = QBMConfig(n_qubits=3, n_steps=20)
    seen: list[tuple[int, int, float]] = []
    first = fit_quantum(config, on_step=lambda step, n, kl: seen.append((step, n, kl)))
    second = fit_quantum(config)
    assert [entry[:2] for entry in seen] == [(step, 20) for step in range(20)]
    assert tuple(entry[2] for entry in seen) == first.kl_curve == second.kl_curve
    for a, b in zip(first.machine.parameters(), second.machine.parameters(), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize(
    "bad",
    [
        {"n_qubits": 13}, {"n_centres": 0}, {"p_agree": 1.0}, {"n_steps": 0},
        {"n_classical_steps": 0}, {"learning_rate": 0.0}, {"initial_transverse_field": -1.0},
        {"seed": -1},
    ],
)  # fmt: skip
def test_bad_configuration_names_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        QBMConfig(**bad)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="couplings"):
        QuantumBoltzmannMachine(torch.zeros(3), torch.zeros(2, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="transverse_field"):
        QuantumBoltzmannMachine(torch.zeros(3), torch.zeros(3, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="12 qubits"):
        QuantumBoltzmannMachine(torch.zeros(13), torch.zeros(13, 13), torch.zeros(13))

import pytest
import torch
from torch import Tensor

from kernels.philox import Purpose, random_words
from rbm.samplers import clamped
from rbm.states import enumerate_bits, state_numbers
from rbm.tasks import (
    bernoulli_mixture,
    complete,
    digits_4x4,
    filters,
    sample,
    upper_half_known,
    wrong_pixels,
)

EXACT = 1e-12


def exact_conditional(machine, known_values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """States of all units with the known ones fixed, and their conditional probabilities."""
    free = enumerate_bits(int((~known).sum()))
    states = known_values.double().repeat(len(free), 1)
    states[:, ~known] = free
    return states, torch.softmax(-machine.free_energy(states), 0)


def test_clamped_chains_follow_the_exact_conditional(random_machine) -> None:
    machine = random_machine(8, 5, seed=11)
    known = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    values = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0])
    n_chains = 20_000
    state = clamped.init(
        machine,
        values.expand(n_chains, -1),
        known,
        independent=machine.independent(torch.zeros(8), n_chains),
        seed=3,
    )
    for _ in range(40):
        state, _ = clamped.step(machine, state, seed=3)
    visible = state.gibbs.visible
    assert torch.equal(visible[:, known], values[known].double().expand(n_chains, -1))
    observed = torch.bincount(state_numbers(visible[:, ~known]), minlength=16) / n_chains
    exact = exact_conditional(machine, values, known)[1]
    # E |observed - p| <= sqrt(p / n) in each cell, so E TV <= sqrt(16 / n) / 2 = 0.0141; it
    # exceeds its mean by 0.01 with probability at most exp(-2 n 0.01^2) = 0.018.
    assert 0.5 * (observed - exact).abs().sum() < 0.0141 + 0.01


def test_completion_is_the_exact_posterior_mean(random_machine) -> None:
    machine = random_machine(8, 5, seed=12, scale=0.8)
    known = torch.tensor([1, 1, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
    images = enumerate_bits(8)[[3, 90, 201]]
    start = torch.zeros(8, dtype=torch.float64)
    result = complete(machine, images, known, base_bias=start, n_steps=1000, seed=1)
    for image, mean in zip(images, result.p_visible, strict=True):
        states, p = exact_conditional(machine, image, known)
        # 1,000 conditionals in [0, 1] with an autocorrelation time below 10 sweeps.
        assert (mean - p @ states).abs().max() < 4.5 * 0.5 * (10 / 1000) ** 0.5
        assert torch.equal(mean[known], image[known])
    assert torch.equal(result.visible, (result.p_visible >= 0.5).double())
    again = complete(machine, images, known, base_bias=start, n_steps=1000, seed=1)
    assert torch.equal(result.p_visible, again.p_visible)
    alone = complete(machine, images[:1], known, base_bias=start, n_steps=1000, seed=1)
    assert torch.allclose(result.p_visible[:1], alone.p_visible, atol=EXACT)


def test_burn_in_is_left_out_of_the_mean(random_machine) -> None:
    machine = random_machine(6, 4)
    known = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
    start = torch.zeros(6, dtype=torch.float64)
    image = torch.tensor([[1, 0, 1, 0, 0, 0]])
    state = clamped.init(machine, image, known, independent=machine.independent(start, 1), seed=4)
    drawn_from = []
    for _ in range(5):
        state, info = clamped.step(machine, state, seed=4)
        drawn_from.append(info.p_visible)
    result = complete(machine, image, known, base_bias=start, n_steps=3, n_burn_in=2, seed=4)
    mean = torch.stack(drawn_from[2:]).mean(0)
    assert torch.allclose(result.p_visible[:, ~known], mean[:, ~known], atol=EXACT)


def test_unknown_pixels_are_not_read(random_machine) -> None:
    machine = random_machine(6, 4)
    known = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
    start = torch.zeros(6, dtype=torch.float64)
    image = torch.tensor([[1, 0, 1, 0, 0, 0]])
    other = torch.tensor([[1, 0, 1, 1, 1, 1]])
    first = complete(machine, image, known, base_bias=start, n_steps=5, n_burn_in=2)
    second = complete(machine, other, known, base_bias=start, n_steps=5, n_burn_in=2)
    assert torch.equal(first.p_visible, second.p_visible)


def test_wrong_pixels_counts_unknown_ones_only() -> None:
    truth = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]], dtype=torch.uint8)
    completed = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    known = torch.tensor([True, True, False, False])
    assert wrong_pixels(completed, truth, known) == 0.5
    assert wrong_pixels(truth.float(), truth, known) == 0.0
    with pytest.raises(ValueError, match="unknown pixel"):
        wrong_pixels(completed, truth, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="completed"):
        wrong_pixels(completed[:1], truth, known)


def test_upper_half() -> None:
    assert upper_half_known(4, 2).tolist() == [True] * 4 + [False] * 4
    assert upper_half_known(5, 1).tolist() == [True] * 2 + [False] * 3


def test_completion_arguments_are_named(random_machine) -> None:
    machine, known = random_machine(4, 3), torch.ones(4, dtype=torch.bool)
    start = torch.zeros(4)
    rows = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="visible"):
        complete(machine, torch.zeros(2, 5), known, base_bias=start)
    with pytest.raises(ValueError, match="known: expected bool"):
        complete(machine, rows, known.int(), base_bias=start)
    with pytest.raises(ValueError, match="base_bias"):
        complete(machine, rows, known, base_bias=start[:2])
    with pytest.raises(ValueError, match="n_steps"):
        complete(machine, rows, known, base_bias=start, n_steps=0)


def test_bernoulli_mixture_by_hand() -> None:
    words = random_words(4, Purpose.DIAGNOSTICS, 3, rows=[0, 1])
    centres = (words >> 31).astype(int)
    p = bernoulli_mixture(3, 2, 0.8, seed=4)
    for state in range(8):
        expected = 0.0
        for centre in centres:
            distance = sum((state >> i & 1) != centre[i] for i in range(3))
            expected += 0.5 * 0.8 ** (3 - distance) * 0.2**distance
        assert p[state].item() == pytest.approx(expected, abs=EXACT)
    assert p.sum().item() == pytest.approx(1.0, abs=EXACT)
    assert not torch.equal(p, bernoulli_mixture(3, 2, 0.8, seed=5))


def test_digits_4x4(digit_pixels: Tensor) -> None:
    bits = digits_4x4(digit_pixels)
    assert bits.shape == (1797, 16)
    assert len(torch.unique(bits, dim=0)) == 235
    image = digit_pixels[7].reshape(8, 8)
    by_hand = [
        int(image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() > 8)
        for r in range(4)
        for c in range(4)
    ]
    assert bits[7].tolist() == by_hand
    assert torch.equal(digits_4x4(digit_pixels.reshape(-1, 8, 8)), bits)
    with pytest.raises(ValueError, match="64 pixels"):
        digits_4x4(torch.zeros(2, 10))


def test_samples_have_the_machines_means(random_machine) -> None:
    machine = random_machine(6, 4, seed=13, scale=0.7)
    visible, p_visible = sample(machine, torch.zeros(10_000, 6), n_steps=50, seed=2)
    states = enumerate_bits(6)
    exact = torch.softmax(-machine.free_energy(states), 0) @ states
    # s.e. of a mean of 10,000 bits is at most 0.005.
    assert (visible.mean(0) - exact).abs().max() < 4.5 * 0.005
    assert (p_visible.mean(0) - exact).abs().max() < 4.5 * 0.005
    with pytest.raises(ValueError, match="n_steps"):
        sample(machine, torch.zeros(1, 6), n_steps=0)


def test_filters_are_columns_of_the_weights_by_norm(random_machine) -> None:
    machine = random_machine(6, 3)
    machine.weights[:, 1] *= 100.0
    result = filters(machine, 2, 3, n_filters=2)
    assert result.shape == (2, 2, 3)
    assert torch.equal(result[0], machine.weights[:, 1].reshape(2, 3))
    assert filters(machine, 3, 2).shape == (3, 3, 2)
    with pytest.raises(ValueError, match="n_visible"):
        filters(machine, 4, 4)

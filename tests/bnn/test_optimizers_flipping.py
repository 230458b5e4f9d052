import copy
import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bnn.optimizers import OPTIMIZERS, Bop, Bop2ndOrder, FlipOptimizer
from bnn.quantizers import ste_sign
from kernels import Purpose, random_words, uniform

# float32 moments against float64 ones: a rounding per step, relative to values of order 1.
TOLERANCE = 1e-5
N_STEPS = 60


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def gradients(n_steps: int, n: int) -> np.ndarray:
    """Drifting signs and magnitudes over three decades, shape (n_steps, n), float32."""
    noise = uniform(7, Purpose.DIAGNOSTICS, n, rows=np.arange(n_steps)) - 0.5
    drift = np.sin(0.15 * np.arange(n_steps)[:, None] + np.arange(n))
    return ((noise + drift) * 10.0 ** (np.arange(n) % 4 - 3)).astype(np.float32)


def run(optimizer: FlipOptimizer, parameter: nn.Parameter, sequence: np.ndarray) -> list[list]:
    signs = []
    for gradient in sequence:
        parameter.grad = torch.from_numpy(gradient).to(parameter.dtype)
        optimizer.step()
        signs.append(parameter.tolist())
    return signs


def test_bop_follows_the_hand_computed_moving_average() -> None:
    # m_n = 1 - 0.9^n: 0.1, 0.19, 0.271 > 0.25. A weight that disagrees with m never flips.
    w = weight(1.0, -1.0)
    bop = Bop([w], gamma=0.1, tau=0.25)
    moments = []
    for _ in range(3):
        w.grad = torch.ones(2)
        assert w.tolist() == [1.0, -1.0]
        bop.step()
        moments.append(bop.state[w]["first_moment"].tolist()[0])
    assert moments == pytest.approx([0.1, 0.19, 0.271], rel=1e-6)
    assert w.tolist() == [-1.0, -1.0]
    assert run(bop, w, np.ones((50, 2), dtype=np.float32))[-1] == [-1.0, -1.0]


def test_bop_flips_back_when_the_gradient_turns() -> None:
    # m: 0.5, 0.75, then 0.75/2 - 0.5 = -0.125, -0.5625: against w = -1 from the fourth step on.
    w = weight(1.0)
    sequence = np.array([[1.0], [1.0], [-1.0], [-1.0], [-1.0]], dtype=np.float32)
    assert run(Bop([w], gamma=0.5, tau=0.5), w, sequence) == [[1.0], [-1.0], [-1.0], [1.0], [1.0]]


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_bop_does_not_flip_at_equality(side: float) -> None:
    # gamma g = 0.25 exactly; the next float above it flips, whatever the sign of the weight.
    w = weight(side, side)
    at = 0.5 * side
    above = math.copysign(float(np.nextafter(np.float32(0.5), np.float32(1))), side)
    w.grad = torch.tensor([at, above])
    Bop([w], gamma=0.5, tau=0.25).step()
    assert w.tolist() == [side, -side]


def test_default_tau_is_compared_exactly() -> None:
    tau = np.float32(1e-8)
    w = weight(1.0, 1.0)
    w.grad = torch.tensor([tau, np.nextafter(tau, np.float32(1))])
    Bop([w], gamma=1.0).step()
    assert w.tolist() == [1.0, -1.0]


def test_bop_defaults() -> None:
    group = Bop([weight(1.0)]).param_groups[0]
    assert (group["gamma"], group["tau"], group["lr"]) == (1e-4, 1e-8, 1.0)


def test_tau_is_on_the_scale_of_the_gradient() -> None:
    # A loss summed over 64 images instead of averaged: the same flips with 64 times the tau.
    sequence = gradients(N_STEPS, 12)
    outcomes = []
    for factor, tau in [(1, 1e-3), (64, 64e-3), (64, 1e-3)]:
        w = nn.Parameter(torch.ones(12))
        outcomes.append(run(Bop([w], gamma=0.05, tau=tau), w, sequence * np.float32(factor)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_factor_on_the_loss_cancels_in_the_second_order(unbiased: bool) -> None:
    sequence, outcomes = gradients(N_STEPS, 12), []
    for factor in (1, 64):
        w = nn.Parameter(torch.ones(12))
        optimizer = Bop2ndOrder([w], 0.05, 0.1, 0.2, unbiased=unbiased, eps=0.0)
        outcomes.append(run(optimizer, w, sequence * np.float32(factor)))
    assert outcomes[0] == outcomes[1]
    assert np.ptp(outcomes[0]) == 2


def twin(sequence: np.ndarray, rates: list[float], sigma: float, tau: float, unbiased: bool):
    """Bop2ndOrder in float64 numpy, the correction by the product of all decays so far."""
    m, v, w = np.zeros(sequence.shape[1]), np.zeros(sequence.shape[1]), np.ones(sequence.shape[1])
    signs, margin = [], np.inf
    for t, g in enumerate(sequence.astype(np.float64)):
        m = (1 - rates[t]) * m + rates[t] * g
        v = (1 - sigma) * v + sigma * g**2
        c_m = 1 - np.prod(1 - np.array(rates[: t + 1])) if unbiased else 1.0
        c_v = 1 - (1 - sigma) ** (t + 1) if unbiased else 1.0
        s = (m / c_m) / (np.sqrt(v / c_v) + 1e-10)
        w = np.where(w * s > tau, -w, w)
        margin = min(margin, np.abs(np.abs(s) - tau).min())
        signs.append(w.tolist())
    return signs, margin


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("gamma", "sigma", "tau"), [(0.05, 0.1, 0.2), (0.2, 0.02, 0.3)])
def test_second_order_equals_its_numpy_twin(gamma, sigma, tau, unbiased) -> None:
    sequence = gradients(N_STEPS, 40)
    expected, margin = twin(sequence, [gamma] * N_STEPS, sigma, tau, unbiased)
    assert margin > TOLERANCE, "a signal too near tau decides nothing"
    w = nn.Parameter(torch.ones(40))
    optimizer = Bop2ndOrder([w], gamma, sigma, tau, unbiased=unbiased)
    assert run(optimizer, w, sequence) == expected
    assert 40 < np.abs(np.diff(np.array(expected), axis=0)).sum() / 2 < 40 * N_STEPS / 2


def test_unbiased_correction_follows_a_scheduled_gamma() -> None:
    rates = [0.3 * 0.97**t for t in range(N_STEPS)]
    sequence = gradients(N_STEPS, 24)
    expected, margin = twin(sequence, rates, 0.05, 0.25, True)
    assert margin > TOLERANCE
    w = nn.Parameter(torch.ones(24))
    optimizer = Bop2ndOrder([w], 0.3, 0.05, 0.25, unbiased=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    signs = []
    for gradient in sequence:
        signs += run(optimizer, w, gradient[None])
        schedule.step()
    assert signs == expected


def test_first_signal_biased_and_unbiased() -> None:
    # g = -2: biased -gamma |g| / (sqrt(sigma) |g|) = -0.01 / 0.1, unbiased -1, whatever the rates.
    for unbiased, expected in [(False, -0.1), (True, -1.0)]:
        w = weight(1.0)
        optimizer = Bop2ndOrder([w], gamma=1e-2, sigma=1e-2, unbiased=unbiased)
        s = optimizer.signal(torch.tensor([-2.0]), {}, optimizer.param_groups[0])
        assert s.tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_zero_gradient_flips_nothing(name: str) -> None:
    w = weight(1.0, -1.0)
    optimizer = OPTIMIZERS[name]([w])
    optimizer.param_groups[0].update(tau=0.0, eps=0.0)
    assert run(optimizer, w, np.zeros((3, 2), dtype=np.float32))[-1] == [1.0, -1.0]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_latent_weights_become_their_signs(name: str) -> None:
    w = weight(0.03, -0.0, 0.0, -0.7, 5.0)
    optimizer = OPTIMIZERS[name]([w])
    assert run(optimizer, w, np.zeros((1, 5), dtype=np.float32)) == [[1.0, 1.0, 1.0, -1.0, 1.0]]
    # Magnitudes do not count, nor does w m: a small weight flips like a large one.
    w = weight(0.03, -0.03)
    w.grad = torch.tensor([1.0, 1.0])
    OPTIMIZERS[name]([w]).step()
    assert w.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_resumed_from_a_state_dict_it_gives_equal_bytes(name: str) -> None:
    sequence = gradients(N_STEPS, 30)

    def build() -> tuple[FlipOptimizer, nn.Parameter, torch.optim.lr_scheduler.LRScheduler]:
        w = nn.Parameter(torch.ones(30))
        optimizer = OPTIMIZERS[name]([("conv.latent_weight", w)])
        optimizer.param_groups[0].update(gamma=0.1, tau=0.001)
        return optimizer, w, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)

    def go(optimizer, w, schedule, part) -> None:
        for gradient in part:
            run(optimizer, w, gradient[None])
            schedule.step()

    whole, first, second = build(), build(), build()
    go(*whole, sequence)
    go(*first, sequence[:25])
    file = io.BytesIO()
    torch.save([first[0].state_dict(), first[1].data, first[2].state_dict()], file)
    file.seek(0)
    state, w, schedule = torch.load(file, weights_only=True)
    with torch.no_grad():
        second[1].copy_(w)
    second[2].load_state_dict(schedule)
    second[0].load_state_dict(state)
    go(*second, sequence[25:])
    assert torch.equal(second[1], whole[1])
    assert whole[1].unique().numel() == 2
    own, other = second[0].state_dict()["state"][0], whole[0].state_dict()["state"][0]
    assert own.keys() == other.keys()
    assert own["first_moment"].numpy().tobytes() == other["first_moment"].numpy().tobytes()
    assert all(torch.equal(torch.as_tensor(own[k]), torch.as_tensor(other[k])) for k in own)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_groups_have_their_own_options(name: str) -> None:
    frozen, free = weight(1.0), weight(1.0)
    optimizer = OPTIMIZERS[name]([{"params": [frozen], "tau": 1e9}, {"params": [free]}])
    for w in (frozen, free):
        w.grad = torch.ones(1)
    optimizer.step()
    assert (frozen.tolist(), free.tolist()) == ([1.0], [-1.0])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_float64_closure_copies_and_absent_gradients(name: str) -> None:
    w, untouched = nn.Parameter(torch.tensor([0.5], dtype=torch.float64)), weight(0.5)
    optimizer = OPTIMIZERS[name]([w, untouched])

    def closure() -> float:
        optimizer.zero_grad()
        loss = (3 * w).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 1.5
    assert (w.tolist(), untouched.tolist()) == ([-1.0], [0.5])
    assert (
        copy.deepcopy(optimizer).state_dict()["param_groups"]
        == optimizer.state_dict()["param_groups"]
    )


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_gradient_that_is_not_finite_changes_nothing(name: str) -> None:
    good, bad = weight(1.0), weight(1.0)
    optimizer = OPTIMIZERS[name]([("a", good), ("b.latent_weight", bad)])
    good.grad, bad.grad = torch.ones(1), torch.tensor([float("nan")])
    with pytest.raises(RuntimeError, match=r"b\.latent_weight: expected a finite gradient"):
        optimizer.step()
    assert (good.tolist(), dict(optimizer.state)) == ([1.0], {})
    bad.grad = torch.sparse_coo_tensor([[0]], [1.0], (1,), check_invariants=True)
    with pytest.raises(RuntimeError, match=r"b\.latent_weight: expected a dense gradient"):
        optimizer.step()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda w: Bop([w], gamma=0.0), r"gamma: expected 0 < gamma <= 1, got 0\.0"),
        (lambda w: Bop([w], gamma=1.5), "gamma: expected 0 < gamma <= 1"),
        (lambda w: Bop([w], tau=-1e-8), "tau: expected 0 <= tau < inf"),
        (lambda w: Bop([w], tau=math.nan), "tau: expected 0 <= tau < inf, got nan"),
        (lambda w: Bop2ndOrder([w], sigma=0.0), "sigma: expected 0 < sigma <= 1"),
        (lambda w: Bop2ndOrder([w], eps=-1.0), "eps: expected 0 <= eps < inf"),
        (lambda w: Bop([{"params": [w], "gamma": 2.0}]), "gamma: expected 0 < gamma <= 1"),
    ],
)
def test_impossible_options_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(weight(1.0))


def test_short_floats_and_a_schedule_out_of_range_are_refused() -> None:
    w = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(
        TypeError, match=r"latent: expected float32 or float64, got torch\.bfloat16"
    ):
        Bop([("latent", w)])
    w = weight(1.0)
    bop = Bop([w], gamma=0.5)
    with pytest.raises(TypeError, match="parameter 0: expected float32"):
        bop.add_param_group({"params": [nn.Parameter(torch.ones(2).half())]})
    assert len(bop.param_groups) == 1
    bop.param_groups[0]["lr"] = 2.5
    with pytest.raises(ValueError, match=r"gamma \* lr: expected 0 to 1, got 0\.5 \* 2\.5"):
        bop.step()


# Moving averages over about the 100 steps of the run; ten of ten seeds succeed with "bop".
TRAIN = {
    "bop": partial(Bop, gamma=1e-2, tau=1e-2),
    "bop_2nd_order": partial(Bop2ndOrder, gamma=1e-2, sigma=1e-2, tau=0.3),
    "bop_2nd_order_unbiased": partial(Bop2ndOrder, gamma=1e-2, sigma=1e-2, tau=0.3, unbiased=True),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_learns_a_teacher_of_binary_weights_without_error(name: str) -> None:
    n_inputs, n_samples = 127, 60

    def signs(n_rows: int, index: int) -> torch.Tensor:
        words = random_words(5, Purpose.DIAGNOSTICS, n_inputs, rows=np.arange(n_rows), index=index)
        return torch.from_numpy(2.0 * (words & 1) - 1).float()

    x, teacher, w = signs(n_samples, 0), signs(1, 1)[0], nn.Parameter(signs(1, 2)[0])
    targets = ste_sign(x @ teacher)
    optimizer = TRAIN[name]([w])
    start = int((ste_sign(x @ w) != targets).sum())
    for _ in range(100):
        optimizer.zero_grad()
        margin = targets * (x @ ste_sign(w))
        torch.relu(4 - margin).mean().backward()
        optimizer.step()
    assert start > n_samples // 3
    assert int((ste_sign(x @ w) != targets).sum()) == 0

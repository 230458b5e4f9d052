import copy
from functools import partial

import pytest
import torch
from torch import nn

from bnn import BinaryConvNet
from bnn.metrics import latent_weights
from bnn.optimizers import Bop, CaseOptimizer, clip_after_step, clip_weights, is_latent_weight

ADAM = partial(torch.optim.Adam, lr=0.01)


class Mixed(nn.Module):
    """A binary weight, a real scale and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_weight = nn.Parameter(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0]))
        self.bias = nn.Parameter(torch.zeros(2))


def mixed(gamma: float = 0.5) -> tuple[Mixed, CaseOptimizer]:
    net = Mixed()
    bop = partial(Bop, gamma=gamma)
    return net, CaseOptimizer(net.named_parameters(), [(is_latent_weight, bop)], ADAM)


def set_gradients(net: nn.Module, step: int) -> None:
    for number, parameter in enumerate(net.parameters()):
        values = torch.arange(1.0, parameter.numel() + 1).reshape(parameter.shape)
        parameter.grad = torch.sin(values * (step + 1) + number)


def test_each_parameter_is_moved_by_its_own_optimizer_alone() -> None:
    net, optimizer = mixed()
    alone, other = Mixed(), Mixed()
    bop, adam = Bop([alone.latent_weight], gamma=0.5), ADAM([other.scale, other.bias])
    for step in range(6):
        for each in (net, alone, other):
            set_gradients(each, step)
        for each in (optimizer, bop, adam):
            each.step()
    assert torch.equal(net.latent_weight, alone.latent_weight)
    assert not torch.equal(net.latent_weight, other.latent_weight)
    assert torch.equal(net.scale, other.scale)
    assert torch.equal(net.bias, other.bias)
    assert not torch.equal(net.bias, alone.bias)


def test_groups_and_inner_optimizers() -> None:
    _, optimizer = mixed()
    assert [type(inner) for inner in optimizer.optimizers] == [Bop, torch.optim.Adam]
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["latent_weight"],
        ["scale", "bias"],
    ]


def test_two_cases_and_a_default_keep_their_order() -> None:
    cases = [
        (is_latent_weight, Bop),
        (lambda name, _: name == "bias", partial(torch.optim.SGD, lr=1.0)),
    ]
    net = Mixed()
    optimizer = CaseOptimizer(net.named_parameters(), cases, ADAM)
    assert [type(inner) for inner in optimizer.optimizers] == [
        Bop,
        torch.optim.SGD,
        torch.optim.Adam,
    ]
    names = [group["param_names"] for group in optimizer.param_groups]
    assert names == [["latent_weight"], ["bias"], ["scale"]]
    net.bias.grad = torch.tensor([0.25, -3.0])
    optimizer.step()
    assert net.bias.tolist() == [-0.25, 3.0]


def test_a_default_without_parameters_is_left_out() -> None:
    net = Mixed()
    parameters = [("latent_weight", net.latent_weight)]
    optimizer = CaseOptimizer(parameters, [(is_latent_weight, Bop)], ADAM)
    assert [type(inner) for inner in optimizer.optimizers] == [Bop]


def test_latent_weights_of_a_network_are_found() -> None:
    net = BinaryConvNet((8, 8, 1), 10, widths=(8, 8, 8))
    names = [name for name, p in net.named_parameters() if is_latent_weight(name, p)]
    assert names == ["stages.1.conv.latent_weight", "stages.2.conv.latent_weight"]
    assert is_latent_weight("cell.latent_weight_hh", nn.Parameter(torch.ones(1)))
    assert not is_latent_weight("latent_weight.scale", nn.Parameter(torch.ones(1)))


def always(name: str, parameter: nn.Parameter) -> bool:
    return True


def never(name: str, parameter: nn.Parameter) -> bool:
    return False


@pytest.mark.parametrize(
    ("cases", "default", "message"),
    [
        ([(always, ADAM), (is_latent_weight, Bop)], ADAM, r"latent_weight: .*got cases \[0, 1\]"),
        ([(is_latent_weight, Bop)], None, "scale: expected a matching case, got none"),
        ([(is_latent_weight, Bop), (never, ADAM)], ADAM, "for case 1, got none of .*'bias'"),
    ],
)
def test_an_assignment_that_is_not_unique_names_the_parameter(cases, default, message) -> None:
    with pytest.raises(ValueError, match=message):
        CaseOptimizer(Mixed().named_parameters(), cases, default)


def test_a_parameter_under_two_names_and_a_late_group_are_refused() -> None:
    net, optimizer = mixed()
    twice = [("a", net.bias), ("b", net.bias)]
    with pytest.raises(ValueError, match="b: expected each parameter once, got it as a"):
        CaseOptimizer(twice, [(always, ADAM)])
    with pytest.raises(RuntimeError, match="add_param_group: expected all parameters"):
        optimizer.add_param_group({"params": [("late", nn.Parameter(torch.ones(1)))]})


def test_a_schedule_moves_gamma_and_the_learning_rate_alike() -> None:
    net, optimizer = mixed(gamma=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    net.latent_weight.grad = torch.ones(2, 2)
    optimizer.step()
    schedule.step()
    optimizer.step()
    # m = 0.5, then 0.5 + 0.25 (1 - 0.5): the second gamma is half the first.
    moment = optimizer.optimizers[0].state[net.latent_weight]["first_moment"]
    assert moment.tolist() == [[0.625, 0.625], [0.625, 0.625]]
    assert optimizer.optimizers[1].param_groups[0]["lr"] == 0.005


def run(net: nn.Module, optimizer: CaseOptimizer, steps: range) -> None:
    for step in steps:
        set_gradients(net, step)
        optimizer.step()


def test_resumed_from_a_state_dict_it_gives_equal_bytes() -> None:
    (whole, a), (first, b), (second, c) = mixed(0.2), mixed(0.2), mixed(0.2)
    run(whole, a, range(12))
    run(first, b, range(5))
    second.load_state_dict(first.state_dict())
    c.load_state_dict(copy.deepcopy(b.state_dict()))
    run(second, c, range(5, 12))
    for own, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert own.detach().numpy().tobytes() == other.detach().numpy().tobytes()
    for own, other in zip(c.state.values(), a.state.values(), strict=True):
        assert all(torch.equal(own[key], other[key]) for key in other)
    assert len(c.state_dict()["state"]) == 3


def test_a_copy_continues_alone() -> None:
    net, optimizer = mixed(0.2)
    run(net, optimizer, range(4))
    twin_net, twin = copy.deepcopy((net, optimizer))
    run(twin_net, twin, range(4, 9))
    assert not torch.equal(twin_net.bias, net.bias)
    run(net, optimizer, range(4, 9))
    assert torch.equal(twin_net.bias, net.bias)
    assert torch.equal(twin_net.latent_weight, net.latent_weight)


def test_a_state_of_other_parameters_is_refused() -> None:
    _, optimizer = mixed()
    net = Mixed()
    cases = [(lambda name, _: name == "bias", ADAM)]
    other = CaseOptimizer(net.named_parameters(), cases, ADAM)
    with pytest.raises(ValueError, match=r"expected groups of parameters \[\['latent_weight'\]"):
        optimizer.load_state_dict(other.state_dict())


def test_closure_and_zero_grad() -> None:
    net, optimizer = mixed()

    def closure() -> float:
        optimizer.zero_grad()
        loss = (net.latent_weight * net.scale).sum() + net.bias.sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 0.5 - 2.0 + 0.5 + 2.0
    assert net.latent_weight.tolist() == [[-1.0, -1.0], [-1.0, -1.0]]
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_weights_are_clipped_after_the_step() -> None:
    w, free = nn.Parameter(torch.tensor([0.9, -1.2, 0.0])), nn.Parameter(torch.tensor([5.0]))
    optimizer = torch.optim.SGD([w, free], lr=1.0)
    handle = clip_after_step(optimizer, [w], clip=1.25)
    w.grad, free.grad = torch.tensor([-0.5, 0.5, 0.25]), torch.ones(1)
    optimizer.step()
    assert w.tolist() == [1.25, -1.25, -0.25]
    assert free.tolist() == [4.0]
    handle.remove()
    optimizer.step()
    assert w.tolist() == [1.75, -1.75, -0.5]


def test_a_case_optimizer_clips_once_all_have_stepped() -> None:
    net = Mixed()
    optimizer = CaseOptimizer(net.named_parameters(), [(is_latent_weight, ADAM)], ADAM)
    clip_after_step(optimizer, latent_weights(net).values())
    net.latent_weight.grad = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    optimizer.step()
    assert net.latent_weight.tolist() == [[1.0, -1.0], [pytest.approx(0.99), 1.0]]


def test_impossible_clips_are_refused() -> None:
    w = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"clip: expected clip > 0, got 0\.0"):
        clip_weights([w], 0.0)
    optimizer = torch.optim.SGD([w], lr=1.0)
    with pytest.raises(ValueError, match="clip: expected clip > 0, got nan"):
        clip_after_step(optimizer, [w], float("nan"))
    with pytest.raises(ValueError, match="weights: expected one latent weight or more"):
        clip_after_step(optimizer, [])

"""Networks and Boltzmann machines on a GPU against the same on the CPU; streams and graphs."""

import numpy as np
import pytest
import torch

import bnn
import rbm
from bnn.layers import BinaryConv2d, Int8Conv2d
from kernels import Purpose, pack_bits, torch_ops
from kernels.cuda_gibbs import GibbsChain
from kernels.cuda_launch import launcher_for, missing
from rbm.conditionals import bernoulli
from rbm.samplers import gibbs

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 12, 12, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 64)
VISIBLE = torch.from_numpy((RNG.random((60, 70)) < 0.4).astype(np.uint8))
FEW_FLIPS = 1e-3
"""Share of the units whose probability or field may lie within rounding of its threshold."""
GRADIENT_TOLERANCE = 2e-2
"""Of the norm: sums in another order, 1e-6, and what one unit does that has flipped."""


@pytest.fixture
def device(monkeypatch):
    """The GPU, multiplying float32 as float32."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return launcher_for(torch.device("cuda")).device


@pytest.fixture
def deterministic(monkeypatch):
    """As trainings run: an operation without a deterministic algorithm raises."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def a_net(device="cpu", full_precision=False):
    return bnn.BinaryConvNet((12, 12, 3), 4, widths=(40, 64), full_precision=full_precision).to(
        device
    )


def is_close(result, expected):
    return (result.cpu() - expected).norm() <= GRADIENT_TOLERANCE * expected.norm()


def test_convolutions_have_the_integers_of_the_cpu(device):
    """Each layer given the activations of the CPU; the head's are bounded by its own rounding."""
    on_cpu, on_gpu = a_net().eval(), a_net(device).eval()
    images = torch.from_numpy(IMAGES)
    with torch.no_grad():
        expected, found = on_cpu.activations(images), on_gpu.activations(images.to(device))
        x = images.permute(0, 3, 1, 2).float() * 2.0**-8
        for stage, same, bits in zip(on_cpu.stages, on_gpu.stages, expected, strict=True):
            unit = Int8Conv2d.UNIT if isinstance(stage.conv, Int8Conv2d) else 1.0
            integers = same.conv(x.to(device)).cpu() / unit
            if isinstance(stage.conv, BinaryConv2d):
                assert torch.equal(integers, stage.conv(x))
            # A library may convolve floats by transforms, which round.
            assert torch.equal(integers.round(), stage.conv(x) / unit)
            x = bits
        logits = on_gpu.logits_of(x.to(device)).cpu()
        assert torch.allclose(logits, on_cpu.logits_of(x), rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.cpu() != theirs).float().mean() < FEW_FLIPS


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("full_precision", [False, True])
def test_a_step_of_a_classifier(device, full_precision):
    infos, states = [], []
    for where in ("cpu", device, device):
        trainer = bnn.Trainer(
            a_net(where, full_precision), bnn.TrainConfig(epochs=1, batch_size=32), 64
        )
        infos.append(trainer.train_step(IMAGES, LABELS))
        states.append(trainer.state()[0])
    (expected, first, second), (on_cpu, on_gpu, again) = infos, states
    assert first == second
    assert first.loss == pytest.approx(expected.loss, rel=1e-3)
    assert abs(first.accuracy - expected.accuracy) <= 1 / 32
    for name, tensor in on_gpu.items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, again[name]), name
        if name == "adam.first_moment":  # a tenth of the gradients
            assert is_close(tensor, on_cpu[name])
        elif "running" in name:
            assert torch.allclose(tensor, on_cpu[name], rtol=1e-3, atol=1e-4), name
    trainer.load_state(on_cpu, trainer.state()[1])
    assert torch.equal(trainer.state()[0]["adam.first_moment"], on_cpu["adam.first_moment"])


def test_an_evaluation_of_a_classifier(device):
    on_cpu, on_gpu = (bnn.predict_logits(a_net(where), IMAGES) for where in ("cpu", device))
    assert (on_cpu.argmax(1) == on_gpu.argmax(1)).mean() > 0.95
    net = a_net(device)
    found = bnn.agreement(net, bnn.integerize(net), IMAGES)
    assert found.n_bit_mismatches <= FEW_FLIPS * found.n_bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_is_that_of_the_cpu(device, dtype):
    p = torch.rand(6, 75, generator=torch.Generator().manual_seed(1), dtype=dtype)
    chains = torch.tensor([5, 6, 7, 2, 3, 9])
    expected, found = (bernoulli(x, 7, Purpose.GIBBS_HIDDEN, chains, 4) for x in (p, p.to(device)))
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), expected)


def test_sweeps_are_those_of_the_cpu(device):
    machine = rbm.RBM(70, 45, seed=1, weight_std=0.5)
    found = []
    for where in ("cpu", device):
        here = machine.to(torch.device(where))
        state = gibbs.init(here, VISIBLE.to(where), seed=3)
        state, info = gibbs.step(here, state, seed=3)
        found.append((state.visible.cpu(), info.p_visible.cpu()))
    (expected, p_expected), (visible, p) = found
    assert torch.allclose(p, p_expected, rtol=1e-5)
    assert (visible != expected).float().mean() < FEW_FLIPS


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("method", ["pcd", "cd"])
def test_a_step_of_a_boltzmann_machine(device, method):
    infos, states = [], []
    for where in ("cpu", device, device):
        machine = rbm.RBM(70, 45, seed=1).to(torch.device(where))
        config = rbm.PCDConfig(epochs=1, batch_size=30, n_chains=40, method=method)
        trainer = rbm.Trainer(machine, config, len(VISIBLE))
        infos.append(trainer.train_step(VISIBLE.to(where)))
        states.append(trainer.state()[0])
    (expected, first, second), (on_cpu, on_gpu, again) = infos, states
    assert first == second
    assert first.pseudo_log_likelihood == pytest.approx(expected.pseudo_log_likelihood, rel=1e-4)
    for name, tensor in on_gpu.items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, again[name]), name
        if name.startswith("chain"):
            assert (tensor != on_cpu[name]).float().mean() < FEW_FLIPS
        else:
            assert is_close(tensor, on_cpu[name]), name
    trainer.load_state(on_cpu, trainer.state()[1])
    assert torch.equal(trainer.state()[0]["weights"], on_cpu["weights"])
    trainer.train_step(VISIBLE.to(device))


@pytest.mark.parametrize(("n_visible", "n_hidden"), [(70, 45), (4200, 40)])
def test_a_replayed_graph_is_the_plain_launches(device, n_visible, n_hidden):
    """The larger layer is drawn by a matrix product and a sampler."""
    rng = np.random.default_rng(1)
    start = torch.from_numpy(pack_bits(rng.random((37, n_visible)) < 0.5).view(np.int32))
    weights = torch.from_numpy(rng.integers(-2, 3, (n_visible, n_hidden)).astype(np.float32))
    biases = torch.zeros(n_visible), torch.zeros(n_hidden)
    found = []
    for graph in (False, True, None):
        chain = GibbsChain(
            launcher_for(device),
            *(x.to(device) for x in (weights, *biases)),
            n_chains=37,
            seed=5,
            probabilities=True,
        )
        chain.start(start.to(device))
        for _ in range(4):
            chain.run(2, graph=graph)
        chain.resume(chain.hidden.clone(), sweep=(1 << 31) + 3)
        for _ in range(2):
            chain.run(2, graph=graph)
        found.append((chain.visible, chain.hidden, chain.hidden_probabilities))
        assert chain.sweep == (1 << 31) + 7
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_run_on_the_stream_of_torch(device, dtype):
    """Forward and backward, the latter in a thread of torch's own."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 20, 9, 9, generator=generator).to(dtype)
    weight = torch.randn(30, 20, 3, 3, generator=generator).mul(0.5)
    seed = torch.randn(300, 30, 9, 9, generator=generator)

    def layer(where):
        leaves = [t.to(where, copy=True).requires_grad_() for t in (x, weight)]
        with torch.autocast(where.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = torch_ops.binary_conv2d(*leaves, padding=(1, 1))
        return [y.detach(), *torch.autograd.grad(y, leaves, seed.to(where))]

    expected = layer(torch.device("cpu"))
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        found = layer(device)
    stream.synchronize()
    assert torch.equal(found[0].cpu(), expected[0])
    for result, wanted in zip(found[1:], expected[1:], strict=True):
        assert is_close(result.float(), wanted.float())

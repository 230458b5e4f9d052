"""The promise of bytes over a table of all options: any workers, any interruption."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

import bnn
from bnn.layers import BatchNorm, BinaryConv2d, Int8Head
from bnn.models import Classifier
from bnn.optimizers import OPTIMIZERS
from bnn.quantizers import EdeSign, StochasticSign
from bnn.training import OBJECTIVES, SCHEDULES, TrainConfig, Trainer
from bnn.training import config as config_module
from bnn.training.objectives import CLASS_WEIGHTS

SHAPE, N_SAMPLES, N_CLASSES = (4, 5, 1), 19, 3
BASE: dict[str, Any] = {"steps": 3, "batch_size": 8, "n_shards": 4, "seed": 7}

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "epochs": {"steps": None, "epochs": 2},
    **{f"schedule {name}": {"schedule": name} for name in SCHEDULES if name != "cosine"},
    "bop": {"optimizer": "bop", "bop_gamma": 0.5, "bop_tau": 1e-4},
    "bop_2nd_order": {"optimizer": "bop_2nd_order", "bop_gamma": 0.3, "bop_tau": 0.3},
    "bop_2nd_order_unbiased": {
        "optimizer": "bop_2nd_order_unbiased",
        "bop_gamma": 0.3,
        "bop_tau": 0.9,
    },
    "weight decay": {"weight_decay": 0.5, "real_rate_factor": 0.3},
    **{
        f"loss {name}": {"loss": name, "margin": 3.0}
        for name in OBJECTIVES
        if name != "cross_entropy"
    },
    "label smoothing": {"label_smoothing": 0.2},
    **{
        f"class weights {name}": {"class_weights": name}
        for name in CLASS_WEIGHTS
        if name != "equal"
    },
    "distillation": {"distillation_weight": 1.0},
    "half distillation": {"distillation_weight": 0.5, "distillation_temperature": 3.0},
    "two steps": {"real_weights_fraction": 0.4},
    "augmentation": {"shift_pixels": 1, "horizontal_flip": True, "cutout_pixels": 2},
    "average": {"averaging_decay": 0.9},
    "average in two steps": {"averaging_decay": 0.9, "real_weights_fraction": 0.4},
}


class DrawingNet(nn.Module):
    """Two binary layers with a stochastic and a scheduled quantizer: what draws, and what moves."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.input_shape, self.n_classes = SHAPE, N_CLASSES
        self.draw = StochasticSign(seed=seed, layer=0)
        self.first = BinaryConv2d(1, 6, kernel=3, padding=1)
        self.norm = BatchNorm(6)
        self.sign = EdeSign()
        self.second = BinaryConv2d(6, 8, kernel=1, weight_quantizer=StochasticSign(seed=1, layer=1))
        self.norm_2 = BatchNorm(8)
        self.head = Int8Head(8, N_CLASSES, kernel=SHAPE[:2])
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if "weight" in name and parameter.dim() > 1:
                parameter.data.uniform_(-0.3, 0.3, generator=generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.permute(0, 3, 1, 2) * 2.0**-8
        x = self.norm(self.first(self.draw(4 * x - 2)))
        return self.head(bnn.ste_sign(self.norm_2(self.second(self.sign(x)))))


def conv_net(seed: int = 0) -> Classifier:
    return bnn.BinaryConvNet(SHAPE, N_CLASSES, (6, 8), seed=seed)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N_SAMPLES, *SHAPE), dtype=np.uint8)
    images.setflags(write=False)
    return images, rng.choice(N_CLASSES, N_SAMPLES, p=[0.6, 0.3, 0.1])


def make(options: dict[str, Any], net: nn.Module | None = None, **arguments: Any) -> Trainer:
    config = TrainConfig(**{**BASE, **options})
    teacher = conv_net(seed=5) if config.distillation_weight else None
    return Trainer(net or conv_net(), config, N_SAMPLES, teacher=teacher, **arguments)


def run(trainer: Trainer, data: tuple[np.ndarray, np.ndarray], stop: int | None = None) -> None:
    while trainer.step < (trainer.n_steps if stop is None else stop):
        trainer.train_step(*data)


def contents(trainer: Trainer) -> tuple[dict[str, bytes], dict[str, int]]:
    tensors, counters = trainer.state()
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, counters


def run_workers(
    n_workers: int,
    build: Callable[..., Trainer],
    data: tuple[np.ndarray, np.ndarray],
    n_steps: int | None = None,
) -> list[Trainer]:
    """Trainers in threads, in lock step; rows change hands through shared memory."""
    rows: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(n_workers)
    errors: list[BaseException] = []
    trainers: dict[int, Trainer] = {}

    def gather(rank: int, local: torch.Tensor) -> torch.Tensor:
        rows.update(zip(range(rank, 4, n_workers), local.clone(), strict=True))
        barrier.wait()
        found = torch.stack([rows[shard] for shard in range(4)])
        barrier.wait()
        return found

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        try:
            trainers[rank] = build(
                rank=rank, n_workers=n_workers, gather=lambda local: gather(rank, local)
            )
            run(trainers[rank], data, n_steps)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [trainers[rank] for rank in range(n_workers)]


def test_quantizers_are_told_epoch_step_and_first_row(data: tuple[np.ndarray, np.ndarray]) -> None:
    """Epoch 1 of 2 is half-way; a row of a weight is a channel, which no shard moves."""
    net, seen = DrawingNet(), []
    net.first.register_forward_pre_hook(
        lambda module, args: seen.append(
            (net.draw.step, net.draw.row_begin, net.second.weight_quantizer.row_begin, net.sign.t)
        )
    )
    run(make(OPTIONS["epochs"], net), data)
    slopes = [0.001, 0.001, 0.1, 0.1]  # 10^(-3 + 4 p) at p = 0 and 1/2
    expected = [(k, 2 * shard, 0, slopes[k]) for k in range(4) for shard in range(4)]
    assert [step[:3] for step in seen] == [step[:3] for step in expected]
    assert [step[3] for step in seen] == pytest.approx([step[3] for step in expected])


@pytest.fixture(scope="module")
def plain(data: tuple[np.ndarray, np.ndarray]) -> dict[str, torch.Tensor]:
    trainer = make({})
    run(trainer, data)
    return trainer.trained_state()


@pytest.mark.parametrize("name", OPTIONS)
def test_any_number_of_workers_gives_the_same_bytes(
    data: tuple[np.ndarray, np.ndarray], plain: dict[str, torch.Tensor], name: str
) -> None:
    alone = make(OPTIONS[name])
    run(alone, data)
    expected = contents(alone)
    is_plain = all(torch.equal(x, plain[key]) for key, x in alone.trained_state().items())
    assert is_plain == (name == "defaults")
    for n_workers in (2, 4):
        for trainer in run_workers(n_workers, lambda **w: make(OPTIONS[name], **w), data):
            assert contents(trainer) == expected


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_resume_at_any_step_gives_the_same_bytes(
    data: tuple[np.ndarray, np.ndarray], options: dict[str, Any]
) -> None:
    whole = make(options)
    states = []
    while whole.step < whole.n_steps:
        states.append(whole.state())
        whole.train_step(*data)
    expected = contents(whole)
    for state in states:
        resumed = make(options, conv_net(seed=99))
        resumed.load_state(*state)
        run(resumed, data)
        assert contents(resumed) == expected
        assert all(
            torch.equal(x, whole.trained_state()[name])
            for name, x in resumed.trained_state().items()
        )


@pytest.mark.parametrize("options", [{}, {"real_weights_fraction": 0.5}], ids=["one", "two"])
def test_draws_and_schedules_of_quantizers_keep_the_bytes(
    data: tuple[np.ndarray, np.ndarray], options: dict[str, Any]
) -> None:
    alone = make(options, DrawingNet())
    run(alone, data)
    for n_workers in (2, 4):
        for trainer in run_workers(n_workers, lambda **w: make(options, DrawingNet(), **w), data):
            assert contents(trainer) == contents(alone)
    first = make(options, DrawingNet())
    run(first, data, 2)
    second = make(options, DrawingNet())
    second.load_state(*first.state())
    run(second, data)
    assert contents(second) == contents(alone)


def test_a_plain_run_is_this_loop(data: tuple[np.ndarray, np.ndarray]) -> None:
    """The defaults, written out: the same bytes as the trainer, by the formulas of its docs."""
    from kernels import permutation

    images, labels = data
    net, trainer = conv_net(), make(OPTIONS["epochs"])
    run(trainer, data)
    parameters = list(net.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for k in range(4):
        batch = permutation(7, N_SAMPLES, epoch=k // 2)[8 * (k % 2) :][:8].reshape(4, 2)
        gradients, statistics = [torch.zeros_like(p) for p in parameters], [0.0] * 4
        for shard in batch:
            logits = net(torch.from_numpy(images[shard]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[shard]))
            found = torch.autograd.grad(loss, parameters)
            gradients = [sum_ + g for sum_, g in zip(gradients, found, strict=True)]
            norms = [stage.norm for stage in net.stages]
            seen = [s for norm in norms for s in (norm.batch_mean, norm.batch_var)]
            statistics = [sum_ + s for sum_, s in zip(statistics, seen, strict=True)]
        rate = 0.005 * 0.5 * (1 + np.cos(np.pi * k / 4))  # 5 % of 4 steps: no warm-up
        for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
            m.mul_(0.9).add_(g / 4, alpha=1 - 0.9)
            v.mul_(0.999).addcmul_(g / 4, g / 4, value=1 - 0.999)
            root = (v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
            p.data += (m / root) * (-rate / (1 - 0.9 ** (k + 1)))
        for stage in net.stages:
            if isinstance(stage.conv, BinaryConv2d):
                stage.conv.latent_weight.data.clamp_(-1, 1)
        for norm, mean, var in zip(norms, statistics[::2], statistics[1::2], strict=True):
            norm.update_running(mean / 4, var / 4)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, trainer.net.state_dict()[name]), name


def test_the_names_in_the_configuration_are_those_of_the_tables() -> None:
    assert set(get_args(config_module.ScheduleName)) == set(SCHEDULES)
    assert set(get_args(config_module.ObjectiveName)) == set(OBJECTIVES)
    assert set(get_args(config_module.OptimizerName)) == {"adam", *OPTIMIZERS}
    assert set(get_args(config_module.ClassWeightsName)) == set(CLASS_WEIGHTS)


def test_a_state_of_another_optimizer_is_refused() -> None:
    tensors, counters = make(OPTIONS["bop"]).state()
    with pytest.raises(ValueError, match="tensors: expected the names of this network, differing"):
        make(OPTIONS["bop_2nd_order"]).load_state(tensors, counters)


def test_a_state_holds_float_and_integer_tensors_only() -> None:
    for options in OPTIONS.values():
        tensors, counters = make(options).state()
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        assert all(type(counter) is int for counter in counters.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps: expected 1 or more, got 0"),
        ({"minutes": 0.0}, "minutes: expected a positive number"),
        ({"minutes": 1.0, "steps": 3}, "steps, minutes: expected one of them, got 2"),
        ({"schedule": "cosin"}, "schedule: expected one of cosine, linear, step, constant, got"),
        ({"optimizer": "sgd"}, "optimizer: expected one of adam, bop"),
        ({"loss": "mse"}, "loss: expected one of cross_entropy"),
        ({"class_weights": "no"}, "class_weights: expected one of equal"),
        ({"milestones": (0.5, 0.5)}, "milestones: expected rising shares"),
        ({"milestones": (0.0,)}, "milestones: expected rising shares between 0 and 1"),
        ({"milestone_factor": -0.1}, "milestone_factor: expected 0 <="),
        ({"bop_gamma": 0.1}, "bop_gamma, bop_tau: expected none with optimizer adam"),
        ({"optimizer": "bop", "bop_gamma": 2.0}, "bop_gamma: expected 0 < bop_gamma <= 1"),
        ({"optimizer": "bop", "bop_tau": -1.0}, "bop_tau: expected 0 or more"),
        ({"optimizer": "bop", "real_weights_fraction": 0.5}, "holds no latent weights"),
        ({"real_weights_fraction": 1.0}, "real_weights_fraction: expected 0 <="),
        ({"real_rate_factor": 0.0}, "real_rate_factor: expected a positive number"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
        ({"weight_decay": 200.0}, "weight_decay: expected less than 1 /"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing: expected 0 with loss hinge"),
        ({"label_smoothing": 1.0}, "label_smoothing: expected 0 <="),
        ({"margin": 0.0}, "margin: expected a positive number"),
        ({"focal_gamma": -1.0}, "focal_gamma: expected 0 or more"),
        ({"distillation_weight": 1.5}, "distillation_weight: expected 0 <="),
        ({"distillation_temperature": 0.0}, "distillation_temperature: expected a positive"),
        ({"shift_pixels": -1}, "shift_pixels: expected 0 or more"),
        ({"background": 256}, r"background: expected 0 \.\.\. 255"),
        ({"averaging_decay": 1.0}, "averaging_decay: expected 0 <="),
        ({"learning_rate": 1e7}, "learning_rate: expected a positive number below"),
    ],
)
def test_wrong_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


def test_every_field_is_in_the_table_of_options() -> None:
    """A new option has to keep the promise too."""
    covered = {name for options in OPTIONS.values() for name in options} | set(BASE)
    # Checked elsewhere: time, and numbers that only tune an option of the table.
    others = {"minutes", "learning_rate", "warmup_fraction", "milestones", "milestone_factor"}
    others |= {"focal_gamma", "background"}
    assert {field.name for field in dataclasses.fields(TrainConfig)} == covered | others

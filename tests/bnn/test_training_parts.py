"""The ideas of a training one by one, against values worked out here or a slow twin."""

import math
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bnn
from bnn.layers import BinaryConv2d
from bnn.metrics import flip_ratio, sign_bits
from bnn.quantizers import SteSign
from bnn.training import OBJECTIVES, TrainConfig, Trainer, distillation_loss
from bnn.training.augmentation import TRANSFORMS, augment, below
from bnn.training.averaging import WeightAverage
from bnn.training.budget import seconds_per_step, stand_in_images, steps_within
from bnn.training.diagnosis import NotFiniteError
from bnn.training.objectives import class_weights, objective
from bnn.training.schedules import scheduled_rate
from bnn.training.two_step import RealWeights, real_weights, steps_with_real_weights
from kernels import Purpose, random_words

SHAPE, N_SAMPLES, N_CLASSES = (6, 5, 2), 40, 3


def small_net(seed: int = 0) -> bnn.BinaryConvNet:
    return bnn.BinaryConvNet(SHAPE, N_CLASSES, (6, 8), seed=seed)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N_SAMPLES, *SHAPE), dtype=np.uint8)
    return images, rng.integers(0, N_CLASSES, N_SAMPLES)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("step", [1, 1, 0.1, 0.01]),
        ("constant", [1, 1, 1, 1]),
    ],
)
def test_a_schedule_follows_the_warm_up(schedule: str, expected: list[float]) -> None:
    config = TrainConfig(schedule=schedule, warmup_fraction=0.5)  # type: ignore[arg-type]
    rates = [scheduled_rate(config, 8.0, step, 8) for step in range(8)]
    assert rates[:4] == [2.0, 4.0, 6.0, 8.0]
    assert rates[4:] == pytest.approx([8 * share for share in expected])


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
LABELS = torch.tensor([2, 1])


def _by_hand(name: str, margin: float = 3.0, gamma: float = 1.5) -> list[float]:
    """Every objective in plain Python, sample by sample."""
    found = []
    for scores, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        total = sum(math.exp(z) for z in scores)
        p = math.exp(scores[label]) / total
        signed = [(z if c == label else -z) for c, z in enumerate(scores)]
        q = [1 / (1 + math.exp(-m)) for m in signed]
        best = max(z for c, z in enumerate(scores) if c != label)
        found.append(
            {
                "cross_entropy": -math.log(p),
                "binary_cross_entropy": -sum(map(math.log, q)) / 3,
                "logistic": -sum(map(math.log, q)) / 3,
                "crammer_singer": max(0.0, margin - scores[label] + best),
                "focal": -sum((1 - x) ** gamma * math.log(x) for x in q) / 3,
                "softmax_focal": -((1 - p) ** gamma) * math.log(p),
                "hinge": sum(max(0.0, margin - m) for m in signed) / 3,
                "squared_hinge": sum(max(0.0, margin - m) ** 2 for m in signed) / 3,
            }[name]
        )
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_its_formula(name: str) -> None:
    config = TrainConfig(loss=name, margin=3.0, focal_gamma=1.5)  # type: ignore[arg-type]
    expected = _by_hand(name)
    assert float(objective(LOGITS, LABELS, config)) == pytest.approx(np.mean(expected), rel=1e-5)
    weighted = objective(LOGITS, LABELS, config, torch.tensor([9.0, 0.5, 2.0]))
    by_hand = (2.0 * expected[0] + 0.5 * expected[1]) / 2
    assert float(weighted) == pytest.approx(by_hand, rel=1e-5)
    bad = LOGITS.clone()
    bad[0, 0] = math.nan
    assert math.isnan(float(objective(bad, LABELS, config)))


def test_smoothing_mixes_in_the_mean_over_classes() -> None:
    log_p = torch.log_softmax(LOGITS, 1)
    expected = -0.7 * log_p[[0, 1], LABELS].mean() - 0.3 * log_p.mean()
    config = TrainConfig(label_smoothing=0.3)
    assert torch.allclose(objective(LOGITS, LABELS, config), expected)
    ones = torch.ones(3)
    assert torch.allclose(objective(LOGITS, LABELS, config, ones), expected)


def test_weights_of_classes_are_their_inverse_frequency() -> None:
    labels = np.array([0, 0, 0, 1])
    config = TrainConfig(class_weights="inverse_frequency")
    # Counts 3, 1 and, for the class without samples, 1: N / (C n) = 5 / (3 n).
    expected = torch.tensor([5 / 9, 5 / 3, 5 / 3])
    assert torch.allclose(class_weights(labels, 3, config), expected)


def test_distillation_is_the_cross_entropy_to_the_teacher() -> None:
    teacher = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 3.0]], requires_grad=True)
    student = LOGITS.clone().requires_grad_()
    p, log_q = torch.softmax(teacher / 2, 1), torch.log_softmax(student / 2, 1)
    expected = -4 * sum(p[n, c] * log_q[n, c] for n in range(2) for c in range(3)) / 2
    found = distillation_loss(student, teacher, 2.0)
    assert torch.allclose(found, expected, rtol=1e-5)
    found.backward()
    assert teacher.grad is None
    assert torch.allclose(student.grad, 2 * (log_q.exp() - p).detach() / 2, atol=1e-6)
    p = torch.softmax(teacher, 1)
    entropy = -(p * p.log()).sum(1).mean()
    assert torch.allclose(distillation_loss(teacher, teacher), entropy, rtol=1e-5)


def test_at_weight_one_labels_are_not_looked_at(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = data
    config = TrainConfig(steps=2, batch_size=8, distillation_weight=1.0)
    nets, teacher = [small_net(), small_net()], small_net(seed=3)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    for net, wrong in zip(nets, (0, 1), strict=True):
        bnn.fit(net, images, (labels + wrong) % 3, config, teacher=teacher)
    for name, tensor in nets[0].state_dict().items():
        assert torch.equal(tensor, nets[1].state_dict()[name])
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    assert not teacher.training


def test_the_loss_of_a_step_is_the_mixture(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = data
    net, teacher = small_net(), small_net(seed=3).eval()
    options = {"distillation_weight": 0.25, "distillation_temperature": 2.0}
    trainer = Trainer(net, TrainConfig(batch_size=8, **options), N_SAMPLES, teacher=teacher)
    expected = 0.0
    for shard in range(2):
        i = trainer._indices(shard)
        batch = torch.from_numpy(images[i])
        logits = small_net()(batch)
        hard = F.cross_entropy(logits, torch.from_numpy(labels[i]))
        mixture = 0.75 * hard + 0.25 * distillation_loss(logits, teacher(batch), 2.0)
        expected += mixture.item() / 2
    assert trainer.train_step(images, labels).loss == pytest.approx(expected, rel=1e-5)


def test_a_teacher_is_there_if_and_only_if_it_is_used() -> None:
    taught = TrainConfig(distillation_weight=0.5)
    with pytest.raises(ValueError, match=r"teacher: expected one for distillation_weight = 0\.5"):
        Trainer(small_net(), taught, N_SAMPLES)
    with pytest.raises(ValueError, match=r"teacher: expected none for distillation_weight = 0\.0"):
        Trainer(small_net(), TrainConfig(), N_SAMPLES, teacher=small_net())
    other = bnn.BinaryConvNet(SHAPE, 4, (6,))
    with pytest.raises(ValueError, match=r"teacher: expected images \(6, 5, 2\) and 3 classes"):
        Trainer(small_net(), taught, N_SAMPLES, teacher=other)


@pytest.mark.parametrize(
    ("fraction", "n_steps", "expected"),
    [(0.0, 9, 0), (0.5, 10, 5), (0.01, 10, 1), (0.99, 10, 9), (0.5, 1, 0)],
)
def test_both_parts_have_a_step(fraction: float, n_steps: int, expected: int) -> None:
    assert steps_with_real_weights(fraction, n_steps) == expected


def test_the_first_part_has_real_weights_and_its_own_schedule(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    options = {"real_weights_fraction": 0.5, "schedule": "linear", "warmup_fraction": 0.0}
    net = small_net()
    trainer = Trainer(net, TrainConfig(steps=8, batch_size=8, **options), N_SAMPLES)
    rates = [trainer.learning_rate(step) / 0.005 for step in range(8)]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25] * 2)
    stage, seen = net.stages[1], []
    handle = stage.register_forward_pre_hook(
        lambda module, args: seen.append(type(module.conv.weight_quantizer))
    )
    for step in range(8):
        moments = trainer.state()[0]["adam.second_moment"]
        assert bool(moments.any()) == (step > 0)
        trainer.train_step(*data)
    handle.remove()
    assert seen == [RealWeights] * 8 + [SteSign] * 8  # two shards a step
    # The moments start afresh: after the fifth step of four they would be larger than of one.
    again = Trainer(small_net(), TrainConfig(steps=8, batch_size=8, **options), N_SAMPLES)
    for _ in range(5):
        again.train_step(*data)
    state = again.state()[0]
    ratio = state["adam.first_moment"].square() * (1 - 0.999) / (1 - 0.9) ** 2
    assert torch.allclose(ratio, state["adam.second_moment"], rtol=1e-3, atol=1e-20)


@pytest.mark.parametrize("weight_quantizer", ["ste_sign", "magnitude_aware"])
def test_a_layer_with_real_weights_is_an_ordinary_convolution(weight_quantizer: str) -> None:
    layer = BinaryConv2d(2, 3, kernel=3, padding=1, weight_quantizer=weight_quantizer)
    layer.latent_weight.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    x = torch.where(torch.arange(24) % 5 < 2, 1.0, -1.0).reshape(1, 2, 3, 4)
    padded, quantizer = F.pad(x, (1, 1, 1, 1), value=-1.0), layer.weight_quantizer
    with real_weights({"conv": layer}):
        assert torch.allclose(layer(x), F.conv2d(padded, layer.latent_weight), atol=1e-6)
    assert layer.weight_quantizer is quantizer
    assert torch.allclose(layer(x), F.conv2d(padded, quantizer(layer.latent_weight)), atol=1e-5)


def test_a_twin_is_trained_in_one_part() -> None:
    twin = bnn.BinaryConvNet(SHAPE, N_CLASSES, (6,), full_precision=True)
    trainer = Trainer(twin, TrainConfig(steps=8, real_weights_fraction=0.5), N_SAMPLES)
    assert trainer.learning_rate(4) == pytest.approx(0.0025)


IMAGES = np.random.default_rng(1).integers(0, 256, (9, 5, 4, 2), dtype=np.uint8)
SAMPLES = np.array([4, 70, 3, 0, 11, 2, 900, 5, 6])
CONFIG = TrainConfig(
    shift_pixels=2, horizontal_flip=True, cutout_pixels=3, background=7, seed=2**40 + 3
)


def _slow(image: np.ndarray, words: np.ndarray, field: str) -> np.ndarray:
    """One image, pixel by pixel, by the words of the description."""
    height, width, _ = image.shape
    result = np.empty_like(image)
    first, second = int(words[0]), int(words[1])
    for row in range(height):
        for column in range(width):
            if field == "shift_pixels":
                r, c = row + (first * 5 >> 32) - 2, column + (second * 5 >> 32) - 2
                inside = 0 <= r < height and 0 <= c < width
                result[row, column] = image[r, c] if inside else 7
            elif field == "horizontal_flip":
                result[row, column] = image[row, width - 1 - column if first >> 31 else column]
            else:
                top, left = (first * height >> 32) - 1, (second * width >> 32) - 1
                is_cut = top <= row < top + 3 and left <= column < left + 3
                result[row, column] = 7 if is_cut else image[row, column]
    return result


def test_augmentation_is_its_slow_twin_whatever_the_batch() -> None:
    expected = []
    for image, sample in zip(IMAGES, SAMPLES, strict=True):
        for index, field in enumerate(TRANSFORMS):
            words = random_words(
                CONFIG.seed, Purpose.AUGMENTATION, 2, rows=int(sample), step=5, index=index
            )[0]
            image = _slow(image, words, field)
        expected.append(image)
    whole = augment(IMAGES, SAMPLES, epoch=5, config=CONFIG)
    np.testing.assert_array_equal(whole, expected)
    parts = [augment(IMAGES[i], SAMPLES[i], epoch=5, config=CONFIG) for i in ([8, 2], [0, 5, 1])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[[8, 2, 0, 5, 1]])
    assert (augment(IMAGES, SAMPLES, epoch=6, config=CONFIG) != whole).any()
    assert augment(IMAGES, SAMPLES, epoch=5, config=TrainConfig()) is IMAGES


def test_shifts_are_uniform_and_rows_of_a_table_stay() -> None:
    words = random_words(0, Purpose.AUGMENTATION, 1, rows=np.arange(7000))[:, 0]
    counts = np.bincount(below(words, 7), minlength=7)
    assert counts.sum() == 7000
    # Binomial with sigma = sqrt(7000 * 6 / 49) = 29.3; five of them.
    assert np.abs(counts - 1000).max() < 147
    table = np.arange(1, 13, dtype=np.uint8).reshape(2, 1, 6, 1)
    moved = augment(table, np.arange(2), epoch=0, config=TrainConfig(shift_pixels=2))
    assert all(np.isin(row[row > 0], line).all() for row, line in zip(moved, table, strict=True))
    assert (moved > 0).sum(axis=(1, 2, 3)).min() >= 4


def test_the_average_is_its_recurrence() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(net, 0.2)
    expected = None
    for t, value in enumerate([1.0, 2.0, -4.0, 8.0]):
        net.weight.data.fill_(value)
        average.update(net, t)
        decay = min(0.2, t / (t + 9))  # 0, 0.1, 2 / 11, 0.2
        expected = value if t == 0 else decay * expected + (1 - decay) * value
        assert float(average.tensors["weight"]) == pytest.approx(expected)


def test_fit_ends_with_the_average(data: tuple[np.ndarray, np.ndarray]) -> None:
    config = TrainConfig(steps=5, batch_size=8, averaging_decay=0.9)
    net, raw = small_net(), small_net()
    bnn.fit(net, *data, config)
    trainer = Trainer(raw, config, N_SAMPLES)
    for _ in range(5):
        trainer.train_step(*data)
    tensors = trainer.state()[0]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, tensors[f"average.{name}"])
    assert not torch.equal(net.head.weight, raw.head.weight)
    running = "stages.0.norm.running_mean"
    assert not torch.equal(net.state_dict()[running], raw.state_dict()[running])


def test_flips_are_those_of_the_metric(data: tuple[np.ndarray, np.ndarray]) -> None:
    net = small_net()
    trainer = Trainer(net, TrainConfig(batch_size=8, learning_rate=0.05), N_SAMPLES)
    for _ in range(3):
        before = sign_bits(net)
        info = trainer.train_step(*data)
        assert info.flip_ratios == flip_ratio(before, net)
        assert info.flip_ratio == info.flip_ratios["stages.1.conv.latent_weight"] > 0
    twin = bnn.BinaryConvNet(SHAPE, N_CLASSES, (6,), full_precision=True)
    info = Trainer(twin, TrainConfig(batch_size=8), N_SAMPLES).train_step(*data)
    assert (info.flip_ratio, info.flip_ratios) == (0.0, {})


def test_decay_shrinks_real_weights_and_nothing_else(data: tuple[np.ndarray, np.ndarray]) -> None:
    options = {"batch_size": 8, "warmup_fraction": 0.0, "real_rate_factor": 0.5}
    nets = {decay: small_net() for decay in (0.0, 100.0)}
    start = small_net().state_dict()
    for decay, net in nets.items():
        config = TrainConfig(weight_decay=decay, **options)
        Trainer(net, config, N_SAMPLES).train_step(*data)
    for name, plain in nets[0.0].named_parameters():
        is_decayed = name in ("stages.0.conv.weight", "head.weight")
        shrinkage = 0.005 * 0.5 * 100.0 if is_decayed else 0.0
        found = dict(nets[100.0].named_parameters())[name]
        assert torch.allclose(found, plain - shrinkage * start[name], atol=1e-6), name
        # Adam's first step has the size of the rate, half of it where nothing is binarised.
        rate = 0.005 if "latent" in name else 0.0025
        step = (plain - start[name]).abs().max()
        assert float(step.detach()) == pytest.approx(rate, rel=1e-3), name


def test_bop_flips_what_its_own_steps_flip(data: tuple[np.ndarray, np.ndarray]) -> None:
    from bnn.optimizers import Bop

    images, labels = data
    config = TrainConfig(
        steps=3, batch_size=8, n_shards=1, optimizer="bop", bop_gamma=0.5, bop_tau=1e-3,
        schedule="linear", warmup_fraction=0.0, learning_rate=1e-6,
    )  # fmt: skip
    net, twin = small_net(), small_net()
    trainer = Trainer(net, config, N_SAMPLES)
    flips = Bop([twin.stages[1].conv.latent_weight], gamma=0.5, tau=1e-3)
    for step in range(3):
        i = trainer._indices(0)
        logits = twin(torch.from_numpy(images[i]))
        F.cross_entropy(logits, torch.from_numpy(labels[i])).backward()
        flips.param_groups[0]["lr"] = 1 - step / 3
        flips.step()
        flips.zero_grad()
        info = trainer.train_step(images, labels)
        assert torch.equal(net.stages[1].conv.latent_weight, twin.stages[1].conv.latent_weight)
        twin.load_state_dict(net.state_dict())
    assert info.flip_ratio > 0


def test_a_budget_becomes_steps_once(
    data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnn.training.trainer.seconds_per_step", lambda *args: 12.0)
    options = {"batch_size": 8, "n_shards": 2}
    trainer = Trainer(small_net(), TrainConfig(minutes=1.0, **options), N_SAMPLES)
    repeated = Trainer(small_net(), TrainConfig(steps=5, **options), N_SAMPLES)
    assert (trainer.n_steps, trainer.n_epochs) == (5, 1)
    monkeypatch.setattr("bnn.training.trainer.seconds_per_step", lambda *args: 1.0)
    restored = Trainer(small_net(seed=1), TrainConfig(minutes=1.0, **options), N_SAMPLES)
    trainer.train_step(*data)
    restored.load_state(*trainer.state())
    assert restored.n_steps == 5
    for one in (trainer, restored, repeated):
        while one.step < one.n_steps:
            one.train_step(*data)
    (tensors, counters), *others = (t.state() for t in (trainer, restored, repeated))
    assert counters["n_steps"] == 5
    for other_tensors, other_counters in others:
        assert other_counters == counters
        assert all(torch.equal(tensors[name], x) for name, x in other_tensors.items())


def test_the_probe_takes_the_median_of_the_slowest_worker() -> None:
    ticks = iter([0.0, 3.0, 10.0, 11.0, 20.0, 29.0, 30.0, 31.0])  # 3, 1, 9 and 1 seconds
    taken = count()
    found = seconds_per_step(lambda: next(taken), 2, None, clock=lambda: next(ticks))
    assert found == 2.0
    assert next(taken) == 5
    slower = torch.tensor([[2.0], [7.5]])
    ticks = iter(range(8))
    assert seconds_per_step(lambda: None, 1, lambda rows: slower, clock=lambda: next(ticks)) == 7.5
    assert steps_within(0.5, 7.0) == 4
    assert steps_within(0.001, 7.0) == 1


def test_the_probe_leaves_the_training_as_it_was(data: tuple[np.ndarray, np.ndarray]) -> None:
    options = {"batch_size": 8, "real_weights_fraction": 0.5}
    timed = Trainer(small_net(), TrainConfig(minutes=1e-9, **options), N_SAMPLES)
    assert timed.n_steps == 1
    plain = Trainer(small_net(), TrainConfig(steps=1, **options), N_SAMPLES)
    for trainer in (timed, plain):
        trainer.train_step(*data)
    assert all(torch.equal(x, plain.state()[0][name]) for name, x in timed.state()[0].items())
    images = stand_in_images(N_SAMPLES, SHAPE)
    assert images.shape == (N_SAMPLES, *SHAPE)
    assert len(np.unique(images.reshape(N_SAMPLES, -1), axis=0)) == N_SAMPLES


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("head.bias", "loss: not finite at step 1; .*; first in head.bias"),
        ("stages.1.conv.latent_weight", "weights: not finite .* stages.1.conv.latent_weight"),
        ("gradient", "gradients: not finite .* first in stages.0.conv.weight"),
        ("output", "loss: not finite .* first in head"),
        ("statistics", "statistics: not finite .* first in stages.1.norm"),
    ],
)
def test_what_is_not_finite_stops_at_the_step_and_changes_nothing(
    data: tuple[np.ndarray, np.ndarray], break_it: str, message: str
) -> None:
    net = small_net()
    config = TrainConfig(batch_size=8, averaging_decay=0.9, optimizer="bop")
    trainer = Trainer(net, config, N_SAMPLES)
    trainer.train_step(*data)
    parameters = dict(net.named_parameters())
    if break_it in parameters:
        parameters[break_it].data.view(-1)[1] = math.nan
    elif break_it == "gradient":
        net.stages[0].conv.weight.register_hook(lambda gradient: gradient * math.inf)
    elif break_it == "output":
        net.head.register_forward_hook(lambda module, args, y: y * math.nan)
    else:
        net.stages[1].register_forward_hook(_spoil_variance)
    before = trainer.state()
    with pytest.raises(NotFiniteError, match=message):
        trainer.train_step(*data)
    after = trainer.state()
    assert after[1] == before[1]
    for name, tensor in after[0].items():
        assert tensor.numpy().tobytes() == before[0][name].numpy().tobytes(), name


def _spoil_variance(module: torch.nn.Module, arguments: object, output: object) -> None:
    module.norm.batch_var = module.norm.batch_var * math.inf


def test_all_workers_stop_at_a_loss_that_refuses_bad_logits(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    """A worker that raised before the gathering would leave the others waiting."""
    config = TrainConfig(batch_size=8, n_shards=2, loss="squared_hinge")
    gathered, said = [], []

    def gather(local: torch.Tensor) -> torch.Tensor:
        gathered.append(len(local))
        return torch.cat([local, local])

    for rank in (0, 1):
        net = small_net()
        net.head.bias.data[0] = math.inf
        trainer = Trainer(net, config, N_SAMPLES, rank=rank, n_workers=2, gather=gather)
        with pytest.raises(NotFiniteError, match=r"at step 0; .*; first in head") as e:
            trainer.train_step(*data)
        said.append(str(e.value))
    assert gathered == [1, 1]
    assert said[0] == said[1]


def test_frozen_parameters_stay(data: tuple[np.ndarray, np.ndarray]) -> None:
    net = small_net()
    net.stages.requires_grad_(False)
    before = {name: x.clone() for name, x in net.named_parameters()}
    trainer = Trainer(net, TrainConfig(batch_size=8), N_SAMPLES)
    trainer.train_step(*data)
    changed = [name for name, x in net.named_parameters() if not torch.equal(x, before[name])]
    assert changed == ["head.weight", "head.bias"]

import math
import threading
from collections.abc import Iterable

import numpy as np
import pytest
import torch

import bnn
from bnn.layers import BinaryConv2d

SHAPE, N_SAMPLES, N_CLASSES = (6, 5, 2), 150, 3
CONFIG = bnn.TrainConfig(epochs=2, batch_size=32, n_shards=4, seed=11)


def small_net(seed: int = 0, full_precision: bool = False) -> bnn.BinaryConvNet:
    return bnn.BinaryConvNet(SHAPE, N_CLASSES, (6, 8), seed=seed, full_precision=full_precision)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N_SAMPLES, *SHAPE), dtype=np.uint8)
    images.setflags(write=False)  # as an array mapped from an object store
    return images, rng.integers(0, N_CLASSES, N_SAMPLES)


def run(trainer: bnn.Trainer, data: tuple[np.ndarray, np.ndarray], n_steps: int) -> None:
    for _ in range(n_steps):
        trainer.train_step(*data)


def same_bytes(first: bnn.Trainer, second: bnn.Trainer) -> bool:
    (tensors, counters), (others, other_counters) = first.state(), second.state()
    return counters == other_counters and all(
        tensors[name].numpy().tobytes() == others[name].numpy().tobytes() for name in tensors
    )


class Workers:
    """Trainers in threads, in lock step; rows change hands through shared memory."""

    def __init__(self, n_workers: int, full_precision: bool) -> None:
        self.rows: dict[int, torch.Tensor] = {}
        self.barrier = threading.Barrier(n_workers)
        self.trainers = [
            bnn.Trainer(
                small_net(full_precision=full_precision),
                CONFIG,
                N_SAMPLES,
                rank=rank,
                n_workers=n_workers,
                gather=lambda local, rank=rank: self.gather(rank, local),
            )
            for rank in range(n_workers)
        ]

    def gather(self, rank: int, local: torch.Tensor) -> torch.Tensor:
        n_workers = len(self.trainers)
        for row, shard in zip(local, range(rank, CONFIG.n_shards, n_workers), strict=True):
            self.rows[shard] = row.clone()
        self.barrier.wait()
        rows = torch.stack([self.rows[shard] for shard in range(CONFIG.n_shards)])
        self.barrier.wait()
        return rows

    def run(self, data: tuple[np.ndarray, np.ndarray]) -> None:
        def work(trainer: bnn.Trainer) -> None:
            torch.set_num_threads(1)
            try:
                run(trainer, data, trainer.n_steps)
            except BaseException:
                self.barrier.abort()
                raise

        threads = [threading.Thread(target=work, args=(trainer,)) for trainer in self.trainers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4])
@pytest.mark.parametrize("full_precision", [False, True])
def test_any_number_of_workers_gives_the_same_bytes(
    data: tuple[np.ndarray, np.ndarray], n_workers: int, full_precision: bool
) -> None:
    alone = bnn.Trainer(small_net(full_precision=full_precision), CONFIG, N_SAMPLES)
    run(alone, data, alone.n_steps)
    workers = Workers(n_workers, full_precision)
    workers.run(data)
    assert alone.step == alone.n_steps
    for trainer in workers.trainers:
        assert same_bytes(alone, trainer)


def test_two_runs_give_the_same_bytes_and_another_seed_does_not(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    trainers = [bnn.Trainer(small_net(), CONFIG, N_SAMPLES) for _ in range(2)]
    other = bnn.Trainer(
        small_net(), bnn.TrainConfig(epochs=2, batch_size=32, n_shards=4), N_SAMPLES
    )
    for trainer in (*trainers, other):
        run(trainer, data, 3)
    assert same_bytes(*trainers)
    assert not torch.equal(
        trainers[0].state()[0]["net.head.weight"], other.state()[0]["net.head.weight"]
    )


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_resume_gives_the_same_bytes(data: tuple[np.ndarray, np.ndarray], stop: int) -> None:
    whole = bnn.Trainer(small_net(), CONFIG, N_SAMPLES)
    run(whole, data, whole.n_steps)
    first = bnn.Trainer(small_net(), CONFIG, N_SAMPLES)
    run(first, data, stop)
    state = first.state()
    run(first, data, 1)  # what was handed out is a copy
    second = bnn.Trainer(small_net(seed=99), CONFIG, N_SAMPLES)
    second.load_state(*state)
    assert second.step == stop
    run(second, data, second.n_steps - stop)
    assert same_bytes(whole, second)


def test_batches_visit_the_data_in_philox_order(data: tuple[np.ndarray, np.ndarray]) -> None:
    from kernels import permutation

    trainer = bnn.Trainer(small_net(), CONFIG, N_SAMPLES)
    assert (trainer.steps_per_epoch, trainer.n_steps, trainer.batch_size) == (4, 8, 32)
    trainer.step = 5  # second batch of the second epoch
    order = permutation(11, N_SAMPLES, epoch=1)[32:64]
    seen = np.concatenate([trainer._indices(shard) for shard in range(4)])
    np.testing.assert_array_equal(seen, order)


def test_one_shard_is_plain_adam_on_the_batch(data: tuple[np.ndarray, np.ndarray]) -> None:
    """The mean over shards of gradients of shard means, and its first Adam step of size rate."""
    images, labels = data
    net, reference = small_net(), small_net()
    trainer = bnn.Trainer(net, CONFIG, N_SAMPLES)
    indices = [trainer._indices(shard) for shard in range(4)]
    info = trainer.train_step(images, labels)
    losses = [
        torch.nn.functional.cross_entropy(
            reference(torch.from_numpy(images[i])), torch.from_numpy(labels[i])
        )
        for i in indices
    ]
    loss = torch.stack(losses).mean()
    gradient = torch.autograd.grad(loss, reference.head.bias)[0]
    assert info.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    # After one step of Adam m / sqrt(v) is the sign of the gradient, up to eps.
    expected = -info.learning_rate * gradient.sign()
    np.testing.assert_allclose(net.head.bias.detach(), expected, rtol=1e-4, atol=0)


def test_running_statistics_are_the_mean_over_shards(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = data
    net, reference = small_net(), small_net()
    trainer = bnn.Trainer(net, CONFIG, N_SAMPLES)
    means = []
    for shard in range(4):
        reference.activations(torch.from_numpy(images[trainer._indices(shard)]))
        means.append(reference.stages[0].norm.batch_mean)
    trainer.train_step(images, labels)
    expected = 0.1 * torch.stack(means).mean(0)
    np.testing.assert_allclose(net.stages[0].norm.running_mean, expected, rtol=1e-5)


def test_latent_weights_stay_in_range(data: tuple[np.ndarray, np.ndarray]) -> None:
    net = small_net()
    config = bnn.TrainConfig(epochs=3, batch_size=32, learning_rate=0.7, warmup_fraction=0.0)
    trainer = bnn.Trainer(net, config, N_SAMPLES)
    latent = [m.latent_weight for m in net.modules() if isinstance(m, BinaryConv2d)]
    for _ in range(trainer.n_steps):
        trainer.train_step(*data)
        assert all(float(w.detach().abs().max()) <= 1.0 for w in latent)
    assert any((w.detach().abs() == 1.0).any() for w in latent)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = bnn.TrainConfig(epochs=50, batch_size=32, learning_rate=0.4, warmup_fraction=0.1)
    trainer = bnn.Trainer(small_net(), config, N_SAMPLES)
    rates = [trainer.learning_rate(step) for step in range(trainer.n_steps)]
    assert trainer.n_steps == 200
    assert rates[:20] == pytest.approx([0.02 * k for k in range(1, 21)])
    assert rates[20] == 0.4
    assert rates[110] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.2 * (1 + math.cos(math.pi * 179 / 180)))


def test_small_data_are_one_batch() -> None:
    trainer = bnn.Trainer(small_net(), CONFIG, 11)
    assert (trainer.batch_size, trainer.steps_per_epoch) == (8, 1)


@pytest.mark.parametrize(
    ("n_samples", "epochs"), [(1, 40), (1347, 40), (6000, 20), (60_000, 2), (10**6, 2)]
)
def test_recommended_epochs(n_samples: int, epochs: int) -> None:
    assert bnn.recommended_epochs(n_samples) == epochs


@pytest.mark.parametrize(
    ("config", "n_samples", "n_epochs", "images_per_step"),
    [
        (bnn.TrainConfig(), 9_999, 12, 64),
        (bnn.TrainConfig(), 60_000, 2, 128),
        (bnn.TrainConfig(n_shards=3), 60_000, 2, 126),
        (bnn.TrainConfig(epochs=7, batch_size=32), 60_000, 7, 32),
        (bnn.TrainConfig(), 5, 40, 4),
        (bnn.TrainConfig(n_shards=33), 1347, 40, 66),  # two per shard, or nothing has a variance
        (bnn.TrainConfig(n_shards=100), 250, 40, 200),
    ],
)
def test_what_is_not_given_follows_from_the_amount_of_data(
    config: bnn.TrainConfig, n_samples: int, n_epochs: int, images_per_step: int
) -> None:
    assert config.n_epochs(n_samples) == n_epochs
    assert config.images_per_step(n_samples) == images_per_step
    trainer = bnn.Trainer(small_net(), config, n_samples)
    assert trainer.n_steps == n_epochs * (n_samples // images_per_step)


def test_finished_training_says_so(data: tuple[np.ndarray, np.ndarray]) -> None:
    trainer = bnn.Trainer(small_net(), CONFIG, N_SAMPLES)
    trainer.step = trainer.n_steps
    with pytest.raises(RuntimeError, match="all 8 steps are done"):
        trainer.train_step(*data)


def test_a_loss_that_is_not_finite_changes_nothing(data: tuple[np.ndarray, np.ndarray]) -> None:
    net = small_net()
    net.head.bias.data.fill_(math.nan)
    before = net.head.weight.detach().clone()
    trainer = bnn.Trainer(net, CONFIG, N_SAMPLES)
    with pytest.raises(RuntimeError, match="loss: not finite at step 0; lower learning_rate"):
        trainer.train_step(*data)
    assert trainer.step == 0
    assert torch.equal(net.head.weight.detach(), before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs: expected 1 or more"),
        ({"n_shards": 0}, "n_shards: expected 1 or more"),
        ({"batch_size": 33}, "batch_size: expected a multiple of n_shards = 2"),
        ({"batch_size": 2}, "batch_size: expected a multiple of n_shards = 2 with two images"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive"),
        ({"learning_rate": math.nan}, "learning_rate: expected a positive"),
        ({"warmup_fraction": 1.0}, "warmup_fraction: expected"),
        ({"seed": -1}, "seed: expected"),
    ],
)
def test_wrong_configuration_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bnn.TrainConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 7}, "n_samples: expected 8 or more"),
        ({"n_workers": 5}, "n_workers: expected 1 ... n_shards = 4, got 5"),
        ({"n_workers": 2, "rank": 2}, "rank: expected 0 ... 1, got 2"),
        ({"n_workers": 2}, "gather: expected a function for 2 workers"),
    ],
)
def test_wrong_workers_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bnn.Trainer(small_net(), CONFIG, **{"n_samples": N_SAMPLES, **arguments})


def test_wrong_data_are_refused(data: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = data
    trainer = bnn.Trainer(small_net(), CONFIG, N_SAMPLES)
    with pytest.raises(ValueError, match="expected the whole training data, 150 of each"):
        trainer.train_step(images[:32], labels[:32])
    with pytest.raises(ValueError, match=r"labels: expected 0 ... 2, got 0 ... 3"):
        trainer.train_step(images, labels + (np.arange(N_SAMPLES) == labels.argmax()))
    with pytest.raises(TypeError, match="labels: expected an integer dtype"):
        trainer.train_step(images, labels.astype(np.float64))
    with pytest.raises(TypeError, match="images: expected dtype uint8"):
        trainer.train_step(images.astype(np.float32), labels)  # type: ignore[arg-type]


def test_a_gather_of_the_wrong_shape_is_refused(data: tuple[np.ndarray, np.ndarray]) -> None:
    trainer = bnn.Trainer(small_net(), CONFIG, N_SAMPLES, n_workers=2, gather=lambda rows: rows)
    with pytest.raises(ValueError, match=r"gather: expected rows of shape \(4, \d+\), got \(2,"):
        trainer.train_step(*data)


def without(items: Iterable[tuple[str, torch.Tensor]], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in items if key != name}


def test_a_foreign_state_is_refused_and_changes_nothing() -> None:
    trainer = bnn.Trainer(small_net(), CONFIG, N_SAMPLES)
    tensors, counters = trainer.state()
    for changed, message in (
        ({"seed": 12}, "seed: expected 11, got 12"),
        ({"n_samples": 151}, "n_samples: expected 150"),
        ({"step": 9}, "step: expected 0 ... 8, got 9"),
        ({"extra": 1}, "counters: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.load_state(tensors, {**counters, **changed})
    with pytest.raises(ValueError, match=r"differing in \['adam.first_moment'\]"):
        trainer.load_state(without(tensors.items(), "adam.first_moment"), counters)
    wrong = {**tensors, "net.head.bias": torch.ones(4)}
    with pytest.raises(ValueError, match=r"net.head.bias: expected torch.float32 \(3,\)"):
        trainer.load_state(wrong, counters)
    assert all(torch.equal(tensors[name], value) for name, value in trainer.state()[0].items())

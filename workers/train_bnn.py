"""Trains the classifier and its full-precision twin, alone or as a group of Ray workers."""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import bnn
from bnn.models import Classifier, build_model
from bnn.training import Gather, TrainConfig
from workers.checkpoints import Checkpoint
from workers.config import ClassifierConfig, RunConfig
from workers.context import Outcome, RunContext, upstream
from workers.device import training_device
from workers.image_data import ImageData
from workers.scalars import Scalars, scalars_directory
from workers.storage import Json
from workers.training import checkpoint_store, learning_curve, train

_MAX_GROUP_FAILURES = 3


def check_network(config: RunConfig, data: ImageData) -> None:
    """Refuse a network that cannot be built or trained for the data; nothing is allocated.

    Raises
    ------
    ValueError
        Naming the key of the configuration.
    """
    n_samples, n_shards = len(data.train_labels), config.bnn.n_shards
    if n_samples < 2 * n_shards:
        raise ValueError(
            f"bnn.n_shards: expected two of the {n_samples} training images per shard or more, "
            f"got {n_shards} shards"
        )
    try:
        with torch.device("meta"):
            _network(config.bnn, data, full_precision=False)
    except ValueError as error:
        raise ValueError(f"bnn.model {config.bnn.model}: {error}") from error


def build_network(context: RunContext, *, full_precision: bool) -> Classifier:
    """Untrained network for the run's data."""
    return _network(context.config.bnn, context.data, full_precision=full_precision)


def _network(config: ClassifierConfig, data: ImageData, *, full_precision: bool) -> Classifier:
    height, width, channels = data.train_images.shape[1:]
    return build_model(
        config.model,
        (height, width, channels),
        len(data.label_names),
        config.widths or None,
        seed=config.seed,
        full_precision=full_precision,
        quantizer=config.quantizer,
    )


def published_network(context: RunContext, step: str) -> Classifier:
    """The network that a training step has published, on the CPU."""
    net = build_network(context, full_precision=step == "train_twin")
    net.load_state_dict(upstream(context, step).tensors)
    return net


def training_of(config: RunConfig, step: str) -> TrainConfig:
    """How a step trains: options of binary weights and of a teacher are not for the twin."""
    if step == "train_bnn":
        return config.bnn
    return replace(
        config.bnn,
        optimizer="adam",
        bop_gamma=None,
        bop_tau=None,
        real_weights_fraction=0.0,
        distillation_weight=0.0,
    )


def teachers(config: RunConfig) -> tuple[str, ...]:
    """Steps whose networks the binary network is taught by: the twin, if it distils."""
    return ("train_twin",) if config.bnn.distillation_weight > 0 else ()


def train_bnn(context: RunContext) -> Outcome:
    """Train the binary network, shared by ``cluster.n_workers`` workers."""
    return _train_classifier(context, "train_bnn", full_precision=False)


def train_twin(context: RunContext) -> Outcome:
    """Train the same topology with real weights and ReLU."""
    return _train_classifier(context, "train_twin", full_precision=True)


def _train_classifier(context: RunContext, part: str, *, full_precision: bool) -> Outcome:
    store = checkpoint_store(context.run_dir, part)
    resumed_from = store.latest_step()
    n_workers = context.config.cluster.n_workers
    if n_workers == 1:
        _train(context, part, full_precision)
    else:
        _train_in_group(context, part, full_precision, n_workers)
    final = store.latest()
    if final is None:
        raise RuntimeError(f"{part}: expected a checkpoint of the last step, got none")
    net = build_network(context, full_precision=full_precision)
    trainer = bnn.Trainer(
        net,
        training_of(context.config, part),
        len(context.data.train_labels),
        teacher=_teacher(context, part),
    )
    trainer.load_state(final.tensors, final.counters)
    values: dict[str, Json] = {
        "resumed_from_step": resumed_from,
        "n_steps": trainer.n_steps,
        "n_workers": n_workers,
        "curve": learning_curve(context.run_dir, part),
    }
    return Outcome(values, trainer.trained_state())


def _train(
    context: RunContext,
    part: str,
    full_precision: bool,
    *,
    rank: int = 0,
    n_workers: int = 1,
    gather: Gather | None = None,
    agree: Callable[[Checkpoint | None], Checkpoint | None] = lambda own: own,
) -> None:
    """Train as worker ``rank`` of ``n_workers``; every worker holds the same network."""
    torch.set_num_threads(context.config.threads_per_worker)
    device = training_device(context.config)
    images, labels = context.data.train_images, context.data.train_labels
    teacher = _teacher(context, part)
    trainer = bnn.Trainer(
        build_network(context, full_precision=full_precision).to(device),
        training_of(context.config, part),
        len(labels),
        rank=rank,
        n_workers=n_workers,
        gather=gather,
        teacher=None if teacher is None else teacher.to(device),
    )
    is_watched = rank == 0 and context.config.tensorboard
    with Scalars(scalars_directory(context.run_dir, part)) as scalars:

        def take_step() -> dict[str, float]:
            info = trainer.train_step(images, labels)
            if is_watched:
                scalars.write(info)
            return {"loss": info.loss, "accuracy": info.accuracy}

        train(
            trainer,
            take_step,
            context.run_dir,
            part,
            checkpoint_seconds=context.config.cluster.checkpoint_seconds,
            is_writer=rank == 0,
            agree=agree,
        )


def _teacher(context: RunContext, part: str) -> Classifier | None:
    """The trained network that ``part`` learns from, if it does."""
    steps = teachers(context.config) if part == "train_bnn" else ()
    return published_network(context, steps[0]).eval() if steps else None


def _train_in_group(context: RunContext, part: str, full_precision: bool, n_workers: int) -> None:
    """Train as a Ray Train group; Ray restarts it when a worker dies, checkpoints are ours.

    A training that is not finite is no worker's death: it would come to the same again.
    """
    import ray
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as GroupConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    storage = context.run_dir / "ray_train" / f"{part}-{uuid.uuid4().hex}"
    done = TorchTrainer(
        _work_in_group,  # type: ignore[arg-type]  # Ray types the older one, without a result
        train_loop_config={
            "context": ray.put(context),
            "part": part,
            "full_precision": full_precision,
        },
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=n_workers,
            use_gpu=context.config.device == "cuda",
            resources_per_worker={"CPU": context.config.threads_per_worker},
        ),
        run_config=GroupConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=_MAX_GROUP_FAILURES),
        ),
    ).fit()
    shutil.rmtree(storage, ignore_errors=True)
    not_finite: str | None = done.return_value  # type: ignore[attr-defined]  # as above
    if not_finite is not None:
        raise bnn.NotFiniteError(not_finite)


def _work_in_group(job: dict[str, Any]) -> str | None:
    """What each worker of a group does; returns what was not finite, the same on all."""
    import ray
    import torch.distributed as group

    context: RunContext = ray.get(job["context"])
    n_shards = context.config.bnn.n_shards
    rank, n_workers = group.get_rank(), group.get_world_size()

    def gather(local: Tensor) -> Tensor:
        rows = -(-n_shards // n_workers)  # workers with fewer shards send padding
        padded = torch.zeros(rows, local.shape[1])
        padded[: len(local)] = local.cpu()
        parts = [torch.empty_like(padded) for _ in range(n_workers)]
        group.all_gather(parts, padded)
        rows_in_order = [parts[s % n_workers][s // n_workers] for s in range(n_shards)]
        return torch.stack(rows_in_order).to(local.device)

    def agree(own: Checkpoint | None) -> Checkpoint | None:
        found = [own]
        group.broadcast_object_list(found, src=0)
        return found[0]

    try:
        _train(
            context,
            job["part"],
            job["full_precision"],
            rank=rank,
            n_workers=n_workers,
            gather=gather,
            agree=agree,
        )
    except bnn.NotFiniteError as error:
        return str(error)
    return None

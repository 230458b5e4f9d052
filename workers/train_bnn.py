"""Trains the classifier and its full-precision twin, alone or as a group of Ray workers."""

import shutil
import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import bnn
from bnn.training import Gather
from workers.checkpoints import Checkpoint
from workers.context import Outcome, RunContext
from workers.device import training_device
from workers.storage import Json
from workers.training import checkpoint_store, learning_curve, train

_MAX_GROUP_FAILURES = 3


def build_network(context: RunContext, *, full_precision: bool) -> bnn.BinaryConvNet:
    """Untrained network for the run's data."""
    height, width, channels = context.data.train_images.shape[1:]
    return bnn.BinaryConvNet(
        (height, width, channels),
        len(context.data.label_names),
        widths=context.config.bnn.widths,
        seed=context.config.bnn.seed,
        full_precision=full_precision,
    )


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
    trainer = bnn.Trainer(net, context.config.bnn, len(context.data.train_labels))
    trainer.load_state(final.tensors, final.counters)
    values: dict[str, Json] = {
        "resumed_from_step": resumed_from,
        "n_steps": trainer.n_steps,
        "n_workers": n_workers,
        "curve": learning_curve(context.run_dir, part),
    }
    return Outcome(values, net.state_dict())


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
    trainer = bnn.Trainer(
        build_network(context, full_precision=full_precision).to(device),
        context.config.bnn,
        len(labels),
        rank=rank,
        n_workers=n_workers,
        gather=gather,
    )

    def take_step() -> dict[str, float]:
        info = trainer.train_step(images, labels)
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


def _train_in_group(context: RunContext, part: str, full_precision: bool, n_workers: int) -> None:
    """Train as a Ray Train group; Ray restarts it when a worker dies, checkpoints are ours."""
    import ray
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as GroupConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    storage = context.run_dir / "ray_train" / f"{part}-{uuid.uuid4().hex}"
    TorchTrainer(
        _work_in_group,
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


def _work_in_group(job: dict[str, Any]) -> None:
    """What each worker of a group does."""
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

    _train(
        context,
        job["part"],
        job["full_precision"],
        rank=rank,
        n_workers=n_workers,
        gather=gather,
        agree=agree,
    )

"""Trains the Boltzmann machines: restricted, transductive, quantum and fully visible."""

import numpy as np
import torch
from torch import Tensor

import rbm
from rbm.quantum.training import OnStep
from workers.context import Outcome, RunContext
from workers.datasets import ImageData, load
from workers.device import training_device
from workers.progress import ProgressLog
from workers.storage import Json
from workers.training import checkpoint_store, learning_curve, progress_path, train

_THRESHOLD = 128
"""Pixels of 128 and more are on: the deterministic binarisation that figures are quoted for."""
_N_QUANTUM_EVENTS = 100


def unit_grid(data: ImageData) -> tuple[int, int]:
    """Height and width of the visible layer: those of the images, or (1, columns) of a table."""
    height, width, channels = data.train_images.shape[1:]
    return (1, channels) if height == width == 1 else (height, width)


def binary_rows(data: ImageData, part: str) -> Tensor:
    """Samples of the "train" or "test" part as rows of {0, 1}.

    Colours are averaged and are on from 128; a column of a table is on above its training median,
    because its middle says nothing about how it is distributed.

    Returns
    -------
    Tensor
        Shape (n_samples, height * width) of :func:`unit_grid`, uint8.
    """
    images = data.train_images if part == "train" else data.test_images
    if images.shape[1:3] == (1, 1):
        on = images > np.median(data.train_images, axis=0)
    else:
        on = images.mean(axis=-1) >= _THRESHOLD if images.shape[-1] > 1 else images >= _THRESHOLD
    return torch.from_numpy(on.astype(np.uint8)).flatten(1)


def train_rbm(context: RunContext) -> Outcome:
    """Train the RBM; its persistent chains are part of what is published."""
    config = context.config.rbm
    device = training_device(context.config)
    visible = binary_rows(context.data, "train").to(device)
    machine = rbm.RBM(visible.shape[1], config.n_hidden, seed=config.seed).to(device)
    trainer = rbm.Trainer(machine, config, len(visible))

    def take_step() -> dict[str, float]:
        info = trainer.train_step(visible)
        if info.pseudo_log_likelihood is None:
            raise TypeError("train_rbm: expected a machine of bits or spins")
        return {
            "pseudo_log_likelihood": info.pseudo_log_likelihood,
            "free_energy_gap": info.free_energy_gap,
        }

    resumed_from = train(
        trainer,
        take_step,
        context.run_dir,
        "train_rbm",
        checkpoint_seconds=context.config.cluster.checkpoint_seconds,
    )
    final = checkpoint_store(context.run_dir, "train_rbm").latest()
    if final is None:
        raise RuntimeError("train_rbm: expected a checkpoint of the last step, got none")
    values: dict[str, Json] = {
        "resumed_from_step": resumed_from,
        "n_steps": trainer.n_steps,
        "curve": learning_curve(context.run_dir, "train_rbm"),
    }
    return Outcome(values, final.tensors)


def fit_tbm(context: RunContext) -> Outcome:
    """Fit the transductive machine to the shipped digits, averaged to 4x4."""
    digits = load("digits")
    pixels = torch.from_numpy(np.concatenate([digits.train_images, digits.test_images]))
    # Back from 0 ... 255 to the grey levels 0 ... 16 of the file; rounding makes it exact.
    levels = (pixels.to(torch.float64) * (16 / 255)).round()
    fit = rbm.fit_tbm(rbm.tasks.digits_4x4(levels.flatten(1)), context.config.tbm)
    return Outcome(
        {
            "kl": fit.kl,
            "entropy": fit.entropy,
            "n_parameters": fit.n_parameters,
            "n_outcomes": fit.n_outcomes,
            "boundary": fit.is_boundary,
        },
        {"theta": torch.from_numpy(fit.machine.theta)},
    )


def train_qbm(context: RunContext) -> Outcome:
    """Train the quantum machine on the Bernoulli mixture."""
    report = _reporter(context, "train_qbm")
    fit = rbm.quantum.fit_quantum(context.config.qbm, on_step=report)
    n_steps = context.config.qbm.n_steps
    report(n_steps, n_steps, fit.kl)
    field = fit.machine.transverse_field
    values: dict[str, Json] = {
        "kl": fit.kl,
        "mean_transverse_field": float(field.abs().mean()),
        "curve": learning_curve(context.run_dir, "train_qbm"),
    }
    return Outcome(values, _named(fit.machine.parameters()))


def train_bm(context: RunContext) -> Outcome:
    """Train the classical machine with the same graph on the same mixture."""
    report = _reporter(context, "train_bm")
    fit = rbm.quantum.fit_classical(context.config.qbm, on_step=report)
    n_steps = context.config.qbm.n_classical_steps
    report(n_steps, n_steps, fit.kl)
    values: dict[str, Json] = {"kl": fit.kl, "curve": learning_curve(context.run_dir, "train_bm")}
    return Outcome(values, _named(fit.machine.parameters()))


def _reporter(context: RunContext, part: str) -> OnStep:
    log = ProgressLog(progress_path(context.run_dir, part))

    def report(step: int, n_steps: int, kl: float) -> None:
        if step % max(1, n_steps // _N_QUANTUM_EVENTS) == 0 or step == n_steps:
            log.report(step, n_steps, {"kl": kl})

    return report


def _named(parameters: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return dict(zip(("bias", "couplings", "transverse_field"), parameters, strict=False))

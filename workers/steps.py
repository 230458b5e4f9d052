"""The steps of a run: a literal table, which of them a job consists of, and how one is done.

A step reads what earlier steps published, does its work where Ray puts it, and publishes a record.
Started again after a kill, a finished step returns what it published and an unfinished one goes on
from its newest checkpoint.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from workers.config import RunConfig
from workers.context import Outcome, RunContext, published, record_directory
from workers.evaluate_bnn import evaluate_bnn, fit_floor
from workers.evaluate_rbm import evaluate_rbm
from workers.records import save_record
from workers.ship import build_runtimes, export_network, verify_on_arm, verify_on_host
from workers.storage import Json
from workers.train_bnn import teachers, train_bnn, train_twin
from workers.train_rbm import fit_tbm, train_bm, train_qbm, train_rbm


@dataclass(frozen=True)
class Step:
    """One step: what it does, in words and in code, and whose records it reads."""

    title: str
    work: Callable[[RunContext], Outcome]
    after: tuple[str, ...] = ()
    has_progress: bool = False
    also_after: Callable[[RunConfig], tuple[str, ...]] = lambda config: ()


STEPS: dict[str, Step] = {
    "train_bnn": Step("train binary network", train_bnn, has_progress=True, also_after=teachers),
    "train_twin": Step("train full-precision twin", train_twin, has_progress=True),
    "train_rbm": Step("train RBM", train_rbm, has_progress=True),
    "fit_tbm": Step("fit transductive Boltzmann machine", fit_tbm),
    "train_qbm": Step("train quantum Boltzmann machine", train_qbm, has_progress=True),
    "train_bm": Step("train classical Boltzmann machine", train_bm, has_progress=True),
    "fit_floor": Step("fit floor: logistic regression", fit_floor),
    "build_runtimes": Step("build runtimes for host and ARM", build_runtimes),
    "evaluate_bnn": Step(
        "evaluate binary network, twin and integers",
        evaluate_bnn,
        after=("train_bnn", "train_twin"),
    ),
    "evaluate_rbm": Step("estimate RBM likelihood, draw samples", evaluate_rbm, ("train_rbm",)),
    "export": Step("export integer network", export_network, ("evaluate_bnn", "fit_floor")),
    "verify_host": Step("verify on the host runtime", verify_on_host, ("export", "build_runtimes")),
    "verify_arm": Step("verify on the ARM emulator", verify_on_arm, ("export", "build_runtimes")),
}
"""In an order in which each could be done; the long ones first, so that cores are never idle."""

JOBS: dict[str, tuple[str, ...]] = {
    "everything": tuple(STEPS),
    "bnn": (
        "train_bnn",
        "train_twin",
        "fit_floor",
        "build_runtimes",
        "evaluate_bnn",
        "export",
        "verify_host",
        "verify_arm",
    ),
}
"""What a run can be about -> its steps. A job holds every step that one of its steps reads."""


def steps_of(config: RunConfig) -> dict[str, Step]:
    """Steps that a configuration asks for, each after those that it reads.

    Returns
    -------
    dict
        In the table's order as far as reading allows; ``after`` holds what the configuration adds.
    """
    waiting = {
        name: replace(STEPS[name], after=STEPS[name].after + STEPS[name].also_after(config))
        for name in JOBS[config.job]
    }
    ordered: dict[str, Step] = {}
    while waiting:
        name = next(n for n, step in waiting.items() if ordered.keys() >= set(step.after))
        ordered[name] = waiting.pop(name)
    return ordered


def do_step(name: str, context: RunContext) -> dict[str, Json]:
    """Do one step of the table, or return what it published before.

    Returns
    -------
    dict
        The published values, among them ``seconds`` of work in the attempt that finished it.
    """
    done = published(context.run_dir, name)
    if done is not None:
        return done.values
    torch.set_num_threads(context.config.threads_per_worker)
    started = time.monotonic()
    outcome = STEPS[name].work(context)
    values: dict[str, Json] = {**outcome.values, "seconds": round(time.monotonic() - started, 3)}
    save_record(record_directory(context.run_dir, name), values, outcome.tensors)
    return values

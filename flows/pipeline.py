"""The main job: data, training side by side on Ray, evaluation, export, verification, report.

Each step is one Prefect task that starts the step on Ray, watches its progress and returns its
small published record. Futures are passed on, so the run's graph in the UI has arrows.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast
from uuid import UUID

from flows.settings import set_prefect_environment

set_prefect_environment()

from prefect import flow, task  # noqa: E402
from prefect.artifacts import create_progress_artifact, update_progress_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.futures import PrefectFuture  # noqa: E402
from prefect.logging import get_run_logger  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from rich.console import Console  # noqa: E402

from flows.display import Display  # noqa: E402
from flows.exits import raise_on_mismatch  # noqa: E402
from flows.plan import Plan, make_plan, owned  # noqa: E402
from flows.publish import publish_result  # noqa: E402
from workers.config import RunConfig  # noqa: E402
from workers.context import RunContext, published  # noqa: E402
from workers.device import check_gpus  # noqa: E402
from workers.progress import ProgressReader  # noqa: E402
from workers.runtime import check_storage, cluster, share, start_step, step_values, wait_for  # noqa: E402
from workers.steps import Step, steps_of  # noqa: E402
from workers.storage import Json  # noqa: E402
from workers.training import checkpoint_store, progress_path  # noqa: E402

_POLL_SECONDS = 0.5
_ARTIFACT_SECONDS = 2.0  # between two updates of a progress artifact


class Interrupted(RuntimeError):
    """The run was stopped from outside; what it has saved stays."""


@dataclass(eq=False)
class Session:
    """One execution of a plan, shared by the tasks of a flow run in this process."""

    plan: Plan
    display: Display
    resumed_from: str | None
    steps: dict[str, Step] = field(init=False)
    started: float = field(default_factory=time.time)
    stopping: bool = False  # the waiting tasks see it and let go
    interrupted: bool = False
    context_ref: Any = None  # Ray's reference to the RunContext
    started_steps: dict[str, Any] = field(default_factory=dict)  # Ray's references to their values
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.steps = steps_of(self.plan.config)

    def fail(self, error: BaseException) -> None:
        """Keep the first error of a step, and let the others go: what they saved stays."""
        if self.error is None:
            self.error = error
        self.stopping = True

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Take note of Ctrl-C; a second one does not wait for the tasks to let go."""
        self.interrupted = self.stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Handle:
    """Carries a session through Prefect, which would look into a dataclass for futures."""

    def __init__(self, session: Session) -> None:
        self.session = session


def resume_point(plan: Plan) -> str | None:
    """Where a run goes on, in words, or None if nothing of it has been saved."""
    parts = []
    for name, step in steps_of(plan.config).items():
        if published(plan.run_dir, name) is not None:
            parts.append(f"{step.title}: done")
        elif step.has_progress:
            n = checkpoint_store(plan.run_dir, name).latest_step()
            if n:
                parts.append(f"{step.title}: from step {n}")
    return "; ".join(parts) or None


def _flow_run_name() -> str:
    parameters = flow_run.parameters
    plan = make_plan(parameters["config"], parameters.get("forced_key"))
    return f"{plan.run_key} {plan.title}"


@flow(name="bitspin", flow_run_name=_flow_run_name, persist_result=False)
def pipeline(
    config: RunConfig, fresh: bool = False, forced_key: str | None = None
) -> dict[str, Json]:
    """Train, evaluate, export, verify and report; resumes what an earlier attempt has saved.

    Parameters
    ----------
    config
        What to train and where.
    fresh
        Set the work of earlier attempts aside and start again.
    forced_key
        Continue the run of this key although code or machine have changed since.

    Returns
    -------
    dict
        The run's result record, as in ``result.json``.

    Raises
    ------
    VerificationError
        If a binary did not return the integer network's integers; the report is written before.
    """
    plan = make_plan(config, forced_key)
    console = Console(stderr=True)
    with owned(plan, fresh=fresh):
        session = Session(plan, Display(console), resume_point(plan))
        if session.resumed_from:
            console.print(f"resuming: {session.resumed_from}", soft_wrap=True, highlight=False)
        with cluster(config.cluster), session.display:
            try:
                check_storage(plan.run_dir, config.cluster)
                check_gpus(config)
                with _interruptible(session):
                    result = _run_steps(Handle(session))
            except BaseException:
                session.stopping = True
                raise
    raise_on_mismatch(result)
    return result


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """Let Ctrl-C set a mark that the tasks poll, for the length of the block.

    Python would raise KeyboardInterrupt between any two instructions of the main thread, which
    waits in Prefect's code; a lock that is held there would never be released.
    """
    handled = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if handled:
        signal.signal(signal.SIGINT, session.interrupt)
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_steps(handle: Handle) -> dict[str, Json]:
    prepared = prepare.submit(handle)
    futures: dict[str, PrefectFuture[Any]] = {}
    for name, step in handle.session.steps.items():
        after = [futures[other] for other in step.after] or [prepared]
        named = run_step.with_options(name=step.title, task_run_name=step.title)
        futures[name] = named.submit(handle, name, after)
    reported = report.submit(handle, list(futures.values()))
    for future in (*futures.values(), reported):  # none may be left in Ray when it shuts down
        future.wait()
    if handle.session.interrupted:
        raise KeyboardInterrupt
    if handle.session.error is not None:  # Prefect would say only that the report is not ready
        raise handle.session.error
    result: dict[str, Json] = reported.result()
    return result


@task(
    name="prepare data", task_run_name="prepare data", cache_policy=NO_CACHE, persist_result=False
)
def prepare(handle: Handle) -> str:
    """Hand the verified data to the cluster and start the steps that need nothing else."""
    session, data = handle.session, handle.session.plan.data
    session.display.begin("prepare data")
    plan = session.plan
    context = RunContext(plan.run_dir, plan.run_key, plan.config, data)
    session.context_ref = share(context)
    # Here, because the order of the steps is the best use of the cores.
    for name, step in session.steps.items():
        if not step.after:
            session.started_steps[name] = _start(session, name)
    get_run_logger().info("%s, %s. %s", data.name, data.source, data.reason)
    note = f"{data.name}: {len(data.train_labels):,} + {len(data.test_labels):,}"
    session.display.end("prepare data", note)
    return note


@task(cache_policy=NO_CACHE, persist_result=False)
def run_step(handle: Handle, name: str, after: Sequence[object]) -> dict[str, Json]:
    """Start a step on Ray, follow its progress, and return what it published."""
    session, step = handle.session, handle.session.steps[name]
    session.display.begin(step.title)
    try:
        values = _watch(session, name, session.started_steps.get(name) or _start(session, name))
    except BaseException as error:
        session.fail(error)
        raise
    seconds = values.get("seconds")
    session.display.end(step.title, f"{seconds} s")
    get_run_logger().info("%s: done in %s s of work", step.title, seconds)
    # Curves and tables are on disk; the task's result stays small.
    return {key: v for key, v in values.items() if not isinstance(v, list | dict)}


def _start(session: Session, name: str) -> Any:
    return start_step(name, session.context_ref, session.plan.config)


def _watch(session: Session, name: str, reference: Any) -> dict[str, Json]:
    step = session.steps[name]
    reader = ProgressReader(progress_path(session.plan.run_dir, name))
    artifact = None
    if step.has_progress:
        artifact = cast(UUID, create_progress_artifact(0.0, description=step.title))
    updated = time.monotonic()
    while True:
        done = wait_for(reference, _POLL_SECONDS)
        event = reader.latest()
        if event is not None:
            note = ", ".join(
                f"{key.replace('_', ' ')} {value:.4g}"
                for key, value in event.items()
                if key not in ("step", "n_steps")
            )
            session.display.move(step.title, event["step"], event["n_steps"], note)
            if artifact is not None and (done or time.monotonic() - updated > _ARTIFACT_SECONDS):
                update_progress_artifact(artifact, 100.0 * event["step"] / event["n_steps"])
                updated = time.monotonic()
        if done:
            return step_values(reference)
        if session.stopping:
            raise Interrupted(f"{step.title}: stopped")


@task(
    name="write report", task_run_name="write report", cache_policy=NO_CACHE, persist_result=False
)
def report(handle: Handle, after: Sequence[object]) -> dict[str, Json]:
    """Gather what the steps published into the result record, the report and the artifacts."""
    session = handle.session
    session.display.begin("write report")
    result = publish_result(
        session.plan, started=session.started, resumed_from=session.resumed_from
    )
    session.display.end("write report", "")
    return result

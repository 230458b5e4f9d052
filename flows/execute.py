"""Carry a plan out from the command line, and say what a person wants to know about it."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console

from flows.exits import VerificationError, raise_on_mismatch
from flows.plan import Plan, check_run_directory
from flows.runs import find_run, read_result
from flows.summary import summary_table
from workers.device import check_device
from workers.runtime import ClusterConfig, available_cores, check_reachable
from workers.steps import steps_of
from workers.storage import Json


def execute(plan: Plan, *, fresh: bool) -> None:
    """Do the run of ``plan``, or show its result if it is finished already.

    Raises
    ------
    VerificationError
        If a binary did not return the integer network's integers.
    KeyboardInterrupt
        After saying how to resume.
    """
    console = Console()
    if plan.is_finished and not fresh:
        console.print(f"run {plan.run_key} is finished; do it again with --fresh", soft_wrap=True)
    result = carry_out(plan, fresh=fresh)
    console.print(summary_table(result))
    console.print(f"report: {plan.run_dir / 'report.html'}", soft_wrap=True)
    raise_on_mismatch(result)


def carry_out(plan: Plan, *, fresh: bool) -> dict[str, Json]:
    """Do the run of ``plan`` unless it is finished, and return its result record.

    A mismatch is in the record and raises nothing here, so that the caller can show the rest first.

    Raises
    ------
    KeyboardInterrupt
        After saying how to resume.
    """
    if plan.is_finished and not fresh:
        return read_result(find_run(plan.run_key))
    errors = Console(stderr=True)
    check_run_directory(plan.run_dir)
    check_reachable(plan.config.cluster)
    check_device(plan.config)
    for line in describe(plan)[:3]:
        errors.print(line, soft_wrap=True, highlight=False)
    try:
        return _run_flow(plan, fresh=fresh)
    except VerificationError:  # the report is written and worth seeing
        return read_result(find_run(plan.run_key))
    except KeyboardInterrupt:
        errors.print(f"stopped; go on with: bitspin resume {plan.run_key}", soft_wrap=True)
        raise


def print_plan(plan: Plan) -> None:
    """Say what a run would do, having done every check and started nothing.

    Raises
    ------
    RunError
        If the run directory cannot be used.
    ClusterError
        If the cluster does not answer.
    """
    console = Console()
    check_run_directory(plan.run_dir)
    check_reachable(plan.config.cluster)
    check_device(plan.config)
    for line in describe(plan):
        console.print(line, soft_wrap=True, highlight=False)


def describe(plan: Plan) -> list[str]:
    """Lines for a person: run, data, place, state, cluster, steps."""
    data = plan.data
    state = "finished" if plan.is_finished else "to be resumed" if plan.is_started else "new"
    return [
        f"run {plan.run_key}: {plan.title}",
        f"data: {data.name}, {data.source}. {data.reason}",
        f"directory: {plan.run_dir} ({state})",
        f"cluster: {_describe_cluster(plan.config.cluster)}",
        *(["device: one GPU for each training worker"] if plan.config.device == "cuda" else []),
        "steps:",
        *(f"  {step.title}" for step in steps_of(plan.config).values()),
        "  write report",
    ]


def _describe_cluster(config: ClusterConfig) -> str:
    place = config.address
    if place == "local":
        place = f"a local one with {config.n_cpus or available_cores()} cores"
    workers = "1 worker" if config.n_workers == 1 else f"{config.n_workers} workers"
    return f"{place}, {workers} for the binary network"


def _run_flow(plan: Plan, *, fresh: bool) -> dict[str, Json]:
    from flows.pipeline import pipeline

    server = _start_server()
    with _ended_with_this_process(server) if server else nullcontext():
        return pipeline(plan.config, fresh=fresh, forced_key=plan.run_key)


def _start_server() -> int | None:
    """Start Prefect's embedded server out of the reach of Ctrl-C; None if the user has one.

    A terminal sends Ctrl-C to every process in the foreground. The server must outlive it by the
    moment that it takes to record the interrupted run; it inherits a mask that blocks the signal,
    and ends with this process. A Ctrl-C meanwhile is delivered right after.
    """
    from prefect.client.orchestration import get_client
    from prefect.server.api.server import SubprocessASGIServer

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            client.hello()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    process = SubprocessASGIServer().server_process
    return None if process is None else process.pid


@contextmanager
def _ended_with_this_process(pid: int) -> Iterator[None]:
    """Have another process end with this one, also if this one is killed in the block.

    A shell reads from a pipe that only this process holds open, and nobody writes to.
    """
    watch = subprocess.Popen(
        ["sh", "-c", f"read line; kill {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of the reach of Ctrl-C, too
    )
    try:
        yield
    finally:
        watch.kill()
        watch.communicate()

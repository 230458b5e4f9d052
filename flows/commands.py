"""What the commands of ``bitspin`` do; the command line itself is in :mod:`flows.cli`."""

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from flows.runs import RunError, find_run, list_runs, model_path, read_result
from workers.storage import Json


def run_command(
    config_path: Path | None,
    data: Path | None,
    settings: list[str],
    ray_address: str | None,
    *,
    fresh: bool,
    dry_run: bool,
) -> None:
    """Do the main job, or print what it would do."""
    from flows.config_file import load_config
    from flows.execute import execute, print_plan
    from flows.plan import make_plan

    if data is not None:
        settings = [*settings, f"data.path={json.dumps(str(data.absolute()))}"]
    if ray_address is not None:
        settings = [*settings, f"cluster.address={json.dumps(ray_address)}"]
    plan = make_plan(load_config(config_path, settings))
    if dry_run:
        print_plan(plan)
    else:
        execute(plan, fresh=fresh)


def resume_command(name: str, ray_address: str | None, *, allow_code_change: bool) -> None:
    """Continue a run with the configuration it was started with."""
    from flows.execute import execute
    from flows.plan import make_plan, stored_config

    found = find_run(name)
    cluster: dict[str, Json] = {"address": ray_address} if ray_address else {}
    config = stored_config(found, cluster)
    plan = make_plan(config)
    if plan.run_key != found.run_key:
        if not allow_code_change:
            raise RunError(
                f"run {found.run_key}: expected the code, data and machine it was started with, "
                f"got others (now {plan.run_key}); add --allow-code-change to go on all the same"
            )
        plan = make_plan(config, found.run_key)
    execute(plan, fresh=False)


def runs_command(*, as_json: bool) -> None:
    """List all runs, newest first."""
    runs = list_runs()
    if as_json:
        print_json(
            [
                {
                    "run_key": run.run_key,
                    "title": run.title,
                    "state": run.state,
                    "created": run.created,
                    "directory": str(run.run_dir),
                }
                for run in runs
            ]
        )
        return
    table = Table("run", "state", "created", "what it trains", box=None)
    for run in runs:
        table.add_row(run.run_key, run.state, run.created, run.title)
    Console().print(table if runs else "no runs yet; start one with bitspin run")


def show_command(name: str, *, as_json: bool) -> None:
    """Show the result of a finished run, or what is in a model file."""
    if name.endswith(".bspn"):
        from flows.model_page import page_command

        page_command(model_path(name), as_json=as_json)
        return
    run = find_run(name)
    result = read_result(run)
    if as_json:
        print_json(result)
        return
    from flows.summary import summary_table

    console = Console()
    console.print(summary_table(result))
    console.print(f"report: {run.run_dir / 'report.html'}", soft_wrap=True)


def export_command(name: str, target: str, out: Path) -> None:
    """Write the libraries, the model and what goes with them for one target."""
    from kernels.bundle import write_bundle
    from kernels.targets import TARGETS

    if target not in TARGETS:
        raise RunError(f"--target: expected one of {', '.join(TARGETS)}, got {target!r}")
    files = write_bundle(model_path(name).read_bytes(), target, out)
    Console().print(f"{target}: {', '.join(files)} in {out}", soft_wrap=True)


def data_list_command(*, as_json: bool) -> None:
    """List the known data sets and where each was found."""
    import dataclasses

    from workers.datasets import catalogue

    records = catalogue()
    if as_json:
        print_json([{k: _plain(v) for k, v in dataclasses.asdict(r).items()} for r in records])
        return
    table = Table("name", "train + test", "found", "licence", box=None)
    for record in records:
        found = record.present_at or f"missing: bitspin data get {record.name}"
        rows = f"{record.n_train:,} + {record.n_test:,}"
        table.add_row(record.name, rows, found, record.licence)
    Console().print(table)


def data_get_command(name: str) -> None:
    """Download a data set into the cache and verify it."""
    from workers.datasets import fetch

    Console().print(f"{name}: verified, in {fetch(name)}", soft_wrap=True)


def _plain(value: object) -> Json:
    return value if isinstance(value, None | bool | int | float) else str(value)


def print_json(value: object) -> None:
    """Print ``value`` for a script."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))

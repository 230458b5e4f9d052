"""What the commands of ``bitspin`` do; the command line itself is in :mod:`flows.cli`."""

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from flows.runs import RunError, find_run, list_runs, read_result
from workers.storage import Json, write_bytes


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
        _print_json(
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
    """Show the result of a finished run."""
    run = find_run(name)
    result = read_result(run)
    if as_json:
        _print_json(result)
        return
    from flows.summary import summary_table

    console = Console()
    console.print(summary_table(result))
    console.print(f"report: {run.run_dir / 'report.html'}", soft_wrap=True)


def export_command(name: str, target: str, out: Path) -> None:
    """Write model, library, header and checksums for one target."""
    from kernels import read_model
    from kernels.build import SOURCES, TARGETS, build_library
    from workers.ship import MODEL_FILE, sha256_file

    if target not in TARGETS:
        raise RunError(f"--target: expected one of {', '.join(TARGETS)}, got {target!r}")

    run = find_run(name)
    model = run.run_dir / MODEL_FILE
    if not model.is_file():
        raise RunError(
            f"run {run.run_key}: expected an exported model, got none yet; "
            f"finish it with bitspin resume {run.run_key}"
        )
    read_model(model.read_bytes())  # a damaged file does not leave the house
    library = build_library(target)
    files = {"model.bspn": model, "bitspin.h": SOURCES / "bitspin.h", "libbitspin.so": library}
    for file, source in files.items():
        write_bytes(out / file, source.read_bytes())
    sums = "".join(f"{sha256_file(out / file)}  {file}\n" for file in sorted(files))
    write_bytes(out / "SHA256SUMS", sums.encode())
    Console().print(
        f"{target}: {', '.join([*sorted(files), 'SHA256SUMS'])} in {out}", soft_wrap=True
    )


def data_list_command(*, as_json: bool) -> None:
    """List the known data sets and where each was found."""
    import dataclasses

    from workers.datasets import catalogue

    records = catalogue()
    if as_json:
        _print_json([{k: _plain(v) for k, v in dataclasses.asdict(r).items()} for r in records])
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


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))

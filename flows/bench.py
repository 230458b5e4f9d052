"""``bitspin bench``: how fast the kernels are, on this machine, its GPU and modelled ARM cores."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Time the kernels beside their limits and their peers.", no_args_is_help=True
)

PEERS = Path(__file__).parent.parent / "tests" / "benchmarks" / "peers"
"""Scripts that time other libraries, in a checkout."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where the picture goes, roofline-*.png.")
]


@app.command("kernels")
def bench_kernels(
    quick: Annotated[
        bool, typer.Option("--quick", help="A case per operation and short times.")
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Run other libraries as well, from a checkout.")
    ] = False,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Time every operation beside torch and the limit of this machine's ports.

    Example: bitspin bench kernels --quick --out bench/
    """
    scripts = find_peers() if peers else []
    from kernels.bench import print_kernels

    records = [record for script in scripts for record in run_peer(script)]
    print_kernels(quick=quick, as_json=as_json, out=out, peers=records)


@app.command("bnn")
def bench_bnn(
    quick: Annotated[bool, typer.Option("--quick", help="As few steps as possible.")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Run other libraries as well, those installed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time and weigh a training step of a binary network beside plain torch and other libraries.

    Example: bitspin bench bnn --peers
    """
    from kernels.errors import BackendUnavailable

    scripts = find_peers(PEERS / "bnn") if peers else []
    records = []
    for script in scripts:
        try:
            records += run_peer(script)
        except BackendUnavailable as error:  # one library less is no reason to time none
            typer.echo(f"left out: {error}", err=True)
    from dataclasses import asdict

    from bnn.bench import run_training

    report = run_training(quick=quick)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "peers": records}, indent=2))
        return
    lines = [*report.lines(), *(_peer_line(record, report.packed_ms) for record in records)]
    typer.echo("\n".join(lines))


@app.command("arm")
def bench_arm(
    quick: Annotated[bool, typer.Option("--quick", help="One size of everything.")] = False,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Count instructions of the ARM kernels in the emulator, and model their cycles.

    Example: bitspin bench arm --json
    """
    from kernels.bench import print_arm

    print_arm(quick=quick, as_json=as_json, out=out)


@app.command("gpu")
def bench_gpu(
    quick: Annotated[bool, typer.Option("--quick", help="As few samples as possible.")] = False,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the record goes, gpu.json.")
    ] = None,
) -> None:
    """Measure the rates of this machine's GPU, and what is promised of the kernels on it.

    Example: bitspin bench gpu --json
    """
    from kernels.bench_gpu import print_gpu

    if print_gpu(quick=quick, as_json=as_json, out=out):
        raise typer.Exit(1)


def _peer_line(record: dict[str, object], own_ms: float) -> str:
    """A library's step beside ours: its record names itself and its milliseconds."""
    theirs = float(str(record["step_ms"]))
    return f"  {record['library']!s:<14}{theirs:8.1f} ms  ({theirs / own_ms:.2f} of bnn's)"


def find_peers(folder: Path | None = None) -> list[Path]:
    """Scripts that time other libraries; they are not installed, only in a checkout.

    Raises
    ------
    BackendUnavailable
        If there are none; the message says where they are.
    """
    from kernels.errors import BackendUnavailable

    folder = folder or PEERS
    scripts = sorted(folder.glob("*.py"))
    if not scripts:
        raise BackendUnavailable(
            f"peers: expected scripts in {folder}, got none; they are not installed with bitspin, "
            "run this command in a checkout of its repository"
        )
    return scripts


def run_peer(script: Path) -> list[dict[str, object]]:
    """Run a script that prints a JSON object per line.

    Raises
    ------
    BackendUnavailable
        If it fails, as it does where its library is not installed.
    """
    from kernels.errors import BackendUnavailable

    environment = {**os.environ, "PYTHONPATH": str(PEERS.parents[2])}
    command = [sys.executable, str(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
        raise BackendUnavailable(
            f"{script.name}: {last}; pip install -r {script.parent / 'requirements.txt'}"
        )
    return [json.loads(line) for line in result.stdout.splitlines()]

"""The ``bitspin`` command: each command is a thin face of a function.

Everything heavy is imported inside the commands, so that ``--help`` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.bench import app as bench_app
from flows.train import app as train_app

app = typer.Typer(
    name="bitspin",
    help="Train models made of bits and spins, and ship them to phones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="Data sets: what is at hand, and how to get the others.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(train_app, name="train")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
RunArgument = Annotated[str, typer.Argument(help="Run key, its beginning, or latest.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, as in --set bnn.epochs=3."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="A running Ray cluster instead of a local one."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from kernels.version import __version__

        typer.echo(f"bitspin {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="Configuration, TOML.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|FILE.npz|FILE.csv", help="Your own images or table."),
    ] = None,
    settings: SetOption = None,
    ray_address: AddressOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again, set old work aside.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the plan only.")
    ] = False,
) -> None:
    """From data to a verified ARM binary and a report; a killed run resumes.

    Example: bitspin run --data photos/ --set bnn.epochs=10
    """
    from flows.commands import run_command

    run_command(config, data, settings or [], ray_address, fresh=fresh, dry_run=dry_run)


@app.command()
def resume(
    run_name: RunArgument,
    ray_address: AddressOption = None,
    allow_code_change: Annotated[
        bool, typer.Option("--allow-code-change", help="Go on although the code is not the same.")
    ] = False,
) -> None:
    """Continue an unfinished run with the configuration it was started with.

    Example: bitspin resume latest
    """
    from flows.commands import resume_command

    resume_command(run_name, ray_address, allow_code_change=allow_code_change)


@app.command()
def runs(as_json: JsonOption = False) -> None:
    """List all runs, newest first.

    Example: bitspin runs --json
    """
    from flows.commands import runs_command

    runs_command(as_json=as_json)


@app.command()
def show(
    run_name: Annotated[str, typer.Argument(metavar="[RUN|latest|MODEL.bspn]")] = "latest",
    as_json: JsonOption = False,
) -> None:
    """Show the result of a finished run, or what is in a model file.

    Example: bitspin show latest --json
    """
    from flows.commands import show_command

    show_command(run_name, as_json=as_json)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .bspn file, or a run.")],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Images (.png, .jpg), .npz, .npy or .csv."),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to give.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Classify your own images or rows; they must have the size that the model was trained on.

    Example: bitspin predict latest photo.png --top 3
    """
    from flows.predict import predict_command

    predict_command(model, files, top=top, as_json=as_json)


@app.command()
def export(
    run_name: Annotated[str, typer.Argument(help="Run key, latest, or a .bspn file.")],
    target: Annotated[
        str, typer.Option(help="What to build for; a wrong name lists them.")
    ] = "aarch64-linux",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("export"),
) -> None:
    """Write library, header, model, example and wrappers for one target.

    Example: bitspin export latest --target aarch64-android --out phone/
    """
    from flows.commands import export_command

    export_command(run_name, target, out)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can do, and the command that adds what is missing.

    Example: bitspin doctor
    """
    from flows.doctor import doctor_command

    doctor_command(as_json=as_json)


@data_app.command("list")
def data_list(as_json: JsonOption = False) -> None:
    """List the known data sets and where each was found.

    Example: bitspin data list
    """
    from flows.commands import data_list_command

    data_list_command(as_json=as_json)


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(help="Name, as in bitspin data list.")]) -> None:
    """Download a data set into the cache and verify it.

    Example: bitspin data get mnist
    """
    from flows.commands import data_get_command

    data_get_command(name)


def main() -> None:
    """Entry point: every known mistake becomes one line and its exit code."""
    from flows.exits import exit_code_of

    try:
        code = app(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = exit_code_of(error)
    sys.exit(code)


if __name__ == "__main__":
    main()

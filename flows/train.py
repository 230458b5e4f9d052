"""``bitspin train``: one model alone, through the steps of the main job that are about it."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train one kind of model alone, and verify it.", no_args_is_help=True)


@app.command("bnn")
def train_bnn(
    config: Annotated[Path | None, typer.Argument(help="Configuration, TOML.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="A recipe of the zoo; --list names them.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights, order of the data, and a drawn split.")
    ] = None,
    n_seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs, with seeds one after the other.")
    ] = 1,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|FILE.npz|FILE.csv", help="Your own images or table."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value: --set bnn.epochs=3."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A running Ray cluster.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write scalars into the run's directory.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again, set old work aside.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the plan only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Train a binary network and its twin, export it and verify it; a killed run resumes.

    Example: bitspin train bnn --recipe digits-mlp --seeds 3
    """
    from flows.train_command import Request, list_command, train_command

    if show_list:
        list_command(as_json=as_json)
        return
    request = Request(
        config_path=config,
        recipe=recipe,
        seed=seed,
        n_seeds=n_seeds,
        data=data,
        settings=tuple(settings or ()),
        ray_address=ray_address,
        tensorboard=tensorboard,
    )
    train_command(request, fresh=fresh, dry_run=dry_run, as_json=as_json)

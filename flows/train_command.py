"""What ``bitspin train bnn`` does: one run per seed, and their figures side by side."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows.commands import print_json
from flows.config_file import load_config
from flows.execute import carry_out, print_plan
from flows.exits import raise_on_mismatch
from flows.plan import make_plan
from flows.scoreboard import score_of, score_record, score_table
from flows.wording import count, percent
from workers.config import RunConfig
from workers.storage import Json


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked to be trained."""

    config_path: Path | None = None
    recipe: str | None = None
    seed: int | None = None
    n_seeds: int = 1
    data: Path | None = None
    settings: tuple[str, ...] = ()
    ray_address: str | None = None
    tensorboard: bool = False


def configurations(request: Request) -> list[RunConfig]:
    """Configuration of every run that is asked for, one per seed.

    A seed is the network's and the split's: where a split is drawn, the spread over seeds is that
    over splits, too.

    Raises
    ------
    ConfigError
        As :func:`flows.config_file.load_config`.
    """
    settings = ['job="bnn"', *request.settings]
    options = {
        "recipe": request.recipe,
        "cluster.address": request.ray_address,
        "data.path": None if request.data is None else str(request.data.absolute()),
    }
    settings += [f"{key}={json.dumps(v)}" for key, v in options.items() if v is not None]
    settings += ["tensorboard=true"] if request.tensorboard else []
    if request.seed is None and request.n_seeds == 1:
        return [load_config(request.config_path, settings)]
    first = request.seed
    if first is None:
        first = load_config(request.config_path, settings).bnn.seed
    return [
        load_config(request.config_path, [*settings, f"bnn.seed={seed}", f"data.seed={seed}"])
        for seed in range(first, first + request.n_seeds)
    ]


def train_command(request: Request, *, fresh: bool, dry_run: bool, as_json: bool) -> None:
    """Do the runs that are asked for one after the other, and print their figures.

    A finished run is found and not done again.

    Raises
    ------
    VerificationError
        If a binary did not return the integer network's integers; the figures are printed before.
    """
    plans = [make_plan(config) for config in configurations(request)]
    if dry_run:
        for plan in plans:
            print_plan(plan)
        return
    results = [carry_out(plan, fresh=fresh) for plan in plans]
    scores = [score_of(result) for result in results]
    if as_json:
        print_json(score_record(scores))
    else:
        console = Console()
        console.print(score_table(scores))
        for plan in plans:
            console.print(f"report: {plan.run_dir / 'report.html'}", soft_wrap=True)
    for result in results:
        raise_on_mismatch(result)


def list_command(*, as_json: bool) -> None:
    """List the recipes of the zoo, a line each in 80 columns."""
    from bnn.zoo import ZOO

    if as_json:
        records: list[Json] = [dataclasses.asdict(recipe) for recipe in ZOO.values()]
        print_json(records)
        return
    table = Table("recipe", "data", "model", "epochs", "expected accuracy", box=None)
    for recipe in ZOO.values():
        expected = recipe.expected_accuracy
        table.add_row(
            recipe.name,
            recipe.data,
            recipe.model,
            count(recipe.training.epochs) if recipe.training.epochs else "by the data",
            "not yet measured" if expected is None else percent(expected, recipe.expected_spread),
        )
    console = Console()
    console.print(table)
    console.print(" Widths and all options of the training: --list --json", highlight=False)

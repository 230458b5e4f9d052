"""What the zoo promises of a run by recipe, for its record."""

from flows.config_file import canonical, validate
from flows.recipes import find_recipe, recipe_tree
from flows.wording import flatten, plain
from workers.config import RunConfig
from workers.storage import Json

_DECISIVE = ("data", "bnn")  # sections of the configuration that a recipe is about
_SEEDS = ("data.seed", "bnn.seed")


def zoo_record(config: RunConfig) -> dict[str, Json]:
    """What the zoo says about the recipe of a run, and the values that the run has changed in it.

    Returns
    -------
    dict
        ``recipe``, ``expected_accuracy`` and ``expected_spread`` (None where nobody has measured
        it), ``changes`` (``key = value``; the seeds are not among them).

    Raises
    ------
    ValueError
        If the configuration names no recipe of the zoo.
    """
    recipe = find_recipe(config.recipe or "")
    own, asked = canonical(validate(recipe_tree(recipe.name))), canonical(config)
    changes: list[Json] = []
    for section in _DECISIVE:
        before = dict(flatten(own[section], section))
        after = dict(flatten(asked[section], section))
        # What became empty did so for another key: a length in other units.
        same = {*_SEEDS, *(key for key, v in after.items() if v in (before[key], plain(None)))}
        changes += [f"{key} = {v}" for key, v in after.items() if key not in same]
    return {
        "recipe": recipe.name,
        "expected_accuracy": recipe.expected_accuracy,
        "expected_spread": recipe.expected_spread,
        "changes": changes,
    }

"""Recipes of the zoo as configurations: what ``recipe = "NAME"`` stands for."""

import dataclasses
import difflib
from typing import TYPE_CHECKING

from workers.storage import Json

if TYPE_CHECKING:
    from bnn.zoo import Recipe


def find_recipe(name: str) -> "Recipe":
    """Recipe of the zoo by its name.

    Raises
    ------
    ValueError
        If there is none; the message lists what there is and names the nearest.
    """
    from bnn.zoo import ZOO

    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"recipe: expected one of {', '.join(ZOO)}, got {name!r}{hint}")
    return ZOO[name]


def recipe_tree(name: str) -> dict[str, Json]:
    """Configuration of a recipe, as it would stand in a file; see :func:`find_recipe`."""
    recipe = find_recipe(name)
    training = dataclasses.asdict(recipe.training)
    return {
        "recipe": recipe.name,
        "data": {"name": recipe.data, "split": recipe.split},
        "bnn": {
            **training,
            "model": recipe.model,
            "widths": list(recipe.widths),
            "quantizer": recipe.quantizer,
        },
    }

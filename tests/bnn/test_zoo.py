"""Every recipe is one that can be trained, and says nothing that was not measured."""

from dataclasses import replace

import pytest
import torch

from bnn.metrics import latent_weights
from bnn.models import MODELS, build_model
from bnn.quantizers import QUANTIZERS
from bnn.zoo import ZOO, Recipe

SHAPES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion-mnist": (28, 28, 1),
    "fsdd": (1, 64, 32),
}


@pytest.mark.parametrize("name", ZOO)
def test_a_recipe_builds_its_network_and_twin(name: str) -> None:
    recipe = ZOO[name]
    assert recipe.name == name
    assert recipe.quantizer in QUANTIZERS
    shape = SHAPES[recipe.data]
    for full_precision in (False, True):
        net = build_model(
            recipe.model,
            shape,
            10,
            recipe.widths or None,
            seed=recipe.training.seed,
            full_precision=full_precision,
            quantizer=recipe.quantizer,
        ).eval()
        assert net.widths == (recipe.widths or MODELS[recipe.model].default_widths)
        with torch.no_grad():
            logits = net(torch.zeros(1, *shape, dtype=torch.uint8))
        assert logits.shape == (1, 10)


def test_every_model_has_a_recipe() -> None:
    assert {recipe.model for recipe in ZOO.values()} == set(MODELS)
    assert {recipe.training.seed for recipe in ZOO.values()} == {0}


def test_the_promised_sizes() -> None:
    """Issue targets: 64-256-256-10, 2048x2, and a convolutional net of at most half a million."""

    def n_binary(name: str) -> int:
        recipe = ZOO[name]
        net = build_model(recipe.model, SHAPES[recipe.data], 10, recipe.widths)
        return sum(weight.numel() for weight in latent_weights(net).values())

    assert ZOO["digits-mlp"].widths == (256, 256)
    assert ZOO["digits-mlp"].split == "stratified"
    assert n_binary("digits-mlp") == 256 * 256
    assert n_binary("fashion-mlp") == 2048 * 2048
    assert n_binary("fashion-convnet") <= 500_000


def test_an_expectation_names_the_runs_behind_it() -> None:
    recipe = replace(ZOO["digits-mlp"], expected_accuracy=None, expected_spread=None, n_seeds=0)
    measured = replace(recipe, expected_accuracy=0.97, expected_spread=0.004, n_seeds=5)
    assert isinstance(measured, Recipe)
    with pytest.raises(ValueError, match=r"n_seeds: expected the runs behind .* = 0.97, got 0"):
        replace(recipe, expected_accuracy=0.97)
    with pytest.raises(ValueError, match=r"expected_spread: expected one of two or more seeds"):
        replace(recipe, expected_accuracy=0.97, n_seeds=5)
    with pytest.raises(ValueError, match=r"expected a share in \(0, 1\], got 97"):
        replace(measured, expected_accuracy=97.0)

import torch

from rbm.gradients import gradient

EXACT = 1e-12


def _rows(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, 4, generator=g, dtype=torch.float64),
        torch.rand(n, 3, generator=g, dtype=torch.float64),
    )


def _mean_outer(v: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.outer(a, b) for a, b in zip(v, h, strict=True)]).mean(0)


def test_centred_gradient_is_the_formula_row_by_row() -> None:
    (v, h), (x, y) = _rows(0, 5), _rows(1, 7)
    mu, lam = _rows(2, 1)[0][0], _rows(3, 1)[1][0]
    result = gradient((v, h), (x, y), (mu, lam))
    weights = _mean_outer(v - mu, h - lam) - _mean_outer(x - mu, y - lam)
    assert torch.allclose(result.weights, weights, atol=EXACT)
    assert torch.allclose(result.visible_bias, v.mean(0) - x.mean(0) - weights @ lam, atol=EXACT)
    assert torch.allclose(result.hidden_bias, h.mean(0) - y.mean(0) - weights.T @ mu, atol=EXACT)


def test_zero_offsets_give_the_plain_gradient() -> None:
    (v, h), (x, y) = _rows(0, 5), _rows(1, 5)
    zeros = (torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    result = gradient((v, h), (x, y), zeros)
    assert torch.allclose(result.weights, _mean_outer(v, h) - _mean_outer(x, y), atol=EXACT)
    assert torch.allclose(result.visible_bias, v.mean(0) - x.mean(0), atol=EXACT)


def test_centred_direction_does_not_see_a_flip_of_the_data() -> None:
    """Flipping all visible bits (and their offsets) flips the sign of the weight rows only."""
    (v, h), (x, y) = _rows(0, 5), _rows(1, 5)
    mu, lam = v.mean(0), h.mean(0)
    result = gradient((v, h), (x, y), (mu, lam))
    flipped = gradient((1 - v, h), (1 - x, y), (1 - mu, lam))
    assert torch.allclose(flipped.weights, -result.weights, atol=EXACT)
    assert torch.allclose(flipped.visible_bias, -result.visible_bias, atol=EXACT)

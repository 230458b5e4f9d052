"""Ranges of images on several threads: the same numbers, in one order, by one back end."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import pack_bits, threads
from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.host import HostLibrary
from kernels.stage import Stage
from kernels.threads import split

COMPILED = [name for name in available_backends() if BACKENDS[name].code is not None]
pytestmark = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")
Results = dict[str, NDArray[np.generic]]
N_IMAGES = 7
"""Which neither 2 nor 3 threads divide; nor are channels, rows and pixels whole vectors."""
SIGNS = {
    "pooled": Stage(
        channels=33, n_out=19, size=(9, 7), kernel=(3, 3), padding=(1, 1), pool=2, border=-1
    ),
    "strided": Stage(channels=5, n_out=37, size=(8, 11), kernel=(3, 2), stride=(2, 1), border=0),
}
REALS = {
    "pooled": Stage(
        channels=3, n_out=5, size=(9, 11), kernel=(3, 3), padding=(1, 0), pool=2, border=0
    ),
    "plain": Stage(channels=1, n_out=33, size=(7, 5), kernel=(3, 3), stride=(1, 2), border=0),
}


@pytest.fixture(autouse=True)
def with_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Number of threads that a call uses, whatever the machine has."""
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    monkeypatch.setattr(threads, "_pool", None)
    yield lambda n: monkeypatch.setattr(threads, "default_threads", lambda: n)
    if threads._pool is not None:
        threads._pool.shutdown()


class Draws:
    """Numbers of one seed: whole ones, whose sums no order rounds, or any."""

    def __init__(self, *, whole: bool) -> None:
        self.rng, self.whole = np.random.default_rng(1), whole

    def __call__(self, *shape: int, least: int = -2) -> NDArray[np.float32]:
        drawn = self.rng.integers(least, 3, shape) if self.whole else self.rng.normal(size=shape)
        return drawn.astype(np.float32)

    def signs(self, *shape: int) -> NDArray[np.bool_]:
        return self.rng.integers(0, 2, shape).astype(np.bool_)


def results_of_signs(stage: Stage, images: slice, *, whole: bool = True) -> Results:
    """All that a stage of bits returns for some of the images."""
    draws = Draws(whole=whole)
    words = pack_bits(draws.signs(N_IMAGES, *stage.size, stage.channels))[images]
    weights = draws.signs(stage.n_out, *stage.kernel, stage.channels)
    scale, shift = draws(stage.n_out), draws(stage.n_out)
    gradient = draws(N_IMAGES, *stage.out_size(), stage.n_out)[images]
    coefficients = draws(4, stage.n_out)
    sums, choices, totals = stage.sums_of_signs(words, weights)
    floats, within = stage.normalise(sums, scale, shift, 1.0)
    packed, mask = stage.normalise(sums, scale, shift, 1.0, packed=True)
    totals_of_gradient = stage.gradient_totals(sums, gradient, within, coefficients[3])
    operands = (sums, choices, gradient, within, coefficients)
    grad_weights, grad_images = stage.gradients_of_signs(words, *operands, weights)
    found: Results = {
        "sums": sums,
        "totals": totals,
        "floats": floats,
        "within": within,
        "packed": packed,
        "mask": mask,
        "totals of gradient": totals_of_gradient,
        "gradient of weights": grad_weights,
        "gradient of images": grad_images,
    }
    return found if choices is None else {**found, "choices": choices}


def results_of_reals(stage: Stage, images: slice, *, whole: bool = True) -> Results:
    """All that a stage of reals returns for some of the images."""
    draws = Draws(whole=whole)
    pixels = draws(N_IMAGES, *stage.size, stage.channels, least=0)[images]
    weights = draws(stage.n_out, *stage.kernel, stage.channels)
    scale, shift = draws(stage.n_out), draws(stage.n_out)
    gradient = draws(N_IMAGES, *stage.out_size(), stage.n_out)[images]
    coefficients = draws(4, stage.n_out)
    sums, choices, totals = stage.sums_of_reals(pixels, weights)
    _, within = stage.normalise(sums, scale, shift, 1.0)
    operands = (sums, choices, gradient, within, coefficients)
    found: Results = {
        "sums": sums,
        "totals": totals,
        "gradient of weights": stage.gradients_of_reals(pixels, *operands),
        "totals of gradient": stage.gradient_totals(sums, gradient, within, coefficients[3]),
    }
    if choices is not None:
        found["choices"] = choices
    else:
        floats, mask = stage.normalise_reals(pixels, weights, scale, shift, 1.0)
        found |= {"moments": stage.moments_of_reals(pixels), "floats": floats, "mask": mask}
        found["products"] = stage.products_of_reals(pixels, gradient, within)
    return found


SUMMED = {"totals", "totals of gradient", "gradient of weights", "moments", "products"}
"""What is one number for the whole batch."""
CASES = [
    *((results_of_signs, stage) for stage in SIGNS.values()),
    *((results_of_reals, stage) for stage in REALS.values()),
]


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("results", "stage"), CASES)
def test_any_number_of_threads_gives_the_same_bytes(with_threads, results, stage, backend) -> None:
    with use_backend(backend):
        with_threads(1)
        one = results(stage, slice(None))
        assert all(np.any(values) for values in one.values())
        for n_threads in (2, 3):
            with_threads(n_threads)
            several = results(stage, slice(None))
            for name, values in one.items():
                assert several[name].tobytes() == values.tobytes(), (name, n_threads)


@pytest.mark.parametrize(("results", "stage"), CASES)
def test_sums_of_floats_are_those_of_the_ranges_in_order(with_threads, results, stage) -> None:
    """Floats round, so the bytes are those of a number of threads; but always the same ones."""
    with_threads(3)
    several, again = (results(stage, slice(None), whole=False) for _ in range(2))
    with_threads(1)
    parts = [results(stage, slice(*part), whole=False) for part in split(N_IMAGES, 3)]
    for name, values in several.items():
        assert again[name].tobytes() == values.tobytes(), name
        if name not in SUMMED:
            expected = np.concatenate([part[name] for part in parts])
            assert values.tobytes() == expected.tobytes(), name
        elif name != "totals of gradient":  # whose ranges are of pixels
            expected = parts[0][name] + parts[1][name] + parts[2][name]
            assert values.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("results", "stage"), CASES)
def test_every_range_runs_on_the_forced_back_end(
    with_threads, monkeypatch: pytest.MonkeyPatch, results, stage, backend
) -> None:
    codes: list[object] = []
    call = HostLibrary.call

    def watched(library: HostLibrary, name: str, *arguments: object) -> int:
        if name.startswith("bsk_stage_") and name != "bsk_stage_scratch":
            codes.append(arguments[0])
        return call(library, name, *arguments)

    monkeypatch.setattr(HostLibrary, "call", watched)
    with_threads(3)
    with use_backend(backend):
        results(stage, slice(None))
    assert len(codes) >= 11  # four calls, three ranges each, but for one of few pixels
    assert set(codes) == {BACKENDS[backend].code}

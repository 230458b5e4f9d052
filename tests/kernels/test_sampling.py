"""Draws: the same bits as the numpy reference on every back end, and the right probabilities.

A sampled bit shows one rounding in a million draws, so that the arithmetic is tested on fields at
the edge: those whose sigmoid is, within a few units in the last place, the uniform of the unit.
"""

import importlib.util
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import Purpose, philox, unpack_bits
from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.build import SOURCES, TARGETS, build_library
from kernels.emulate import EmulatedLibrary
from kernels.host import Argument, HostLibrary, KernelLibrary
from kernels.layout import CHANNEL_WORD, n_words, tail_mask
from kernels.reference_sampling import (
    LOWEST_FIELD,
    bernoulli_probabilities_reference,
    bernoulli_reference,
    random_words_reference,
    sampled_probability,
    sigmoid_reference,
)
from kernels.sampling import bernoulli, bernoulli_probabilities, random_words, sigmoid

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
BATCHES = (1, 2, 17)
STREAM: dict[str, Any] = {
    "seed": 0xFEDCBA9876543210,
    "purpose": Purpose.GIBBS_HIDDEN,
    "step": 0x89ABCDEF,
    "index": 0xABC123,
}
SPECIAL = (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -17.33, -17.32, 17.4, 17.6, 3e38)
SIGMOID_ERROR = 1.1e-7  # 2^f to 1e-7 of e^-x, which counts a quarter, and three roundings to 2^-25
SAMPLED_ERROR = 2.5e-7  # the same, the grain of the uniform and the rounding of the product

# Random123, kat_vectors: philox4x32 10. First element, row, step, purpose, index, seed, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (4 * 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFF, 0xFFFFFF),
        0xFFFFFFFFFFFFFFFF,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (4 * 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03, 0x707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


class UpTo:
    """A library whose best back end is another one."""

    def __init__(self, library: KernelLibrary, code: int) -> None:
        self._library, self._code = library, code

    def call(self, name: str, *arguments: Argument) -> int:
        if name == "bsk_backends":
            return 1 << self._code
        return self._library.call(name, *arguments)


@pytest.fixture(scope="module")
def gcc_library(tmp_path_factory: pytest.TempPathFactory) -> HostLibrary:
    """The samplers compiled by gcc, which may contract where clang does not."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    path = tmp_path_factory.mktemp("gcc") / "sampling.so"
    sources = [SOURCES / "host" / "backends.c", *sorted(SOURCES.glob("host/philox*.c"))]
    sources += sorted(SOURCES.glob("host/sampler*.c"))
    flags = ["-O3", "-std=c99", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC"]
    command = ["gcc", *flags, f"-I{SOURCES}", *map(str, sources), "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return HostLibrary(path)


@pytest.fixture(scope="module")
def arm_library() -> Iterator[EmulatedLibrary]:
    for module in ("ziglang", "unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install 'bitspin[arm]'")
    with EmulatedLibrary(build_library("aarch64-linux", part="kernels")) as library:
        yield library


Target = dict[str, KernelLibrary]
"""Keyword arguments that choose who draws."""


@pytest.fixture(
    params=[
        *BACKENDS,
        *(f"gcc {name}" for name in BACKENDS if name != "reference"),
        pytest.param("aarch64 neon", marks=pytest.mark.arm),
        pytest.param("aarch64 portable", marks=pytest.mark.arm),
    ]
)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    where, _, name = request.param.rpartition(" ")
    if where != "aarch64" and name not in available_backends():
        pytest.skip(f"needs {BACKENDS[name].needs}")
    with ExitStack() as stack:
        if where:
            library = request.getfixturevalue(
                {"gcc": "gcc_library", "aarch64": "arm_library"}[where]
            )
            yield {"library": UpTo(library, BACKENDS[name].code or 0)}
        else:
            stack.enter_context(use_backend(name))
            yield {}


def _fields(n_rows: int, n: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(n_rows * 2000 + n)
    field = (4 * rng.standard_normal((n_rows, n))).astype(np.float32)
    count = min(len(SPECIAL), field.size)
    field.reshape(-1)[:count] = SPECIAL[:count]
    return field


def _rows(n_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(n_rows).integers(0, 1 << 32, n_rows)


def _fields_at_the_edge(n_rows: int, n: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    u = philox.uniform(n_elements=n, rows=rows, **STREAM).astype(np.float64)
    logit = np.log(u + 2.0**-26) - np.log1p(-u)
    field = logit.astype(np.float32)
    ulps = np.random.default_rng(n).integers(-3, 4, (n_rows, n))
    return field + ulps.astype(np.float32) * np.spacing(field)


@pytest.mark.parametrize(("address", "seed", "words"), KNOWN_ANSWERS)
def test_known_answers(
    target: Target, address: tuple[int, ...], seed: int, words: tuple[int, ...]
) -> None:
    first, row, step, purpose, index = address
    drawn = random_words(
        *(seed, purpose, 4),  # type: ignore[arg-type]
        rows=row,
        step=step,
        index=index,
        first_element=first,
        **target,
    )
    assert tuple(drawn[0].tolist()) == words


@pytest.mark.parametrize("n", SIZES)
def test_words_are_those_of_the_oracle(target: Target, n: int) -> None:
    rows = _rows(2)
    seed, purpose = STREAM["seed"], STREAM["purpose"]
    rest = {"step": STREAM["step"], "index": STREAM["index"], "rows": rows}
    oracle = philox.random_words(seed, purpose, n + 37, **rest)
    for first in (0, 1, 4, 31, 32, 37):
        drawn = random_words(seed, purpose, n, first_element=first, **rest, **target)
        assert drawn.dtype == CHANNEL_WORD
        assert np.array_equal(drawn, oracle[:, first : first + n])
        assert np.array_equal(
            random_words_reference(seed, purpose, n, first_element=first, **rest), drawn
        )


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_rows", BATCHES)
def test_draws_are_those_of_the_reference(target: Target, n_rows: int, n: int) -> None:
    rows, fields = _rows(n_rows), _fields(n_rows, n)
    for field in (fields, _fields_at_the_edge(n_rows, n, rows)):
        drawn = bernoulli(field, rows=rows, **STREAM, **target)
        assert np.array_equal(drawn, bernoulli_reference(field, rows=rows, **STREAM))
    for p in (fields / np.float32(8), sigmoid_reference(fields)):
        drawn = bernoulli_probabilities(p, rows=rows, **STREAM, **target)
        assert np.array_equal(drawn, bernoulli_probabilities_reference(p, rows=rows, **STREAM))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 300), n_rows=st.integers(0, 40), step=st.integers(0, 2**32 - 1))
def test_drawn_shapes(n: int, n_rows: int, step: int) -> None:
    rows, field = _rows(n_rows), _fields(n_rows, n)
    stream = {**STREAM, "step": step}
    expected = bernoulli_reference(field, rows=rows, **stream)
    assert expected.shape == (n_rows, n_words(n, CHANNEL_WORD))
    for name in available_backends():
        with use_backend(name):
            assert np.array_equal(bernoulli(field, rows=rows, **stream), expected)


def test_fields_at_the_edge_tell_roundings_apart() -> None:
    rows = np.arange(50)
    field = _fields_at_the_edge(50, 400, rows)
    on = unpack_bits(bernoulli_reference(field, rows=rows, **STREAM), 400)
    u = philox.uniform(n_elements=400, rows=rows, **STREAM).astype(np.float64)
    exact = 1 / (1 + np.exp(-field.astype(np.float64)))
    differing = on != (u < exact)
    assert 0.05 < differing.mean() < 0.5
    assert np.abs(u - exact)[differing].max() < SAMPLED_ERROR


def test_a_uniform_is_below_the_next_float_and_not_below_itself(target: Target) -> None:
    rows = np.arange(3)
    u = philox.uniform(n_elements=70, rows=rows, **STREAM)
    for p, on in ((u, False), (np.nextafter(u, np.float32(2)), True), (u * 0 + 1, True)):
        drawn = bernoulli_probabilities(p, rows=rows, **STREAM, **target)
        assert (unpack_bits(drawn, 70) == on).all()


def test_what_is_no_probability_is_off_or_on(target: Target) -> None:
    values = np.array([[np.nan, -np.nan, -0.0, 0.0, -1.0, -np.inf, 1.0, 2.0, np.inf]], np.float32)
    drawn = bernoulli_probabilities(values, rows=5, **STREAM, **target)
    assert unpack_bits(drawn, 9)[0].tolist() == [False] * 6 + [True] * 3


def test_far_fields_and_nan(target: Target) -> None:
    below = np.nextafter(LOWEST_FIELD, np.float32(-20))
    field = np.array([np.nan, -np.nan, -np.inf, -3e38, -20, below, 17, 1e4, 3e38, np.inf])
    many = np.tile(field.astype(np.float32), (500, 7))
    drawn = bernoulli(many, rows=np.arange(500), **STREAM, **target)
    assert (unpack_bits(drawn, 70) == ([False] * 6 + [True] * 4) * 7).all()


@pytest.mark.parametrize("n", [1, 31, 33, 95, 129])
def test_pad_bits_are_zero(target: Target, n: int) -> None:
    field = np.full((3, n), 50, np.float32)
    drawn = bernoulli(field, rows=np.arange(3), **STREAM, **target)
    assert (drawn[:, -1] == tail_mask(n, CHANNEL_WORD)).all()
    assert (drawn[:, :-1] == 0xFFFFFFFF).all()


def test_a_draw_does_not_depend_on_batch_split_or_neighbours(target: Target) -> None:
    rows, field = _rows(40), _fields(40, 100)
    whole = bernoulli(field, rows=rows, **STREAM, **target)
    for part in (slice(0, 1), slice(1, 18), slice(18, 40)):
        drawn = bernoulli(field[part], rows=rows[part], **STREAM, **target)
        assert np.array_equal(drawn, whole[part])
    fewer = bernoulli(np.ascontiguousarray(field[:, :77]), rows=rows, **STREAM, **target)
    assert np.array_equal(unpack_bits(fewer, 77), unpack_bits(whole, 100)[:, :77])


def test_a_draw_does_not_depend_on_threads() -> None:
    rows, field = _rows(50), _fields(50, 70)
    expected = bernoulli_reference(field, rows=rows, **STREAM)
    for n_threads in (1, 2, 3):
        drawn = bernoulli(field, rows=rows, n_threads=n_threads, **STREAM)
        assert np.array_equal(drawn, expected)


def test_rows_that_lie_apart_and_a_place_for_the_result() -> None:
    wide = _fields(6, 300)
    expected = bernoulli_reference(wide[:, 100:165], rows=_rows(6), **STREAM)
    for name in available_backends():
        with use_backend(name):
            out = np.full((6, 3), 0xFFFFFFFF, CHANNEL_WORD)
            assert bernoulli(wide[:, 100:165], rows=_rows(6), out=out, **STREAM) is out
            assert np.array_equal(out, expected)
            turned = np.asfortranarray(wide[:, 100:165])
            assert np.array_equal(bernoulli(turned, rows=_rows(6), **STREAM), expected)
            upwards = bernoulli(wide[::-1, 100:165], rows=_rows(6)[::-1], **STREAM)
            assert np.array_equal(upwards, expected[::-1])


def test_sigmoid_is_within_its_bound() -> None:
    dense = np.linspace(-90, 90, 2_000_001).astype(np.float32)
    # Every exponent, and mantissas spread over it.
    patterns = np.arange(0, 0x7F800000, 1009, dtype=np.uint32).view(np.float32)
    for x in (dense, patterns, -patterns):
        p = sigmoid_reference(x)
        with np.errstate(over="ignore"):
            exact = 1 / (1 + np.exp(-x.astype(np.float64)))
        assert np.abs(p - exact).max() < SIGMOID_ERROR
        near = np.abs(x) < 80
        assert np.abs(p[near] / exact[near] - 1).max() < 5e-6
        assert (p >= np.finfo(np.float32).tiny).all()
    assert (np.diff(sigmoid_reference(dense)) >= 0).all()
    assert sigmoid_reference(np.zeros(1, np.float32))[0] == 0.5


def test_sigmoid_is_that_of_the_reference(target: Target) -> None:
    x = np.concatenate([np.linspace(-100, 100, 20_011), SPECIAL]).astype(np.float32)
    for part in (x, x[:1], x[:0], x[-33:].reshape(3, 11)):
        p = sigmoid(part, **target)
        assert p.shape == part.shape
        assert np.array_equal(p.view(np.uint32), sigmoid_reference(part).view(np.uint32))


def test_sampled_probability_is_within_its_bound() -> None:
    field = np.linspace(-25, 25, 1_000_001).astype(np.float32)
    p = sampled_probability(field)
    exact = 1 / (1 + np.exp(-field.astype(np.float64)))
    assert np.abs(p - exact).max() < SAMPLED_ERROR
    assert (p[field < LOWEST_FIELD] == 0).all()
    assert (p[field > 17] == 1).all()


def test_a_unit_is_on_iff_its_uniform_is_below_the_sampled_probability() -> None:
    rows = np.arange(50)
    u = philox.uniform(n_elements=400, rows=rows, **STREAM)
    for field in (_fields_at_the_edge(50, 400, rows), 9 * _fields_at_the_edge(50, 400, rows)):
        on = unpack_bits(bernoulli_reference(field, rows=rows, **STREAM), 400)
        assert np.array_equal(on, u < sampled_probability(field))


def test_states_have_the_enumerated_probabilities(target: Target) -> None:
    n_draws = 20_000
    field = np.array([-1.5, -0.3, 0.0, 0.4, 1.1, 2.0], np.float32)
    drawn = bernoulli(np.tile(field, (n_draws, 1)), rows=np.arange(n_draws), **STREAM, **target)[
        :, 0
    ]
    states = np.arange(64)
    bits = states[:, None] >> np.arange(6) & 1
    p = np.where(bits, 1 / (1 + np.exp(-field)), 1 / (1 + np.exp(field))).prod(axis=1)
    counts = np.bincount(drawn, minlength=64)
    chi_square = ((counts - n_draws * p) ** 2 / (n_draws * p)).sum()
    # 63 degrees of freedom: mean 63, variance 126.
    assert abs(chi_square - 63) < 5 * np.sqrt(126)
    flipped = ((counts[::-1] - n_draws * p) ** 2 / (n_draws * p)).sum()
    assert flipped > 1000


def test_what_does_not_fit_is_refused() -> None:
    field = np.zeros((2, 5), np.float32)
    with pytest.raises(TypeError, match="field: expected float32, got float64"):
        bernoulli(field.astype(np.float64), rows=[0, 1], **STREAM)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"field: expected shape \(3, n\) for 3 rows, got \(2, 5\)"
    ):
        bernoulli(field, rows=[0, 1, 2], **STREAM)
    with pytest.raises(ValueError, match="probabilities: expected shape"):
        bernoulli_probabilities(field[0], rows=[0], **STREAM)
    with pytest.raises(ValueError, match=r"rows: expected 0 <= row < 2\*\*32"):
        bernoulli(field, rows=[0, 1 << 32], **STREAM)
    with pytest.raises(ValueError, match=r"step: expected 0 <= step < 2\*\*32"):
        bernoulli(field, rows=[0, 1], **{**STREAM, "step": -1})
    with pytest.raises(ValueError, match="out: expected C-contiguous uint32 of shape"):
        bernoulli(field, rows=[0, 1], out=np.zeros((2, 2), CHANNEL_WORD), **STREAM)
    with pytest.raises(ValueError, match=r"elements below 2\*\*34, got 8 from 17179869180"):
        random_words(1, Purpose.SWAPS, 8, first_element=(1 << 34) - 4)
    with pytest.raises(TypeError, match="x: expected float32"):
        sigmoid(np.zeros(3))  # type: ignore[arg-type]


QEMU_SOURCE = Path(__file__).with_name("qemu_sampler.c")
QEMU = {  # the FPU of armv7 flushes denormals in NEON: none may arise
    "aarch64-linux": ["qemu-aarch64", "-cpu", "cortex-a53"],
    "armv7-linux": ["qemu-arm", "-cpu", "cortex-a15"],
}


@pytest.mark.arm
@pytest.mark.parametrize("name", QEMU)
def test_qemu_draws_the_bits_of_the_reference(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is missing: pip install 'bitspin[arm]'")
    if shutil.which(QEMU[name][0]) is None:
        pytest.skip(f"{QEMU[name][0]} is missing: apt-get install qemu-user")
    command = [sys.executable, "-m", "ziglang", "cc", *TARGETS[name].zig, "-O3", "-std=c99"]
    flags = ["-ffp-contract=off", "-static", "-nostdlib", "-ffreestanding", "-fno-strict-aliasing"]
    sources = [str(QEMU_SOURCE), *sorted(map(str, SOURCES.glob("host/sampler*.c")))]
    runner = tmp_path / "runner"
    subprocess.run(
        [*command, *flags, f"-I{SOURCES}", *sources, "-o", str(runner)],
        check=True,
        capture_output=True,
    )
    cases, expected = [], []
    for code, n in itertools.product((0, 3), SIZES):
        rows = _rows(3)
        fields = (_fields(3, n), _fields_at_the_edge(3, n, rows), _fields(3, n) / np.float32(8))
        for kind, values in zip((0, 0, 1), fields, strict=True):
            draw = (bernoulli_reference, bernoulli_probabilities_reference)[kind]
            expected.append(draw(values, rows=rows, **STREAM).tobytes())
            seed, top = STREAM["seed"], int(STREAM["purpose"]) << 24 | STREAM["index"]
            head = (code, 3, n, kind, seed & 0xFFFFFFFF, seed >> 32, top, STREAM["step"])
            cases.append(
                np.array(head, "<u4").tobytes()
                + rows.astype("<u4").tobytes()
                + values.astype("<f4").tobytes()
            )
    done = subprocess.run(
        [*QEMU[name], str(runner)], input=b"".join(cases), capture_output=True, check=True
    )
    assert done.stdout == b"".join(expected)

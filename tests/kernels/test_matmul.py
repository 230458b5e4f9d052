"""Products of bits: every back end, form and layout against the unpacked integers."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.build import build_library
from kernels.emulate import EmulatedLibrary
from kernels.host import host_library
from kernels.layout import CHANNEL_WORD, n_words
from kernels.matmul import (
    Panels,
    empty_aligned,
    matmul,
    matmul_bits,
    matmul_planes,
    pack_rows,
)
from kernels.packing import pack, pack_bits
from kernels.panels import Layout, to_panels
from kernels.reference_matmul import FORMS, Form, matmul_reference

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
LAYOUTS = (Layout.LANES, Layout.VECTORS)
HERE = [name for name in BACKENDS if name in available_backends()]

Bits = NDArray[np.bool_]


def draw_bits(rng: np.random.Generator, *shape: int) -> Bits:
    return rng.integers(0, 2, shape).astype(np.bool_)


def values(bits: Bits, form: Form, *, of_rows: bool) -> NDArray[np.int64]:
    """What the bits stand for, written out once more and not taken from the reference."""
    integers = bits.astype(np.int64)
    is_unit = form == "and" or (form == "mixed" and of_rows)
    return integers if is_unit else 2 * integers - 1


def product(a: Bits, b: Bits, form: Form) -> NDArray[np.int64]:
    result: NDArray[np.int64] = values(a, form, of_rows=True) @ values(b, form, of_rows=False).T
    return result


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_is_the_product_of_the_values(form: Form) -> None:
    rng = np.random.default_rng(1)
    a, b = draw_bits(rng, 5, 70), draw_bits(rng, 9, 70)
    result = matmul_reference(pack_bits(a), pack_bits(b), 70, form)
    assert np.array_equal(result, product(a, b, form))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("n_bits", SIZES)
def test_every_back_end_and_layout_is_exact_at_awkward_lengths(
    n_bits: int, name: str, layout: Layout
) -> None:
    rng = np.random.default_rng(n_bits)
    a, b = draw_bits(rng, 9, n_bits), draw_bits(rng, 37, n_bits)
    with use_backend(name):
        panels = Panels.of(pack_bits(b), n_bits, layout)
        for form in FORMS:
            assert np.array_equal(matmul(pack_bits(a), panels, form=form), product(a, b, form))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("size", SIZES)
def test_every_back_end_is_exact_at_awkward_numbers_of_rows_and_columns(
    size: int, name: str
) -> None:
    rng = np.random.default_rng(size)
    many, few = draw_bits(rng, size, 100), draw_bits(rng, 7, 100)
    with use_backend(name):
        rows = matmul(pack_bits(many), Panels.of(pack_bits(few), 100))
        columns = matmul(pack_bits(few), Panels.of(pack_bits(many), 100))
    assert np.array_equal(rows, product(many, few, "xor"))
    assert np.array_equal(columns, product(few, many, "xor"))


@settings(deadline=None, max_examples=40)
@given(
    m=st.integers(0, 14),
    n=st.integers(1, 200),
    n_bits=st.integers(1, 2100),
    form=st.sampled_from(list(FORMS)),
    layout=st.sampled_from(LAYOUTS),
    name=st.sampled_from([name for name in HERE if name != "reference"]),
    seed=st.integers(0, 99),
)
def test_any_shape_is_exact(
    m: int, n: int, n_bits: int, form: Form, layout: Layout, name: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = draw_bits(rng, m, n_bits), draw_bits(rng, n, n_bits)
    with use_backend(name):
        result = matmul(pack_bits(a), Panels.of(pack_bits(b), n_bits, layout), form=form)
    assert np.array_equal(result, product(a, b, form))


@pytest.mark.parametrize("name", HERE)
def test_counts_do_not_overflow_at_the_extremes(name: str) -> None:
    """All products differ, or none does, over more words than a counter of bytes holds."""
    n_bits = 32 * 320
    ones, zeros = np.ones((6, n_bits), np.bool_), np.zeros((64, n_bits), np.bool_)
    with use_backend(name):
        apart = matmul(pack_bits(ones), Panels.of(pack_bits(zeros), n_bits))
        alike = matmul(pack_bits(ones), Panels.of(pack_bits(~zeros), n_bits), form="and")
    assert np.array_equal(apart, np.full((6, 64), -n_bits))
    assert np.array_equal(alike, np.full((6, 64), n_bits))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("n", SIZES)
def test_thresholds_give_packed_bits(n: int, name: str) -> None:
    rng = np.random.default_rng(n)
    a, b = draw_bits(rng, 8, 75), draw_bits(rng, n, 75)
    threshold, flip = rng.integers(-6, 7, n).astype(np.int32), draw_bits(rng, n)
    with use_backend(name):
        words = matmul_bits(pack_bits(a), Panels.of(pack_bits(b), 75), threshold, flip)
    expected = (product(a, b, "xor") >= threshold) ^ flip
    assert np.array_equal(words, pack_bits(expected))  # zero past column n, as packing leaves it


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HERE)
def test_planes_multiply_unsigned_integers(name: str, form: Form) -> None:
    rng = np.random.default_rng(3)
    planes, b = draw_bits(rng, 4, 13, 130), draw_bits(rng, 70, 130)
    weights = (1, 2, 4, 8)
    expected = sum(w * product(plane, b, form) for w, plane in zip(weights, planes, strict=True))
    with use_backend(name):
        panels = Panels.of(pack_bits(b), 130)
        assert np.array_equal(matmul_planes(pack_bits(planes), panels, form=form), expected)
        shifted = matmul_planes(pack_bits(planes), panels, (-3, 0, 1, 5), form=form)
    assert np.array_equal(
        shifted,
        sum(w * product(plane, b, form) for w, plane in zip((-3, 0, 1, 5), planes, strict=True)),
    )


def test_planes_of_four_bits_equal_the_product_of_their_integers() -> None:
    rng = np.random.default_rng(4)
    integers, b = rng.integers(0, 16, (5, 65)), draw_bits(rng, 33, 65)
    planes = np.stack([integers >> j & 1 for j in range(4)]).astype(np.bool_)
    result = matmul_planes(pack_bits(planes), Panels.of(pack_bits(b), 65))
    assert np.array_equal(result, integers @ (2 * b.astype(np.int64) - 1).T)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("m", [1, 3, 50, 200])
def test_threads_do_not_change_the_result(m: int, name: str) -> None:
    rng = np.random.default_rng(5)
    a, b = draw_bits(rng, m, 96), draw_bits(rng, 150, 96)
    with use_backend(name):
        panels = Panels.of(pack_bits(b), 96)
        one = matmul(pack_bits(a), panels, n_threads=1)
        two = matmul(pack_bits(a), panels, n_threads=2)
        zero, no = np.zeros(150, np.int32), np.zeros(150, np.bool_)
        bits = matmul_bits(pack_bits(a), panels, zero, no, n_threads=2)
    assert np.array_equal(one, two)
    assert np.array_equal(one, product(a, b, "xor"))
    assert np.array_equal(bits, pack_bits(one >= 0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", HERE)
def test_panels_are_those_of_the_python_writer(name: str, layout: Layout) -> None:
    rng = np.random.default_rng(6)
    for n, n_bits in ((1, 1), (15, 33), (17, 129), (40, 256)):
        words = pack_bits(draw_bits(rng, n, n_bits))
        with use_backend(name):
            panels = Panels.of(words, n_bits, layout)
        assert np.array_equal(panels.data, to_panels(words, layout))
        assert np.array_equal(panels.columns(), words)


@pytest.mark.parametrize("name", HERE)
def test_rows_of_64_bit_words_are_the_same_bytes(name: str) -> None:
    rng = np.random.default_rng(7)
    for n_bits in (1, 33, 64, 65, 200):
        a, b = draw_bits(rng, 3, n_bits), draw_bits(rng, 20, n_bits)
        with use_backend(name):
            for layout in LAYOUTS:
                result = matmul(pack(a), Panels.of(pack(b), n_bits, layout))
                assert np.array_equal(result, product(a, b, "xor"))


def test_the_result_goes_where_it_was_asked_for() -> None:
    rng = np.random.default_rng(8)
    a, b = draw_bits(rng, 7, 40), draw_bits(rng, 21, 40)
    panels = Panels.of(pack_bits(b), 40)
    for name in HERE:
        out = np.full((8, 21), 99, np.int32)
        with use_backend(name):
            assert matmul(pack_bits(a), panels, out=out[:7]) is not None
        assert np.array_equal(out[:7], product(a, b, "xor"))
        assert np.array_equal(out[7], np.full(21, 99))  # not a column past the end


def test_an_empty_side_gives_an_empty_result() -> None:
    nothing, some = np.zeros((0, 2), np.uint32), np.ones((3, 2), np.uint32)
    for name in HERE:
        with use_backend(name):
            assert matmul(nothing, Panels.of(some, 64)).shape == (0, 3)
            assert matmul(some, Panels.of(nothing, 64)).shape == (3, 0)


def test_wrong_arguments_are_named() -> None:
    words = np.zeros((4, 2), np.uint32)
    panels = Panels.of(words, 64)
    with pytest.raises(ValueError, match=r"a: expected 2 axes, the last of 2 for 64 bits, got"):
        matmul(words[:, :1], panels)
    with pytest.raises(TypeError, match="a: expected uint32 or uint64, got float64; pack it"):
        matmul(np.zeros((4, 2)), panels)
    with pytest.raises(ValueError, match="form: expected one of xor, and, mixed, got 'or'"):
        matmul(words, panels, form="or")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"out: expected a contiguous int32 array \(4, 4\)"):
        matmul(words, panels, out=np.zeros((4, 5), np.int32))
    with pytest.raises(ValueError, match=r"threshold, flip: expected shape \(4,\), got \(3,\)"):
        matmul_bits(words, panels, np.zeros(3, np.int32), np.zeros(4, np.bool_))
    with pytest.raises(ValueError, match="weights: expected one for each of 1 planes"):
        matmul_planes(words[None], panels, (1, 2))
    with pytest.raises(ValueError, match=r"weights: expected sums below 2\^31"):
        matmul_planes(words[None], panels, (1 << 26,))
    with pytest.raises(ValueError, match="layout: expected LANES or VECTORS, got ROWS"):
        Panels.of(words, 64, Layout.ROWS)
    with pytest.raises(ValueError, match="data: expected 32 uint32 for 4 columns of 64 bits"):
        Panels(np.zeros(31, np.uint32), 4, 64, Layout.LANES)
    with pytest.raises(ValueError, match="n_bits: expected 0 to"):
        Panels(np.zeros(0, np.uint32), 0, 1 << 30, Layout.LANES)


def test_memory_begins_at_a_cache_line() -> None:
    for shape in ((1,), (3, 5), (1000,)):
        array = empty_aligned(shape, np.int32)
        assert array.shape == shape
        assert array.__array_interface__["data"][0] % 64 == 0


COMPILED = [name for name in HERE if BACKENDS[name].code is not None]


@pytest.mark.parametrize("name", COMPILED)
def test_ranges_of_rows_and_panels_leave_the_rest_alone(name: str) -> None:
    rng = np.random.default_rng(9)
    a, b = pack_bits(draw_bits(rng, 11, 200)), pack_bits(draw_bits(rng, 150, 200))
    expected = matmul_reference(a, b, 200)
    with use_backend(name):
        panels = Panels.of(b, 200, Layout.LANES)
    out = np.full((11, 150), 7, np.int32)
    code = BACKENDS[name].code
    assert code is not None
    arguments = (code, Layout.LANES, 0, 200, a, n_words(200, CHANNEL_WORD), panels.data, 150, out)
    for begin, end in ((8, 10), (0, 4), (4, 8)):
        host_library().call("bsk_matmul", *arguments, 2, 11, begin, end)
    assert np.array_equal(out[2:], expected[2:])
    assert np.array_equal(out[:2], np.full((2, 150), 7))


@pytest.mark.parametrize("form", ["xor", "and"])
@pytest.mark.parametrize("name", COMPILED)
def test_a_tile_of_every_shape_reads_its_rows_in_pieces(name: str, form: Form) -> None:
    rng = np.random.default_rng(10)
    code, image = BACKENDS[name].code, rng.integers(0, 2**32, 400, np.uint32)
    assert code is not None
    for n_rows in range(1, 7):
        for n_panels in range(1, 5):
            n_spans, words = ((1, 40), (3, 1), (3, 2), (5, 7), (2, 33), (16, 2))[n_rows - 1]
            starts = rng.integers(0, 400 - words, (n_spans, n_rows))
            pieces = [[image[s : s + words] for s in span] for span in starts]
            rows = np.concatenate([np.stack(span) for span in pieces], axis=1)
            n_bits = 32 * rows.shape[1]
            columns = rng.integers(0, 2**32, (16 * n_panels, rows.shape[1]), np.uint32)
            panels = to_panels(columns, Layout.LANES)
            stride = 16 * n_panels + 3  # the gap between rows has to stay as it is
            out = np.full((n_rows, stride), 5, np.int32)
            shape = (n_rows, n_spans, words, panels, n_panels, out, stride)
            arguments = (code, Layout.LANES, FORMS[form], n_bits, image, starts, *shape)
            assert host_library().call("bsk_tile_spans", *arguments) == 0
            expected = matmul_reference(rows, columns, n_bits, form)
            assert np.array_equal(out[:, :-3], expected), (n_rows, n_panels)
            assert np.array_equal(out[:, -3:], np.full((n_rows, 3), 5))


@pytest.fixture(scope="module")
def arm_library() -> Iterator[EmulatedLibrary]:
    for module in ("ziglang", "unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install 'bitspin[arm]'")
    with EmulatedLibrary(build_library("aarch64-linux", part="kernels")) as library:
        yield library


@pytest.mark.arm
@pytest.mark.parametrize("n_bits", SIZES)
def test_arm_computes_the_same(n_bits: int, arm_library: EmulatedLibrary) -> None:
    rng = np.random.default_rng(n_bits)
    a, b = draw_bits(rng, 5, n_bits), draw_bits(rng, 37, n_bits)
    threshold, flip = rng.integers(-6, 7, 37).astype(np.int32), draw_bits(rng, 37)
    signs = (2 * a.astype(np.int8) - 1).astype(np.int8)
    for x in (signs, signs.astype(np.float32)):
        assert np.array_equal(pack_rows(x, library=arm_library), pack_bits(a))
    panels = Panels.of(pack_bits(b), n_bits, library=arm_library)
    assert panels.layout is Layout.VECTORS
    assert np.array_equal(panels.data, to_panels(pack_bits(b), Layout.VECTORS))
    for form in FORMS:
        result = matmul(pack_bits(a), panels, form=form, library=arm_library)
        assert np.array_equal(result, product(a, b, form))
    words = matmul_bits(pack_bits(a), panels, threshold, flip, library=arm_library)
    assert np.array_equal(words, pack_bits((product(a, b, "xor") >= threshold) ^ flip))
    planes = pack_bits(np.stack([a, ~a]))
    result = matmul_planes(planes, panels, library=arm_library)
    assert np.array_equal(result, product(a, b, "mixed") + 2 * product(~a, b, "mixed"))

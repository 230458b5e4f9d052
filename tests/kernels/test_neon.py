"""The NEON kernels: exact in the emulator and under qemu-user, and how many instructions they take.

Under qemu, ``-cpu cortex-a53`` ends the run at the first instruction that ARMv8.0 does not have,
for example one of the dot product.
"""

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.arm_model import count_elements, count_products
from kernels.build import SOURCES, build_library
from kernels.emulate import EmulatedLibrary
from kernels.panels import Layout, to_panels
from kernels.targets import TARGETS

pytestmark = pytest.mark.arm

RUNNER = Path(__file__).with_name("qemu_kernels.c")
KERNELS = ("tile_neon.c", "tile_portable.c", "pack.c", "pack_neon.c", "threshold.c")
EMULATORS = {
    "aarch64-linux": ["qemu-aarch64", "-cpu", "cortex-a53"],
    "armv7-linux": ["qemu-arm", "-cpu", "cortex-a15"],
}
NEON = 3
FORMS = {"xor": 0, "and": 1}
BLOCK_WORDS = 252 * 4  # of a row: the sums of 16 bits are widened here
SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
SPECIAL_FLOATS = np.array(
    [0.0, -0.0, 1e-40, -1e-40, 1e-45, -1e-45, np.inf, -np.inf, np.nan, -np.nan, 1.5, -1.5],
    np.float32,
)
THRESHOLDS = (0.0, -0.0, 1e-40, -1e-45, 1.5, float("inf"), float("-inf"), float("nan"))


def products(rows: NDArray[np.uint32], columns: NDArray[np.uint32], form: int) -> NDArray[np.int32]:
    """n_bits - 2 popc(a ^ b) for form 0, popc(a & b) for form 1; all bits of the words count."""
    both = np.bitwise_xor if form == 0 else np.bitwise_and
    ones = np.bitwise_count(both(rows[:, None], columns[None])).sum(axis=-1, dtype=np.int32)
    return ones if form else rows.shape[1] * 32 - 2 * ones


def words_of(bits: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Least significant bit first, spare bits zero."""
    padded = np.zeros(-(-bits.size // 32) * 32, np.bool_)
    padded[: bits.size] = bits
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


def random_bits(rng: np.random.Generator, n: int, n_words: int) -> NDArray[np.uint32]:
    return rng.integers(0, 2**32, (n, n_words), dtype=np.uint32)


def floats(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Normal numbers with special ones among them."""
    x = rng.normal(size=n).astype(np.float32)
    chosen = rng.random(n) < 0.3
    x[chosen] = rng.choice(SPECIAL_FLOATS, int(chosen.sum()))
    return x


@pytest.fixture(scope="module")
def library() -> Iterator[EmulatedLibrary]:
    for module in ("ziglang", "unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install 'bitspin[arm]'")
    with EmulatedLibrary(build_library("aarch64-linux", part="kernels")) as emulated:
        yield emulated


def run_tile(
    library: EmulatedLibrary, rows: np.ndarray, columns: np.ndarray, form: int
) -> np.ndarray:
    (n_rows, n_words), n_columns = rows.shape, len(columns)
    out = np.full((n_rows, n_columns), -7, np.int32)
    panels = to_panels(columns, Layout.VECTORS)
    numbers = (n_columns // 8, n_words, n_words * 32, out, n_columns)
    code = library.call(
        "bsk_tile", NEON, int(Layout.VECTORS), form, rows, n_rows, n_words, panels, *numbers
    )
    assert code == 0
    return out


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 6])
def test_tile_is_exact_and_reads_nothing_beyond_its_rows(
    library: EmulatedLibrary, n_rows: int, form: int
) -> None:
    rng = np.random.default_rng(n_rows)
    for n_words in (1, 2, 3, 4, 5, 8, 15, 16, 17, 20, 31, 33, 36, 63):
        rows = random_bits(rng, n_rows, n_words)
        columns = random_bits(rng, 8 * (1 + n_words % 4), n_words)
        out = run_tile(library, rows, columns, form)
        assert np.array_equal(out, products(rows, columns, form)), n_words


@settings(deadline=None, max_examples=40)
@given(
    n_rows=st.integers(1, 6),
    n_panels=st.integers(1, 4),
    n_words=st.integers(1, 150),
    form=st.sampled_from([0, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_tile_of_any_shape(
    library: EmulatedLibrary, n_rows: int, n_panels: int, n_words: int, form: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = random_bits(rng, n_rows, n_words), random_bits(rng, 8 * n_panels, n_words)
    assert np.array_equal(run_tile(library, rows, columns, form), products(rows, columns, form))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("n_words", [BLOCK_WORDS - 1, BLOCK_WORDS, BLOCK_WORDS + 1, 2100])
def test_full_lanes_do_not_overflow(library: EmulatedLibrary, n_words: int, form: int) -> None:
    rows = np.full((6, n_words), 0xFFFFFFFF, np.uint32)
    columns = np.full((8, n_words), 0 if form == 0 else 0xFFFFFFFF, np.uint32)
    expected = -32 * n_words if form == 0 else 32 * n_words
    assert (run_tile(library, rows, columns, form) == expected).all()
    assert (run_tile(library, rows[:1], columns, form) == expected).all()


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=str)
def test_pack_f32_with_zeros_denormals_and_nan(library: EmulatedLibrary, threshold: float) -> None:
    rng = np.random.default_rng(5)
    for n in SIZES:
        x, out = floats(rng, n), np.full(-(-n // 32), 0xDEADBEEF, np.uint32)
        library.call("bsk_pack_f32", NEON, x, n, threshold, out, 0, 1)
        assert np.array_equal(out, words_of(x >= np.float32(threshold))), n


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_pack_bytes(library: EmulatedLibrary, dtype: type[np.integer]) -> None:
    rng = np.random.default_rng(6)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    for n in SIZES:
        x = rng.integers(low, high, n, dtype, endpoint=True)
        for threshold in (low, low + 1, 0, 1, 100, high):
            out = np.full(-(-n // 32), 0xDEADBEEF, np.uint32)
            name = f"bsk_pack_{'u' if low == 0 else 'i'}8"
            library.call(name, NEON, x, n, int(threshold), out, 0, 1)
            assert np.array_equal(out, words_of(x >= threshold)), (n, threshold)


def test_threshold(library: EmulatedLibrary) -> None:
    rng = np.random.default_rng(7)
    extremes = np.array([-(2**31), 2**31 - 1], np.int32)
    for n in SIZES:
        acc, level = rng.integers(-3, 4, (2, n), dtype=np.int32)
        level[rng.random(n) < 0.1] = extremes[0]
        acc[rng.random(n) < 0.1] = extremes[1]
        flip = rng.integers(0, 2, n, dtype=np.int32)
        out = np.full(-(-n // 32), 0xDEADBEEF, np.uint32)
        library.call("bsk_threshold", NEON, acc, level, flip, n, out)
        assert np.array_equal(out, words_of((acc >= level) ^ (flip == 1))), n


def test_instructions_per_product(library: EmulatedLibrary) -> None:
    for count in count_products(library, (1024, 4096)):
        assert 3 < count.marginal <= 3.3
        assert count.marginal < count.gross
    assert count.gross <= 3.35  # a call of 4096 bits, fixed cost and all
    four = count_products(library, (1024,), n_rows=4)[0]
    assert 3 < four.marginal <= 3.45


def test_instructions_per_element(library: EmulatedLibrary) -> None:
    limits = {"pack_f32": 1.0, "pack_u8": 0.5, "pack_i8": 0.5, "threshold": 1.8}
    counts = {count.operation: count.per_element for count in count_elements(library)}
    assert counts.keys() == limits.keys()
    for operation, limit in limits.items():
        assert 0.2 < counts[operation] <= limit, operation


def test_wrong_sizes_are_refused(library: EmulatedLibrary) -> None:
    with pytest.raises(ValueError, match="n_rows: expected 1 to 6, got 7"):
        count_products(library, n_rows=7)
    with pytest.raises(ValueError, match="expected positive multiples of 32, got 33"):
        count_products(library, (64, 33))


@dataclass(frozen=True)
class Case:
    head: tuple[int, ...]
    arrays: tuple[NDArray[np.generic], ...]
    expected: NDArray[np.generic]

    def encode(self) -> bytes:
        blocks = [a.tobytes() for a in self.arrays]
        data = b"".join(block + bytes(-len(block) % 4) for block in blocks)
        return struct.pack("<8i", *self.head, *[0] * (8 - len(self.head))) + data


def tile_cases(rng: np.random.Generator) -> list[Case]:
    shapes = [(r, 1 + r % 4, w) for r in range(1, 7) for w in (1, 3, 4, 7, 16, 17, 36, 65)]
    cases = []
    for n_rows, n_panels, n_words in [*shapes, (6, 2, 1009), (2, 1, 1010)]:
        for form in (0, 1):
            rows, columns = (random_bits(rng, n, n_words) for n in (n_rows, 8 * n_panels))
            if n_words > 1000:
                rows[:], columns[:] = 0xFFFFFFFF, form * 0xFFFFFFFF
            head = (0, form, n_rows, n_panels, n_words, n_words * 32)
            arrays = (rows, to_panels(columns, Layout.VECTORS))
            cases.append(Case(head, arrays, products(rows, columns, form)))
    return cases


def pack_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for n in SIZES:
        for threshold in map(np.float32, THRESHOLDS):
            x = floats(rng, n)
            head = (1, n, int(threshold.view(np.int32)))
            cases.append(Case(head, (x,), words_of(x >= threshold)))
        for code, dtype in ((2, np.uint8), (3, np.int8)):
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            bytes_ = rng.integers(low, high, n, dtype, endpoint=True)
            for level in (low, 1, 100, high):
                cases.append(Case((code, n, int(level)), (bytes_,), words_of(bytes_ >= level)))
        acc, channel_level = rng.integers(-3, 4, (2, n), dtype=np.int32)
        flip = rng.integers(0, 2, n, dtype=np.int32)
        bits = (acc >= channel_level) ^ (flip == 1)
        cases.append(Case((4, n), (acc, channel_level, flip), words_of(bits)))
    return cases


def build_runner(target: str, path: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", *TARGETS[target].zig, "-O3", "-std=c99"]
    flags = ["-static", "-nostdlib", "-ffreestanding", "-s", f"-I{SOURCES}"]
    sources = [str(RUNNER), *(str(SOURCES / name) for name in KERNELS)]
    subprocess.run([*command, *flags, *sources, "-o", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("target", EMULATORS)
def test_kernels_on_base_cpus(target: str, tmp_path: Path) -> None:
    emulator = EMULATORS[target]
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is missing: pip install 'bitspin[arm]'")
    if shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is missing: apt-get install qemu-user")
    rng = np.random.default_rng(11)
    cases = tile_cases(rng) + pack_cases(rng)
    build_runner(target, tmp_path / "runner")
    done = subprocess.run(
        [*emulator, str(tmp_path / "runner")],
        input=b"".join(case.encode() for case in cases),
        capture_output=True,
        check=True,
    )
    at = 0
    for case in cases:
        result = np.frombuffer(done.stdout, case.expected.dtype, case.expected.size, at)
        assert np.array_equal(result, case.expected.reshape(-1)), case.head
        at += case.expected.nbytes
    assert at == len(done.stdout)

"""Products of packed bits on tensor cores against numpy: paths, forms, outputs; the machine code."""

import numpy as np
import pytest
import torch

from kernels import cuda_matmul, pack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_matmul import default_path, default_tile, matmul, matmul_bits
from kernels.cuda_packing import panel_popcounts, row_popcounts, to_panels
from kernels.reference_matmul import FORMS, matmul_bits_reference, matmul_reference

SIZES = (1, 3, 31, 33, 64, 65, 127, 129, 255)


def operands(m, n, k):
    """Packed rows (m, words) and columns (n, words) of k random bits."""
    rng = np.random.default_rng([m, n, k])
    return pack_bits(rng.random((m, k)) < 0.6), pack_bits(rng.random((n, k)) < 0.4)


def check(launcher, on, m, n, k, form, path):
    """All outputs of one product against numpy."""
    rows, columns = operands(m, n, k)
    a, panels = on(rows), to_panels(launcher, on(columns))
    expected = matmul_reference(rows, columns, k, form)
    for dtype in (torch.int32, torch.float32):
        values = matmul(launcher, a, panels, k, n, form, path=path, out_dtype=dtype)
        assert values.dtype == dtype
        assert np.array_equal(values.cpu().numpy(), expected)
    rng = np.random.default_rng(n)
    levels = rng.choice(expected[0], n)
    levels[::7], levels[3::11] = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    flips = rng.random(n) < 0.5
    bits = matmul_bits(launcher, a, panels, k, n, on(levels), on(flips), form, path=path)
    wanted = matmul_bits_reference(rows, columns, k, levels, flips, form)
    assert np.array_equal(bits.cpu().numpy().view(np.uint32), wanted)


@pytest.fixture
def launcher(make_launcher):
    """Of a capability that has the b1 instruction."""
    launcher = make_launcher((8, 0))
    if launcher.capability > (9, 0):
        pytest.skip(f"no b1 instruction on {launcher.capability}")
    return launcher


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["b1", "s8"])
def test_ragged_products_equal_numpy(launcher, on, path, form):
    shift = 1 + 2 * FORMS[form]  # other triples for every form
    for i, m in enumerate(SIZES):
        n, k = SIZES[(4 * i + shift) % 9], SIZES[(2 * i + shift) % 9]
        check(launcher, on, m, n, k, form, path)


@pytest.mark.parametrize("k", [3 * 1024 + 97, 4 * 1024])  # 100 - 1 and 128 words
@pytest.mark.parametrize("path", ["b1", "s8"])
def test_more_steps_than_stages(launcher, on, path, k):
    """Rows that are copied word by word, and by 16 bytes."""
    check(launcher, on, 20, 40, k, "xor", path)


def test_rows_that_begin_between_16_bytes(launcher, on):
    rows, columns = operands(70, 40, 256)
    memory = torch.full((1 + rows.size,), -1, dtype=torch.int32, device=launcher.device)
    a = memory[1:].view(rows.shape)
    a.copy_(on(rows))
    values = matmul(launcher, a, to_panels(launcher, on(columns)), 256, 40, "and", path="b1")
    assert np.array_equal(values.cpu().numpy(), matmul_reference(rows, columns, 256, "and"))


@pytest.mark.parametrize("path", ["b1", "s8"])
def test_large_tiles(launcher, on, path, monkeypatch):
    if launcher.capability not in cuda_matmul.LARGE_CAPABILITIES:
        pytest.skip(f"not enough shared memory on {launcher.capability}")
    monkeypatch.setattr(cuda_matmul, "default_tile", lambda *_: "large")
    check(launcher, on, 133, 266, 70 if path == "s8" else 1330, "mixed", path)


def test_bands_of_tiles_cover_everything(launcher, on):
    """Ten tiles of rows, of which the second band has two, and three of columns."""
    rows, columns = operands(9 * 64 + 1, 2 * 64 + 1, 32)
    a, panels = on(rows), to_panels(launcher, on(columns))
    values = matmul(launcher, a, panels, 32, len(columns), path="b1")
    assert np.array_equal(values.cpu().numpy(), matmul_reference(rows, columns, 32))


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 40), (5, 0, 40), (5, 40, 0)])
@pytest.mark.parametrize("path", ["b1", "s8", "popc"])
def test_empty_products(launcher, on, path, m, n, k):
    a = on(np.zeros((m, -(-k // 32)), np.uint32))
    panels = on(np.zeros((-(-n // 8), -(-k // 128), 32), np.uint32))
    levels, flips = on(np.zeros(n, np.int32)), on(np.zeros(n, bool))
    assert matmul(launcher, a, panels, k, n, path=path).tolist() == [[0] * n] * m
    words = [] if n == 0 else [-1, 0xFF]
    assert matmul_bits(launcher, a, panels, k, n, levels, flips, path=path).tolist() == [words] * m


@pytest.mark.parametrize("path", ["b1", "popc"])
def test_ready_popcounts_are_used(launcher, on, path):
    rows, columns = operands(10, 12, 100)
    a, panels = on(rows), to_panels(launcher, on(columns))
    counts = row_popcounts(launcher, a) + 1, panel_popcounts(launcher, panels, 12) + 1
    for form, change in (("xor", {"b1": -4, "popc": 0}), ("mixed", {"b1": -1, "popc": -1})):
        values = matmul(
            launcher,
            *(a, panels, 100, 12, form),
            path=path,
            row_popcounts=counts[0],
            column_popcounts=counts[1],
        )
        expected = matmul_reference(rows, columns, 100, form) + change[path]
        assert np.array_equal(values.cpu().numpy(), expected)


def test_default_paths_and_tiles(make_launcher, on):
    large, small = (8192, 8192), (64, 1024)
    choices = {(8, 0): "b1", (8, 6): "b1", (9, 0): "b1", (10, 0): "s8", (12, 0): "s8"}
    for capability, path in choices.items():
        assert default_path(capability, 64) == default_path(capability, 8192) == path
        assert default_path(capability, 8) == "popc"
    assert default_tile((8, 0), *large) == "large"
    assert default_tile((8, 0), *small) == default_tile((8, 6), *large) == "small"
    with pytest.raises(ValueError, match=r"expected 8\.0 or later, got 7\.5"):
        default_path((7, 5), 1)


def test_wrong_operands_are_refused(launcher, on):
    rows, columns = operands(3, 9, 40)
    a, panels = on(rows), to_panels(launcher, on(columns))
    levels, flips = on(np.zeros(9, np.int32)), on(np.zeros(9, bool))
    for error, message, arguments, options in [
        (ValueError, r"^form: expected one of xor", (a, panels, 40, 9, "or"), {}),
        (ValueError, r"^path: expected one of popc", (a, panels, 40, 9), {"path": "cublas"}),
        (ValueError, r"^a: expected shape \('m', 3\)", (a, panels, 65, 9), {}),
        (ValueError, r"^panels: expected shape \(3, 1, 32\)", (a, panels, 40, 17), {}),
        (ValueError, r"^n_bits, n: expected 0 to 2\^29", (a, panels, 1 << 29, 9), {}),
        (TypeError, r"^a: expected int32", (a.float(), panels, 40, 9), {}),
        (TypeError, r"^out_dtype", (a, panels, 40, 9), {"out_dtype": torch.float64}),
        (ValueError, r"^row_popcounts", (a, panels, 40, 9), {"row_popcounts": levels}),
    ]:
        with pytest.raises(error, match=message):
            matmul(launcher, *arguments, **options)
    for message, vectors in [("^threshold", (levels[1:], flips)), ("^flip", (levels, flips[1:]))]:
        with pytest.raises(ValueError, match=message):
            matmul_bits(launcher, a, panels, 40, 9, *vectors)


def test_paths_of_other_devices_are_refused(make_launcher, on):
    launcher = make_launcher((10, 0))
    if launcher.capability <= (9, 0):
        pytest.skip(f"{launcher.capability} has the b1 instruction")
    rows, columns = operands(5, 9, 40)
    a, panels = on(rows), to_panels(launcher, on(columns))
    for path in ("b1", "wgmma"):
        with pytest.raises(ValueError, match=rf"^path: '{path}' needs a compute capability"):
            matmul(launcher, a, panels, 40, 9, path=path)
    values = matmul(launcher, a, panels, 40, 9)
    assert np.array_equal(values.cpu().numpy(), matmul_reference(rows, columns, 40))


REGISTERS = {"large": 255, "small": 128}  # 65536 / 256 threads; / (4 blocks of 128 threads)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code_is_what_was_meant(architecture):
    code = machine_code("matmul", architecture)
    instructions = ["s8"] if architecture == "sm_100" else ["b1", "s8"]
    assert set(code) == {f"matmul_{i}_{tile}" for i in instructions for tile in REGISTERS}
    for name, kernel in code.items():
        _, instruction, tile = name.split("_")
        outputs = {"large": 32, "small": 8}[tile]  # instructions for 256 bits of a warp's tile
        if instruction == "b1":  # four in one piece, and one for the end of a row
            assert kernel.count("BMMA.168256.AND.POPC") == 5 * outputs
        else:
            assert kernel.count("IMMA.16832.S8.S8") == 8 * outputs
        assert (
            kernel.count("BMMA") + kernel.count("IMMA.")
            == (5 if instruction == "b1" else 8) * outputs
        )
        assert kernel.count("LDSM.16.M88.4") > 0
        assert kernel.count("LDGSTS.E.BYPASS.128") > 0
        assert kernel.count("RET") == 0  # on sm_80 the end of a loop is a CALL that never returns
        assert kernel.stack_bytes == 0
        assert kernel.n_registers <= REGISTERS[tile]

"""Products of few packed rows by POPC against numpy; the machine code."""

import numpy as np
import pytest
import torch

from kernels import pack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_matmul import matmul, matmul_bits
from kernels.cuda_packing import to_panels
from kernels.reference_matmul import FORMS, matmul_bits_reference, matmul_reference

SIZES = (1, 3, 31, 33, 64, 65, 127, 129, 255)


def check(launcher, on, m, n, k, form):
    """All outputs of one product against numpy."""
    rng = np.random.default_rng([m, n, k])
    rows, columns = (pack_bits(rng.random((lines, k)) < 0.6) for lines in (m, n))
    a, panels = on(rows), to_panels(launcher, on(columns))
    expected = matmul_reference(rows, columns, k, form)
    for dtype in (torch.int32, torch.float32):
        values = matmul(launcher, a, panels, k, n, form, path="popc", out_dtype=dtype)
        assert values.dtype == dtype
        assert np.array_equal(values.cpu().numpy(), expected)
    levels, flips = rng.choice(expected[-1], n), rng.random(n) < 0.5
    bits = matmul_bits(launcher, a, panels, k, n, on(levels), on(flips), form, path="popc")
    wanted = matmul_bits_reference(rows, columns, k, levels, flips, form)
    assert np.array_equal(bits.cpu().numpy().view(np.uint32), wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m", [1, 2, 4, 5, 8, 19])
def test_ragged_products_equal_numpy(launcher, on, m, form):
    for n, k in zip(SIZES, SIZES[m % 9 :] + SIZES[: m % 9], strict=True):
        check(launcher, on, m, n, k, form)


@pytest.mark.parametrize("m", [1, 3, 6])
def test_rows_longer_than_shared_memory(launcher, on, m):
    """The second part of a row, of which shared memory holds 32768 bits, and turns of all warps."""
    check(launcher, on, m, 9, 32768 + 2100, "xor")


REGISTERS = {1: 64, 4: 80, 8: 80}  # rows: 65536 / (8 or 6 blocks of 128 threads), by eights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code_is_what_was_meant(architecture):
    code = machine_code("gemv", architecture)
    assert set(code) == {f"gemv_{form}_{rows}" for form in ("xor", "and") for rows in (1, 4, 8)}
    for name, kernel in code.items():
        n_rows = int(name[-1])
        assert kernel.count("LDG.E.128") == 4  # the weights, four reads under way
        assert kernel.count("LDS.128") == kernel.count("POPC") / 4 == 4 * n_rows
        assert kernel.count("RET") == 0  # on sm_80 the end of a loop is a CALL that never returns
        assert kernel.stack_bytes == 0
        assert kernel.n_registers <= REGISTERS[n_rows]

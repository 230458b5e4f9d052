"""Gradients on the GPU against products in double precision."""

import numpy as np
import pytest
import torch

from kernels import cuda_gradients, pack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code

SHAPES = ((1, 1, 1), (33, 31, 65), (64, 129, 127), (130, 63, 140), (8, 96, 256))
"""Rows, terms of the sum, columns."""


def _tolerance(real: np.ndarray) -> np.ndarray:
    """J sums in float32, each rounding, or cut as tensor cores do, by 2^-23 of at most sum |r|."""
    return real.shape[1] * 2.0**-23 * np.abs(real).sum(axis=1, keepdims=True)


def _draw(shape: tuple[int, int, int], dtype: torch.dtype):
    n_rows, n_sum, n = shape
    rng = np.random.default_rng(n_rows + n_sum + n)
    scale = 10.0 ** rng.uniform(-6, 6, (n_rows, 1))
    real = torch.from_numpy(scale * rng.standard_normal((n_rows, n_sum))).to(dtype)
    bits, kept = rng.random((n_sum, n)) < 0.5, rng.random((n_rows, n)) < 0.7
    expected = real.double().numpy() @ (2.0 * bits - 1)
    return real, pack_bits(bits), pack_bits(kept), kept, expected


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_that_of_doubles(launcher, on, shape, dtype, transposed):
    real, words, mask, kept, expected = _draw(shape, dtype)
    stored = real.T.contiguous() if transposed else real
    for out_dtype in (torch.float32, torch.bfloat16):
        result = cuda_gradients.signs_product(
            *(launcher, on(stored), on(words), shape[2]),
            transposed=transposed,
            mask=on(mask),
            out_dtype=out_dtype,
        )
        assert result.dtype == out_dtype
        got = result.cpu().double().numpy()
        limit = _tolerance(real.double().numpy())
        if out_dtype is torch.bfloat16:
            limit = limit + np.abs(expected) * 2.0**-8
        assert (np.abs(got - expected * kept) <= limit).all()
        assert (got[~kept] == 0).all()


def test_no_bit_of_a_float_is_lost(launcher, on):
    rng = np.random.default_rng(3)
    real = rng.integers(1 << 23, 1 << 24, (17, 1)).astype(np.float32) * np.float32(2.0**-30)
    bits = rng.random((1, 40)) < 0.5
    result = cuda_gradients.signs_product(launcher, on(real), on(pack_bits(bits)), 40)
    assert np.array_equal(result.cpu().numpy(), real @ (2 * bits - 1).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integers_are_exact_however_the_sum_is_split(launcher, on, dtype):
    rng = np.random.default_rng(4)
    real = torch.from_numpy(rng.integers(-99, 100, (9, 300))).to(dtype)
    bits, kept = rng.random((300, 70)) < 0.5, rng.random((9, 70)) < 0.5
    expected = real.double().numpy() @ (2.0 * bits - 1) * kept
    for n_splits in (1, 2, 3, 10):
        result = cuda_gradients.signs_product(
            *(launcher, on(real), on(pack_bits(bits)), 70),
            mask=on(pack_bits(kept)),
            out_dtype=torch.float32,
            n_splits=n_splits,
        )
        assert np.array_equal(result.cpu().double().numpy(), expected)


def test_an_empty_sum_is_zero_and_empty_results_are_empty(launcher, on):
    words = on(np.zeros((0, 2), np.uint32))
    assert cuda_gradients.signs_product(launcher, on(torch.ones(3, 0)), words, 40).tolist() == (
        [[0.0] * 40] * 3
    )
    words = on(np.zeros((5, 2), np.uint32))
    result = cuda_gradients.signs_product(launcher, on(torch.ones(0, 5)), words, 40)
    assert result.shape == (0, 40)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 65, 128, 1028])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_reads_every_bit(launcher, on, dtype, n):
    rng = np.random.default_rng(n)
    values = torch.from_numpy(rng.standard_normal((2, 5, n))).to(dtype)
    bits = torch.from_numpy(rng.random((2, 5, n)) < 0.5)
    words = on(pack_bits(bits.numpy()))
    kept = cuda_gradients.masked(launcher, on(values), words)
    assert torch.equal(kept.cpu(), torch.where(bits, values, 0))


def test_mistakes_are_named_in_one_line(launcher, on):
    words = on(np.zeros((5, 2), np.uint32))
    for real, n, message in (
        (torch.ones(3, 5, dtype=torch.float64), 40, "real: expected float32 or bfloat16"),
        (torch.ones(3, 5), 70, "words: expected"),
        (torch.ones(3, 4), 40, "words: expected 4 rows"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            cuda_gradients.signs_product(launcher, on(real), words, n)


REGISTERS = 255  # 65536 / (2 blocks of 128 threads) = 256


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensor_cores_multiply_and_signs_are_made_in_registers(architecture):
    code = machine_code("gradients", architecture)
    assert len(code) == 6
    for name, kernel in code.items():
        n_terms = 3 if "f32_f32" in name else 1
        assert kernel.count("HMMA.16816.F32.BF16") >= 64 * n_terms, name
        assert kernel.count("LDSM.16.MT88.4" if "transposed" in name else "LDSM.16.M88.4") > 0
        assert kernel.count("LDGSTS.E.BYPASS.128") > 0
        assert kernel.stack_bytes == 0
        assert kernel.count("RET") == 0  # on sm_80 the end of a loop is a CALL that never returns
        assert kernel.n_registers <= REGISTERS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masks_read_16_bytes_and_fill_a_multiprocessor(architecture):
    for name, kernel in machine_code("masks", architecture).items():
        assert kernel.count("LDG.E.64" if name == "keep_bf16_bf16" else "LDG.E.128") > 0
        assert kernel.count("STG.E.128" if name == "keep_f32_f32" else "STG.E.64") > 0
        assert kernel.stack_bytes == kernel.count("RET") == 0
        assert kernel.n_registers <= 32  # 65536 / (8 blocks of 256 threads)

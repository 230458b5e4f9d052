"""Draws on the GPU against numpy: the same states, bit for bit."""

import numpy as np
import pytest
import torch

from kernels import Purpose, pack_bits, unpack_bits
from kernels import random_words as random_words_reference
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_sampling import bernoulli, bernoulli_probabilities, random_words
from kernels.reference_sampling import (
    HIGHEST_FIELD,
    LOWEST_FIELD,
    bernoulli_probabilities_reference,
    bernoulli_reference,
)

STREAM = {"seed": 0x9E3779B97F4A7C15, "purpose": Purpose.GIBBS_HIDDEN, "step": 7, "index": 4097}
SHAPES = [(1, 1), (7, 3), (9, 33), (8, 128), (17, 132), (3, 257), (41, 64)]
"""Whole blocks of 4 units and not, one warp and several, rows of one group of 8 and beyond."""

SIGMOID_ERROR = 1e-6
"""Of the exponential 2e-7, of the reciprocal 1e-7, and of float32 roundings."""


def fields(rows, n):
    """Normal fields, and among them all where the sampler decides otherwise."""
    random = np.random.default_rng(100 * rows + n)
    x = 3 * random.standard_normal((rows, n)).astype(np.float32)
    edges = [np.nextafter(edge, x) for edge in (LOWEST_FIELD, HIGHEST_FIELD) for x in (-99, 99)]
    tiny = np.float32(1e-45)
    special = np.array(
        [
            *(np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, 3e38, -3e38, 87.5, -88.0, 16.5),
            *(-17.0, LOWEST_FIELD, HIGHEST_FIELD, *edges),
        ],
        np.float32,
    )
    chosen = random.random(x.shape) < 0.3
    x[chosen] = random.choice(special, chosen.sum())
    return x


def words_of(tensor):
    return tensor.cpu().numpy().view(np.uint32)


def rows_from(begin, rows):
    return np.arange(begin, begin + rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), SHAPES)
def test_states_are_those_of_numpy(launcher, on, rows, n, dtype):
    x = torch.from_numpy(fields(rows, n)).to(dtype)
    words = bernoulli(launcher, on(x), **STREAM, row_begin=1000)
    expected = bernoulli_reference(x.float().numpy(), **STREAM, rows=rows_from(1000, rows))
    assert np.array_equal(words_of(words), expected)


def test_the_same_roundings_decide(launcher, on):
    """Fields within units in the last place of where the drawn uniform is the sigmoid."""
    rows = rows_from(0, 17)
    uniforms = (random_words_reference(n_elements=512, **STREAM, rows=rows) >> 8) * 2.0**-24
    x = np.log(np.clip(uniforms, 1e-7, 1 - 1e-7) / (1 - np.clip(uniforms, 1e-7, 1 - 1e-7)))
    x = x.astype(np.float32) * (1 + (rows[:, None] - 8) * np.float32(2.0**-23))
    expected = bernoulli_reference(x.astype(np.float32), **STREAM, rows=rows)
    words = bernoulli(launcher, on(x.astype(np.float32)), **STREAM)
    assert 0.2 < unpack_bits(expected, 512).mean() < 0.8
    assert np.array_equal(words_of(words), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), SHAPES[1:5])
def test_probabilities_come_with_the_states(launcher, on, rows, n, dtype):
    x = torch.from_numpy(fields(rows, n)).to(dtype)
    p = torch.full((rows, n), -1.0, device=launcher.device)
    words = bernoulli(launcher, on(x), **STREAM, probabilities=p)
    expected = bernoulli_reference(x.float().numpy(), **STREAM, rows=rows_from(0, rows))
    assert np.array_equal(words_of(words), expected)
    exact = torch.sigmoid(x.double()).numpy()
    assert np.allclose(p.cpu().numpy(), exact, rtol=0, atol=SIGMOID_ERROR, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), SHAPES[1:5])
def test_units_are_on_with_given_probabilities(launcher, on, rows, n, dtype):
    random = np.random.default_rng(n)
    p = random.random((rows, n)).astype(np.float32)
    special = [np.nan, 0.0, -1.0, 1.0, 2.0, np.inf, -np.inf, 1e-45, 2.0**-24]
    chosen = random.random(p.shape) < 0.3
    p[chosen] = random.choice(np.array(special, np.float32), chosen.sum())
    values = torch.from_numpy(p).to(dtype)
    words = bernoulli_probabilities(launcher, on(values), **STREAM, row_begin=5)
    rows_ = rows_from(5, rows)
    expected = bernoulli_probabilities_reference(values.float().numpy(), **STREAM, rows=rows_)
    assert np.array_equal(words_of(words), expected)


def test_a_probability_is_met_exactly(launcher, on):
    """A unit whose uniform is its probability is off, and on one step above."""
    uniforms = (random_words_reference(n_elements=96, **STREAM) >> 8) * np.float32(2.0**-24)
    p = uniforms.astype(np.float32)
    off = bernoulli_probabilities(launcher, on(p), **STREAM)
    on_ = bernoulli_probabilities(launcher, on(np.nextafter(p, np.float32(2))), **STREAM)
    assert words_of(off).tolist() == [[0, 0, 0]]
    assert words_of(on_).tolist() == [[0xFFFFFFFF] * 3]


@pytest.mark.parametrize(("rows", "n"), SHAPES)
def test_random_words_are_those_of_numpy(launcher, rows, n):
    words = random_words(launcher, rows, n, **STREAM, row_begin=2**32 - rows)
    expected = random_words_reference(n_elements=n, **STREAM, rows=rows_from(2**32 - rows, rows))
    assert np.array_equal(words_of(words), expected)


def test_the_step_goes_on_with_a_counter(launcher, on):
    counter = on(np.array([2**32 - 3], np.uint32))  # modulo 2**32
    stream = {**STREAM, "step": 5}
    x = fields(5, 40)
    expected = bernoulli_reference(x, **{**STREAM, "step": 2}, rows=rows_from(0, 5))
    assert np.array_equal(words_of(bernoulli(launcher, on(x), **stream, counter=counter)), expected)
    counter += 1
    words = random_words(launcher, 1, 40, **stream, counter=counter)
    expected = random_words_reference(n_elements=40, **{**STREAM, "step": 3})
    assert np.array_equal(words_of(words), expected)


def test_states_do_not_depend_on_the_split_of_a_batch(launcher, on):
    x = on(fields(19, 70))
    parts = [bernoulli(launcher, x[i:j], **STREAM, row_begin=i) for i, j in ((0, 5), (5, 19))]
    assert torch.equal(torch.cat(parts), bernoulli(launcher, x, **STREAM))


def test_fields_and_probabilities_may_begin_anywhere(launcher, on):
    x = fields(1, 257).reshape(-1)
    shifted = on(x)[1:].view(2, 128)
    assert shifted.data_ptr() % 16 == 4
    expected = bernoulli_reference(x[1:].reshape(2, 128), **STREAM, rows=rows_from(0, 2))
    exact = torch.sigmoid(torch.from_numpy(x[1:]).double()).numpy()
    for values in (shifted, shifted.clone()):
        p = torch.full((257,), -1.0, device=launcher.device)
        words = bernoulli(launcher, values, **STREAM, probabilities=p[1:].view(2, 128))
        assert np.array_equal(words_of(words), expected)
        assert p[0] == -1
        assert np.allclose(p[1:].cpu().numpy(), exact, rtol=0, atol=SIGMOID_ERROR, equal_nan=True)


def test_every_word_is_written_and_none_beyond(launcher, on):
    x = fields(3, 100)
    words = torch.full((4, 4), -1, dtype=torch.int32, device=launcher.device)
    stream = (STREAM["seed"], 3, STREAM["index"], STREAM["step"], None, 0)
    launcher.launch("sampler", "bernoulli_f32", 1, on(x), 3, 100, *stream, words)
    expected = bernoulli_reference(x, **STREAM, rows=rows_from(0, 3))
    assert np.array_equal(words_of(words)[:3], expected)
    assert (words[3] == -1).all()


@pytest.mark.parametrize("shape", [(0, 40), (3, 0)])
def test_nothing_is_drawn(launcher, on, shape):
    words = bernoulli(launcher, on(np.zeros(shape, np.float32)), **STREAM)
    assert words.shape == (shape[0], pack_bits(np.zeros(shape, bool)).shape[1])
    assert random_words(launcher, *shape, **STREAM).shape == shape


def test_wrong_arguments_are_named(launcher, on):
    x = on(np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="field: expected float32 or bfloat16"):
        bernoulli(launcher, x.double(), **STREAM)
    with pytest.raises(ValueError, match="field: expected a contiguous tensor"):
        bernoulli(launcher, x.T, **STREAM)
    with pytest.raises(ValueError, match="rows: expected 0 <= row"):
        bernoulli(launcher, x, **STREAM, row_begin=2**32 - 1)
    with pytest.raises(ValueError, match="index: expected 0 <= index"):
        bernoulli(launcher, x, **{**STREAM, "index": 2**24})
    with pytest.raises(ValueError, match=r"probabilities: expected float32 of shape \(2, 3\)"):
        bernoulli(launcher, x, **STREAM, probabilities=x.T.contiguous())
    with pytest.raises(ValueError, match="counter: expected one integer"):
        bernoulli(launcher, x, **STREAM, counter=on(np.zeros(2, np.uint32)))


REGISTERS = {1024: 64, 768: 80}
"""Threads that a multiprocessor shall hold -> registers of one."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_philox_block_serves_four_units(architecture):
    code = machine_code("sampler", architecture)
    for kernel, machine in code.items():
        threads = 768 if "and_probabilities" in kernel else 1024
        assert machine.n_registers <= REGISTERS[threads], kernel
        assert machine.stack_bytes == machine.count("CALL") == 0, kernel
    for kernel in ("bernoulli_f32", "bernoulli_bf16", "bernoulli_of_probabilities_f32"):
        # 8 blocks of 20 wide products, less what they share, and some of addresses.
        assert 130 <= code[kernel].count("IMAD.WIDE") <= 145
        assert code[kernel].count("SHFL") == 3
        assert code[kernel].count("VOTE") == 0
    assert code["bernoulli_f32"].count("LDG.E.128") == 8
    assert code["bernoulli_bf16"].count("LDG.E.64") == 8
    assert code["random_words"].count("STG.E.128") == 8

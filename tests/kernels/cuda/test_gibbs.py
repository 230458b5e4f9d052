"""Half-steps and chains of Gibbs sampling on CUDA against the CPU's sampler."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kernels import Purpose, pack_bits, uniform, unpack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_gibbs import GibbsChain, half_step, padded_weights
from kernels.reference_sampling import bernoulli_reference

SEED = 0x123456789ABCDEF
STREAM = {"seed": SEED, "purpose": Purpose.GIBBS_HIDDEN, "index": 3}
SHAPES = [(1, 1, 1), (3, 33, 129), (65, 70, 33), (130, 200, 31), (64, 127, 255)]
SIGMOID_BOUND = 2.5e-7
"""Of the sampled probability, kernels/c/host/sampler.h."""


def layer(rows, n_visible, n_hidden, transposed, integer=True):
    """States given, weights that bfloat16 holds, bias, and the exact fields (float64)."""
    rng = np.random.default_rng(rows * n_visible + n_hidden + transposed)
    shape = (n_visible, n_hidden)
    weights = rng.integers(-3, 4, shape) if integer else rng.normal(0, 0.3, shape)
    weights = torch.from_numpy(weights.astype(np.float32)).bfloat16()
    n_in, n_out = shape[::-1] if transposed else shape
    states = rng.random((rows, n_in)) < 0.5
    bias = rng.integers(-2, 3, n_out) if integer else rng.normal(0, 1, n_out)
    bias = bias.astype(np.float32)
    exact = weights.double().numpy()
    return states, weights, bias, states @ (exact.T if transposed else exact) + bias


@pytest.mark.parametrize("how", [{"tile": 64}, {"tile": 128}, {"path": "product"}])
@pytest.mark.parametrize("transposed", [False, True])
def test_integer_weights_draw_the_states_of_the_cpu(launcher, on, transposed, how):
    for rows, n_visible, n_hidden in SHAPES:
        states, weights, bias, field = layer(rows, n_visible, n_hidden, transposed)
        out = on(np.full((rows, -(-len(bias) // 32)), -1, np.int32))
        fields = on(np.full(field.shape, np.nan, np.float32))
        result = half_step(
            *(launcher, on(pack_bits(states)), states.shape[1], on(weights), on(bias)),
            **STREAM, transposed=transposed, step=7, row_begin=90, out=out, fields=fields, **how,
        )  # fmt: skip
        expected = bernoulli_reference(
            field.astype(np.float32), **STREAM, step=7, rows=90 + np.arange(rows)
        )
        assert result is out
        assert np.array_equal(fields.cpu().numpy(), field)
        assert np.array_equal(out.cpu().numpy().view(np.uint32), expected)


@pytest.mark.parametrize("offset", [0.0, 1e-7, -1e-7, 8e-6, -8e-6, 1.2e-5, -1.2e-5])
def test_units_near_their_uniforms_are_decided_exactly(launcher, on, offset):
    """Fields at which p is the uniform, or a little off: approximations do not tell the side."""
    n = 255
    u = uniform(**STREAM, n_elements=n, rows=9).astype(np.float64)[0]
    p = np.clip(u * (1 + offset), 1e-7, 1 - 1e-7)
    bias = np.log(p / (1 - p)).astype(np.float32)
    words = half_step(
        *(launcher, on(np.ones((1, 1), np.uint32)), 1, on(torch.zeros(1, n).bfloat16()), on(bias)),
        **STREAM, transposed=False, step=0, row_begin=9,
    )  # fmt: skip
    expected = bernoulli_reference(bias[None], **STREAM, rows=9)
    assert np.array_equal(words.cpu().numpy().view(np.uint32), expected)


@pytest.mark.parametrize(("field", "is_on"), [(-17.3, True), (-17.4, False), (-200.0, False)])
def test_a_uniform_of_zero_is_off_below_the_lowest_field(launcher, on, field, is_on):
    row, element = 190459, 23  # one of the few draws of this stream that are 0
    assert uniform(**STREAM, n_elements=24, rows=row)[0, element] == 0
    bias = np.full(24, field, np.float32)
    words = half_step(
        *(launcher, on(np.ones((1, 1), np.uint32)), 1, on(torch.zeros(1, 24).bfloat16()), on(bias)),
        **STREAM, transposed=False, step=0, row_begin=row,
    )  # fmt: skip
    assert words.item() == is_on << element


@pytest.mark.parametrize("transposed", [False, True])
def test_real_weights_differ_only_within_rounding(launcher, on, transposed):
    """Products of bits and bfloat16 are exact; each of the n sums loses at most 2^-23 of the largest
    partial sum (tensor cores may truncate), and the sigmoid has slope at most 1/4."""
    rows, n_visible, n_hidden = 90, 301, 77
    states, weights, bias, field = layer(rows, n_visible, n_hidden, transposed, integer=False)
    probabilities = on(np.full(field.shape, np.nan, np.float32))
    words = half_step(
        *(launcher, on(pack_bits(states)), states.shape[1], on(weights), on(bias)),
        **STREAM, transposed=transposed, step=7, probabilities=probabilities,
    )  # fmt: skip
    on_device = unpack_bits(words.cpu().numpy().view(np.uint32), len(bias))
    magnitude = abs(weights.double().numpy())
    sums = states @ (magnitude.T if transposed else magnitude) + abs(bias)
    bound = (states.shape[1] + 2) * 2.0**-23 * sums / 4 + SIGMOID_BOUND
    p = 1 / (1 + np.exp(-field))
    u = uniform(**STREAM, n_elements=len(bias), step=7, rows=np.arange(rows)).astype(np.float64)
    decided = abs(u - p) > bound
    assert decided.mean() > 0.99
    assert np.array_equal(on_device[decided], (u < p)[decided])
    assert (abs(probabilities.cpu().numpy() - p) < bound).all()


def test_probabilities_are_rounded_to_bfloat16(launcher, on):
    states, weights, bias, _ = layer(33, 40, 70, False, integer=False)
    arguments = (launcher, on(pack_bits(states)), 40, on(weights), on(bias))
    exact = on(np.full((33, 70), np.nan, np.float32))
    rounded = exact.bfloat16()
    for p in (exact, rounded):
        half_step(*arguments, **STREAM, transposed=False, step=0, probabilities=p)
    assert torch.equal(rounded, exact.bfloat16())


def test_probabilities_of_large_fields(launcher, on):
    bias = np.array([-1e9, -100, -88, -20, 0, 20, 88, 1e9, np.inf, -np.inf, np.nan], np.float32)
    p = on(np.zeros((1, 11), np.float32))
    words = half_step(
        *(launcher, on(np.ones((1, 1), np.uint32)), 1, on(torch.zeros(1, 11).bfloat16()), on(bias)),
        **STREAM, transposed=False, step=0, probabilities=p,
    )  # fmt: skip
    expected = torch.sigmoid(torch.from_numpy(bias).double())
    assert torch.allclose(p[0].cpu().double(), expected, rtol=1e-6, atol=1e-37, equal_nan=True)
    reference = bernoulli_reference(bias[None], **STREAM)
    assert np.array_equal(words.cpu().numpy().view(np.uint32), reference)


def test_rows_do_not_depend_on_the_batch(launcher, on):
    states, weights, bias, _ = layer(150, 50, 40, False)
    rest = (50, on(weights), on(bias))
    whole = half_step(
        launcher, on(pack_bits(states)), *rest, **STREAM, transposed=False, step=1, row_begin=5
    )
    parts = [
        half_step(
            *(launcher, on(pack_bits(states[begin:end])), *rest),
            **STREAM, transposed=False, step=1, row_begin=5 + begin,
        )
        for begin, end in ((0, 1), (1, 70), (70, 150))
    ]  # fmt: skip
    assert torch.equal(whole, torch.cat(parts))


def test_counter_is_added_to_the_step(launcher, on):
    states, weights, bias, _ = layer(20, 50, 40, False)
    arguments = (launcher, on(pack_bits(states)), 50, on(weights), on(bias))
    by_counter, by_step, other = (
        half_step(*arguments, **STREAM, transposed=False, step=step, counter=counter)
        for step, counter in ((3, on(np.array([8], np.int32))), (11, None), (3, None))
    )
    assert torch.equal(by_counter, by_step)
    assert not torch.equal(by_counter, other)


@pytest.mark.parametrize(("rows", "n_visible", "n_hidden"), [(0, 40, 40), (5, 0, 40), (5, 40, 0)])
def test_empty_layers(launcher, on, rows, n_visible, n_hidden):
    states, weights, bias, field = layer(rows, n_visible, n_hidden, False)
    words = half_step(
        *(launcher, on(pack_bits(states)), n_visible, on(weights), on(bias)),
        **STREAM, transposed=False, step=1,
    )  # fmt: skip
    expected = bernoulli_reference(field.astype(np.float32), **STREAM, step=1, rows=np.arange(rows))
    assert np.array_equal(words.cpu().numpy().view(np.uint32), expected)


def chain_by_hand(weights, visible_bias, hidden_bias, visible, n_sweeps, row_begin):
    rows = row_begin + np.arange(len(visible))
    weights = weights.double().numpy()

    def draw(field, purpose, step):
        words = bernoulli_reference(
            field.astype(np.float32), seed=SEED, purpose=purpose, step=step, rows=rows
        )
        return unpack_bits(words, field.shape[1])

    hidden = draw(visible @ weights + hidden_bias, Purpose.GIBBS_HIDDEN, 4)
    for sweep in range(5, 5 + n_sweeps):
        visible = draw(hidden @ weights.T + visible_bias, Purpose.GIBBS_VISIBLE, sweep)
        hidden = draw(visible @ weights + hidden_bias, Purpose.GIBBS_HIDDEN, sweep)
    return visible, hidden


def a_chain(launcher, on, **options):
    _, weights, hidden_bias, _ = layer(1, 45, 70, False)
    visible_bias = np.arange(-22, 23).astype(np.float32)
    start = np.random.default_rng(0).random((37, 45)) < 0.5
    chain = GibbsChain(
        launcher,
        on(weights),
        on(visible_bias),
        on(hidden_bias),
        37,
        seed=SEED,
        row_begin=6,
        **options,
    )
    chain.start(on(pack_bits(start)), sweep=4)
    return chain, (weights, visible_bias, hidden_bias, start)


@pytest.mark.parametrize("runs", [(4,), (1, 3), (1, 1, 1, 1), (2, 2)])
def test_chain_is_a_loop_of_the_cpu_sampler(launcher, on, runs):
    """On a GPU equal runs are replays of a graph from the second on."""
    chain, parts = a_chain(launcher, on)
    for n_sweeps in runs:
        chain.run(n_sweeps)
    assert chain.sweep == 9
    visible, hidden = chain_by_hand(*parts, 4, 6)
    assert np.array_equal(chain.visible.cpu().numpy().view(np.uint32), pack_bits(visible))
    assert np.array_equal(chain.hidden.cpu().numpy().view(np.uint32), pack_bits(hidden))


@pytest.mark.parametrize("graph", [None, True])
def test_a_graph_is_captured_once_and_after_a_plain_run(launcher, on, monkeypatch, graph):
    """With a graph that launches the kernels anew."""
    chain, parts = a_chain(launcher, on)
    calls = []

    def note(name):
        calls.append(name)
        GibbsChain._sweeps(chain, 1)

    monkeypatch.setattr(chain, "_has_graph", True)
    monkeypatch.setattr(chain, "_sweeps", lambda n_sweeps: note("plain"))
    monkeypatch.setattr(
        chain,
        "_capture",
        lambda n_sweeps: calls.append("capture") or SimpleNamespace(replay=lambda: note("replay")),
    )
    for _ in range(3):
        chain.run(1, graph=graph)
    assert calls == ["plain", "capture", "replay", "replay"]
    visible, hidden = chain_by_hand(*parts, 3, 6)
    assert np.array_equal(chain.visible.cpu().numpy().view(np.uint32), pack_bits(visible))
    assert np.array_equal(chain.hidden.cpu().numpy().view(np.uint32), pack_bits(hidden))


def test_chain_goes_on_from_hidden_states_and_other_parameters(launcher, on):
    chain, (weights, visible_bias, hidden_bias, _) = a_chain(launcher, on)
    chain.run(1)
    hidden, sweep = chain.hidden.clone(), chain.sweep
    chain.run(2)
    expected = chain.visible.clone()
    chain.load(*(on(x) for x in (-weights, -torch.from_numpy(visible_bias), 0 * hidden_bias)))
    chain.resume(hidden, sweep=sweep)
    chain.run(2)
    assert not torch.equal(chain.visible, expected)
    chain.load(on(weights), on(visible_bias), on(hidden_bias))
    chain.resume(hidden, sweep=sweep)
    chain.run(2)
    assert torch.equal(chain.visible, expected)


def test_chain_keeps_the_last_probabilities(launcher, on):
    chain, (weights, _, hidden_bias, _) = a_chain(launcher, on, probabilities=True)
    chain.run(2)
    visible = unpack_bits(chain.visible.cpu().numpy().view(np.uint32), 45)
    p = torch.sigmoid(torch.from_numpy(visible @ weights.double().numpy() + hidden_bias))
    assert (chain.hidden_probabilities.cpu().double() - p).abs().max() <= 2.0**-9


def test_what_does_not_fit_is_refused(launcher, on):
    states, weights, bias, _ = layer(20, 50, 40, False)
    words, options = on(pack_bits(states)), {**STREAM, "transposed": False, "step": 0}
    for change, message in (
        ((words, 70, on(weights), on(bias)), "states: expected last axis 3"),
        ((words, 50, on(weights.float()), on(bias)), "weights: expected bfloat16"),
        ((words, 50, on(weights[:, :39]), on(bias)), "weights: expected shape"),
        ((words, 50, on(weights), on(bias).double()), "bias: expected torch.float32"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            half_step(launcher, *change, **options)
    if launcher.device.type == "cpu":
        with pytest.raises(ValueError, match="graph: expected"):
            a_chain(launcher, on)[0].run(1, graph=True)


def test_padded_weights_have_rows_of_16_bytes():
    weights = torch.randn(3, 13)
    padded = padded_weights(weights)
    assert torch.equal(padded[:, :13], weights.bfloat16())
    assert padded.shape == (3, 16)
    assert not padded[:, 13:].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture):
    kernels = machine_code("gibbs", architecture)
    for name, n_products, n_loads, n_registers in (
        ("gibbs_64", 16, 4, 128),  # of one word of inputs
        ("gibbs_transposed_64", 16, 4, 128),
        ("gibbs_128", 64, 8, 255),
        ("gibbs_transposed_128", 64, 8, 255),
    ):
        code = kernels[name]
        assert code.count("HMMA.16816.F32.BF16") == n_products
        assert code.count("LDSM.16.M88.4" if "trans" in name else "LDSM.16.MT88.4") == n_loads
        assert code.count("MUFU") == code.count("MUFU.EX2") == 16
        assert code.stack_bytes == 0
        assert code.count("CALL") == 0
        assert code.n_registers <= n_registers

"""Where activations lie, against the definition of living together."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from kernels import DType, Model, ModelFormatError, Op, OpCode, Tensor, output_shape
from kernels.arena import arena_bytes, check_arena, lifetimes, plan_arena
from kernels.layout import align


@pytest.fixture(scope="module")
def model(make_network: Callable[..., Model]) -> Model:
    return make_network()


def test_lifetimes_run_from_writer_to_last_reader(model: Model) -> None:
    outs = [op.out for op in model.ops]
    assert lifetimes(model) == {outs[0]: (0, 1), outs[1]: (1, 2), outs[2]: (2, 3)}


def test_tensors_that_live_together_do_not_overlap_and_others_share(model: Model) -> None:
    offsets = plan_arena(model)
    first, second, third = (model.tensors[op.out] for op in model.ops[:3])
    a, b, c = (offsets[op.out] for op in model.ops[:3])
    assert a + first.n_bytes <= b or b + second.n_bytes <= a
    assert b + second.n_bytes <= c or c + third.n_bytes <= b
    assert a == c == 0  # the first is dead when the third is written
    assert arena_bytes(model, offsets) == align(first.n_bytes) + align(second.n_bytes)


def _chain(lengths: list[int], reads: list[int]) -> Model:
    """Operation i widens what operation ``reads[i]`` wrote (-1: the input) to ``lengths[i]``."""
    tensors = [Tensor(DType.BITS, (1, 1, 32))]
    ops: list[Op] = []
    for length, read in zip(lengths, reads, strict=True):
        data = 0 if read < 0 else ops[read].out
        n_in = tensors[data].dims[2]
        at = len(tensors)
        tensors.append(Tensor(DType.BITS, (length, 1, 1, n_in), bytes(length * n_in // 8)))
        tensors.append(Tensor(DType.I32, (2, length), bytes(8 * length)))
        op = Op(OpCode.CONV_B1, data, at, at + 2, at + 1)
        tensors.append(Tensor(DType.BITS, output_shape(op, tensors)))
        ops.append(op)
    return Model(tuple(ops), tuple(tensors))


def test_a_tensor_read_late_keeps_its_place() -> None:
    model = _chain([512, 512, 512, 512], [-1, 0, 1, 0])  # the last one reads the first again
    offsets = plan_arena(model)
    outs = [op.out for op in model.ops[:3]]
    assert sorted(offsets[i] for i in outs) == [0, 64, 128]


def test_wrong_plans_are_refused(model: Model) -> None:
    offsets = plan_arena(model)
    n_bytes = arena_bytes(model, offsets)
    check_arena(model, offsets, n_bytes)
    for wrong in (n_bytes - 64, n_bytes + 64, 2**31, 2**63):
        with pytest.raises(ModelFormatError, match="arena_bytes"):
            check_arena(model, offsets, wrong)
    second = model.ops[1].out
    together = {**offsets, second: offsets[second] - 64}
    with pytest.raises(ModelFormatError, match="overlaps tensor"):
        check_arena(model, together, arena_bytes(model, together))
    odd = {**offsets, second: offsets[second] + 4}
    with pytest.raises(ModelFormatError, match="multiple of 64"):
        check_arena(model, odd, arena_bytes(model, odd))


@pytest.mark.parametrize("seed", range(30))
def test_any_plan_keeps_the_rules(seed: int) -> None:
    """The planner checks its own result; what it shares must then be shared rightly."""
    rng = np.random.default_rng(seed)
    lengths = (32 * rng.integers(1, 60, 12)).tolist()
    reads = [int(rng.integers(-1, i)) for i in range(12)]
    model = _chain(lengths, reads)
    offsets = plan_arena(model)
    lives = lifetimes(model)
    for i, j in itertools.combinations(offsets, 2):
        together = max(lives[i][0], lives[j][0]) <= min(lives[i][1], lives[j][1])
        spans = [set(range(offsets[k], offsets[k] + model.tensors[k].n_bytes)) for k in (i, j)]
        assert not (together and spans[0] & spans[1])

"""The formula for working memory, here and in C."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kernels import Model, ModelFormatError, OpCode, write_model
from kernels.arena import check_arena, working_bytes
from kernels.model import CONVOLUTIONS
from kernels.native import Library
from kernels.scratch import scratch_bytes

MakeModel = Callable[..., Model]


@pytest.mark.parametrize("code", CONVOLUTIONS)
def test_both_formulas_agree(make_model: MakeModel, library: Path, code: OpCode) -> None:
    rng = np.random.default_rng(code)
    reader = Library(library)
    for seed in range(40):
        groups = int(rng.choice([1, 1, 2, 5, 32]))
        model = make_model(
            code,
            (*rng.integers(5, 20, 2).tolist(), groups * int(rng.choice([1, 2, 7, 40]))),
            groups * int(rng.choice([1, 1, 3, 33, 70])),
            kernel=tuple(rng.integers(1, 4, 2).tolist()),
            pool=tuple(rng.choice([1, 1, 2, 3], 2).tolist()) if seed % 2 else (1, 1),
            groups=groups,
            zero_border=code in (OpCode.CONV_B1, OpCode.CONV_B1_I8) and bool(rng.integers(2)),
            threshold=bool(rng.integers(2)),
        )
        assert reader.open(write_model(model)).arena_bytes == working_bytes(model)


def test_operations_on_integers_need_no_working_memory(graphs) -> None:
    model = graphs.every_operation()
    for op in model.ops:
        assert (scratch_bytes(op, model.tensors) > 0) == (op.code in CONVOLUTIONS)


def test_models_that_need_too_much_memory_are_refused(make_model: MakeModel) -> None:
    model = make_model(OpCode.CONV_B1, (20_000, 20_000, 1), 1, kernel=(1, 1), pool=(20_000, 20_000))
    with pytest.raises(ModelFormatError, match="arena_bytes: expected at most 2147483647"):
        check_arena(model, {}, 0)

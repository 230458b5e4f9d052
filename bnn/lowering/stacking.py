"""Images put together from columns, which no operation of the format does by itself.

A window larger than its image paints: a pixel and a kernel of width n with n - 1 columns of zeros
around it give n columns, the taps of the kernel in reverse. So a kernel that is 1 at one tap puts
its image where it belongs, and a sum of images joins them: three operations per part.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from bnn.folding import Chain, fold_scale
from bnn.lowering.clips import clip_links
from bnn.lowering.program import Program
from kernels import DType, OpCode

ROWS: Final = 0
COLUMNS: Final = 1


def stack(program: Program, name: str, parts: Sequence[int], axis: int, n_phases: int = 1) -> int:
    """Put images of one row (column) below (beside) each other.

    Parameters
    ----------
    program, name
        Model under construction, and layer.
    parts
        Int32 tensors, (1, W, C * n_phases) or (H, 1, C * n_phases).
    axis
        ``ROWS`` or ``COLUMNS``.
    n_phases
        Rows (columns) that a part becomes: its channels c * n_phases + r are channel c of row r.

    Returns
    -------
    int
        Int32 tensor of ``len(parts) * n_phases`` rows (columns) and C channels.
    """
    extent = len(parts) * n_phases
    n_channels = program.dims(parts[0])[2] // n_phases
    low, high = (
        pick(program.intervals[part][end] for part in parts) for end, pick in ((0, min), (1, max))
    )
    total = None
    for number, part in enumerate(parts):
        taps = np.zeros((n_channels, extent, n_phases), np.int8)
        for phase in range(n_phases):
            taps[:, extent - 1 - (number * n_phases + phase), phase] = 1
        shape = (n_channels, extent, 1, n_phases) if axis == ROWS else (n_channels, 1, extent, -1)
        placed = program.append(
            name,
            OpCode.CONV_I32,
            part,
            weights=program.shared_constant(DType.I8, taps.reshape(shape)),
            padding=(extent - 1, 0) if axis == ROWS else (0, extent - 1),
            groups=n_channels,
        )
        total = (
            placed if total is None else program.append(name, OpCode.ADD, total, residual=placed)
        )
    assert total is not None
    # The bounds of a sum add up, though one summand only is not 0: a clip that clips nothing.
    return clipped(program, name, total, min(low, 0), max(high, 0))


def clipped(program: Program, name: str, tensor: int, low: int, high: int) -> int:
    """Integers within [low, high], which their bounds then say as well."""
    if program.intervals[tensor][0] >= low and program.intervals[tensor][1] <= high:
        return tensor
    links = clip_links(program.dims(tensor)[2], low, high)
    for chain in (links[:3], links[3:]):
        tensor = scaled(program, name, tensor, chain)
    return tensor


def scaled(
    program: Program, name: str, tensor: int, chain: Chain, *, unit: float = 1.0, point: int = 0
) -> int:
    """Append the SCALE of a chain with one knee at most; see :func:`~bnn.folding.fold_scale`."""
    n = program.dims(tensor)[2]
    low, high = (np.full(n, end) for end in program.intervals[tensor])
    scaling = fold_scale(chain, low, high, unit=unit, point=point)
    return program.append(
        name,
        OpCode.SCALE,
        tensor,
        multiplier=program.shared_constant(DType.I32, scaling.multiplier),
        bias=program.shared_constant(DType.I64, scaling.bias),
        shift=scaling.shift,
    )

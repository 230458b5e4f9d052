"""Values while a network is lowered: an integer source, its unit, and float modules not yet done.

The float tensor is ``chain(source * unit)``. The source is a tensor of the program, or a
convolution that is not yet an operation, because what follows decides what it becomes: max-pool
and sign are parts of it.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bnn.folding import (
    Affine,
    Chain,
    Floats,
    Integers,
    Link,
    PointTooFine,
    Scaling,
    affine,
    direction,
    fold_scale,
    fold_sign,
    is_monotone,
    n_knees,
    saturated,
    value_range,
)
from bnn.lowering.program import Program
from kernels import DType, OpCode
from kernels.model import INT32_MAX


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """A convolution with integer weights that is not yet appended."""

    name: str
    code: OpCode
    data: int
    """Number of the tensor that it reads."""
    weights: NDArray[np.int8]
    """Shape (C_out, KH, KW, C_in / groups), ±1 or int8."""
    data_interval: tuple[int, int]
    """Least and greatest value of the data."""
    dims: tuple[int, int, int]
    """(H', W', C_out) after the pool."""
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    zero_border: bool = False
    bias: Integers | None = None
    """int32, shape (C_out,)."""
    pool: tuple[int, int] = (1, 1)

    def bounds(self) -> tuple[Integers, Integers]:
        """Least and greatest accumulator per channel, each shape (C_out,)."""
        rows = self.weights.astype(np.int64).reshape(len(self.weights), -1)
        positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
        low, high = self.data_interval
        bias = 0 if self.bias is None else self.bias
        return low * positive + high * negative + bias, high * positive + low * negative + bias

    @property
    def spacing(self) -> int:
        """Distance of reachable accumulators: sums of ±1 that are never cut have one parity."""
        is_parity = self.code is OpCode.CONV_B1 and not self.zero_border
        return 2 if is_parity else 1

    def negated(self, which: NDArray[np.bool_]) -> "Convolution":
        """Change the sign of the accumulators of some channels."""
        signs = np.where(which, -1, 1)
        weights = (self.weights * signs[:, None, None, None]).astype(np.int8)
        bias = None if self.bias is None else self.bias * signs
        return replace(self, weights=weights, bias=bias)

    def append_to(self, program: Program, threshold: NDArray[np.int32] | None) -> int:
        """Make it an operation that writes bits, or int32 if there is no threshold."""
        is_bits = self.code is OpCode.CONV_B1
        fields: dict[str, object] = {
            "weights": program.constant(DType.BITS if is_bits else DType.I8, self.weights)
        }
        if threshold is not None:
            fields["threshold"] = program.constant(DType.I32, threshold)
        if self.bias is not None:
            fields["bias"] = program.constant(DType.I32, self.bias)
        return program.append(
            self.name,
            self.code,
            self.data,
            DType.I32 if threshold is None else DType.BITS,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            zero_border=self.zero_border,
            pool=self.pool,
            **fields,
        )


@dataclass(frozen=True)
class Label:
    """What a value is the output of."""

    name: str
    """Layer: the module's path, or the node's name."""
    node: str
    """Node of the traced network."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """What stands for one tensor of the float network."""

    label: Label
    """What made it."""
    source: int | Convolution
    unit: Floats
    """Value of one unit of the source, shape (C,)."""
    dims: tuple[int, int, int]
    """(H, W, C) of the source."""
    chain: Chain = field(default=())
    rank: int = 4
    """Axes of the float tensor: (N, C, H, W), (N, C, L) with H = 1, or (N, C H W)."""

    def linked(self, *links: Link) -> "Value":
        """Append element-wise modules."""
        return replace(self, chain=(*self.chain, *links))

    def labelled(self, label: Label) -> "Value":
        """The same value as the output of another layer."""
        return replace(self, label=label)

    @property
    def name(self) -> str:
        """Layer that made it."""
        return self.label.name


def is_bits(program: Program, value: Value) -> bool:
    """Whether a value is bits that mean ±1."""
    source = value.source
    return isinstance(source, int) and program.dtype(source) is DType.BITS and not value.chain


def tensor_value(program: Program, value: Value, tensor: int, unit: float) -> Value:
    """``value`` held by a tensor with one unit for all channels and nothing left to do."""
    dims = program.dims(tensor)
    units = np.full(dims[2], unit)
    program.stands_for(tensor, value.label.node, unit)
    return replace(value, source=tensor, unit=units, dims=dims, chain=())


def bounds(program: Program, value: Value) -> tuple[Integers, Integers, int]:
    """Least and greatest integer of the source per channel, and the distance of reachable ones."""
    if isinstance(value.source, Convolution):
        return *value.source.bounds(), value.source.spacing
    low, high = program.intervals[value.source]
    n = value.dims[2]
    spacing = 2 if program.dtype(value.source) is DType.BITS else 1
    return np.full(n, low), np.full(n, high), spacing


def saturating(program: Program, value: Value) -> Value:
    """``value`` as a stream holds it: no normalisation beyond its greatest deviation."""
    return replace(value, chain=saturated(value.chain, *_source_range(program, value)))


def float_range(program: Program, value: Value) -> float:
    """Greatest magnitude that a value can have in a stream."""
    value = saturating(program, value)
    least, greatest = value_range(value.chain, *_source_range(program, value))
    return float(max(np.abs(least).max(), np.abs(greatest).max()))


def _source_range(program: Program, value: Value) -> tuple[Floats, Floats]:
    """Least and greatest value before the chain, each shape (C,)."""
    low, high, _ = bounds(program, value)
    ends = np.stack([low * value.unit, high * value.unit])
    return ends.min(axis=0), ends.max(axis=0)


def as_tensor(program: Program, value: Value) -> tuple[Value, int]:
    """Make a waiting convolution an operation; unit and chain are as before."""
    if isinstance(value.source, int):
        return value, value.source
    _check_accumulators(value.source)
    tensor = value.source.append_to(program, None)
    return replace(value, source=tensor), tensor


def before_sign(program: Program, value: Value, point: int) -> Value:
    """What a threshold can be taken of: a chain that turns, or one over bits, becomes a stream."""
    of_bits = isinstance(value.source, int) and program.dtype(value.source) is DType.BITS
    if (of_bits and value.chain) or not is_monotone(value.chain):
        return as_stream(program, value, point)
    return value


def as_sign(program: Program, value: Value) -> Value:
    """Bits of the sign of a value: a threshold in its convolution, or an operation of its own.

    The value is as :func:`before_sign` leaves it, shifted if need be, and has the sign's name.
    """
    if is_bits(program, value):
        return value
    if isinstance(value.source, Convolution) and value.source.code is OpCode.CONV_I32:
        value, _ = as_tensor(program, value)  # it takes no threshold
    low, high, spacing = bounds(program, value)
    if isinstance(value.source, Convolution):
        _check_accumulators(value.source)
    try:
        level, flip = fold_sign(value.chain, low, high, unit=value.unit, spacing=spacing)
    except ValueError as error:
        raise ValueError(f"{value.name}: {error}") from error
    rows = np.stack([level, flip.astype(np.int32)])
    if isinstance(value.source, Convolution):
        bits = value.source.append_to(program, rows)
    else:
        bits = program.append(
            value.name,
            OpCode.THRESHOLD,
            value.source,
            DType.BITS,
            threshold=program.constant(DType.I32, rows),
        )
    return tensor_value(program, value, bits, 1.0)


def as_stream(program: Program, value: Value, point: int) -> Value:
    """Int32 tensor with ``point`` binary digits after the point."""
    value, tensor = as_tensor(program, saturating(program, value))
    while value.chain or not _is_stream(program, value, tensor, point):
        head, value = _split(value)
        low, high, _ = bounds(program, head)
        try:
            scaling = fold_scale(head.chain, low, high, unit=head.unit, point=point)
        except PointTooFine as error:
            raise PointTooFine(f"{head.name}: {error}") from error
        tensor = _append_scale(program, head.name, tensor, scaling)
        value = replace(value, source=tensor, unit=np.full(value.dims[2], 2.0**-point))
    return tensor_value(program, value, tensor, 2.0**-point)


def average(
    program: Program,
    value: Value,
    point: int,
    label: Label,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Value:
    """Mean of every window, a stream; what is outside counts as 0."""
    chain = saturating(program, value).chain
    is_affine = all(isinstance(link, Affine) for link in chain)
    if not is_affine or (chain and any(padding)):
        value = as_stream(program, value, point)
    value, tensor = as_tensor(program, value)
    low, high, _ = bounds(program, value)
    try:
        scaling = fold_scale(
            value.chain, low, high, unit=value.unit, point=point, window=window[0] * window[1]
        )
    except PointTooFine as error:
        raise PointTooFine(f"{label.name}: {error}") from error
    pooled = program.append(
        label.name,
        OpCode.AVERAGE_POOL,
        tensor,
        pool=window,
        stride=stride,
        padding=padding,
        multiplier=program.constant(DType.I32, scaling.multiplier),
        bias=program.constant(DType.I64, scaling.bias),
        shift=scaling.shift,
    )
    return tensor_value(program, value.labelled(label), pooled, 2.0**-point)


def maximum(
    program: Program,
    value: Value,
    point: int,
    label: Label,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Value:
    """Largest value of every window, taken before the chain wherever it is monotone."""
    if not is_monotone(value.chain) or _is_pixels(program, value):
        value = as_stream(program, value, point)
    value = _rising(program, value, point)
    source = value.source
    if isinstance(source, Convolution) and _joins_pool(source, window, stride, padding):
        height, width, n_channels = source.dims
        dims = height // window[0], width // window[1], n_channels
        pooled = replace(source, pool=window, dims=dims)
        return replace(value, source=pooled, dims=dims).labelled(label)
    value, tensor = as_tensor(program, value)
    out = program.append(
        label.name,
        OpCode.MAX_POOL,
        tensor,
        program.dtype(tensor),
        pool=window,
        stride=stride,
        padding=padding,
    )
    return replace(value, source=out, dims=program.dims(out)).labelled(label)


def _rising(program: Program, value: Value, point: int) -> Value:
    """``value`` with integers whose greatest is that of the chain, in every channel.

    Where the chain falls the weights change their sign. A pool that is a part of the convolution
    has taken the greatest already: then it is the integers that do, by a SCALE, which is exact.
    """
    falls = direction(value.chain, value.unit) < 0
    if not falls.any():
        return value
    unit = np.where(falls, -value.unit, value.unit)
    if isinstance(value.source, Convolution) and value.source.pool == (1, 1):
        return replace(value, source=value.source.negated(falls), unit=unit)
    value, tensor = as_tensor(program, value)
    if program.dtype(tensor) is not DType.I32 or _is_stream(program, value, tensor, point):
        return as_stream(program, value, point)
    low, high, _ = bounds(program, value)
    turn = affine(len(falls), gamma=np.where(falls, -1.0, 1.0))
    scaling = fold_scale((turn,), low, high, unit=1.0, point=0)
    tensor = _append_scale(program, value.name, tensor, scaling)
    return replace(value, source=tensor, unit=unit)


def _append_scale(program: Program, name: str, tensor: int, scaling: Scaling) -> int:
    """Append a SCALE of constants of its own; the tensor that it writes."""
    return program.append(
        name,
        OpCode.SCALE,
        tensor,
        multiplier=program.constant(DType.I32, scaling.multiplier),
        bias=program.constant(DType.I64, scaling.bias),
        shift=scaling.shift,
    )


def _is_pixels(program: Program, value: Value) -> bool:
    """Whether the source is pixels, of which no operation takes the largest."""
    return isinstance(value.source, int) and program.dtype(value.source) is DType.U8


def _joins_pool(
    source: Convolution, window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> bool:
    """Whether a max-pool can be a part of the convolution before it."""
    fits = source.code is not OpCode.CONV_I32 and source.pool == (1, 1)
    return fits and window == stride and not any(padding)


def _is_stream(program: Program, value: Value, tensor: int, point: int) -> bool:
    return program.dtype(tensor) is DType.I32 and bool((value.unit == 2.0**-point).all())


def _split(value: Value) -> tuple[Value, Value]:
    """Cut the chain before its second knee: one SCALE does what is before it."""
    n = 0
    while n < len(value.chain) and n_knees(value.chain[: n + 1]) <= 1:
        n += 1
    return replace(value, chain=value.chain[:n]), replace(value, chain=value.chain[n:])


def _check_accumulators(source: Convolution) -> None:
    """Refuse accumulators beyond int32: of streams at this point, of anything else for good."""
    low, high = source.bounds()
    greatest = max(int(np.abs(low).max()), int(np.abs(high).max()))
    if greatest >= INT32_MAX:
        error = PointTooFine if source.code is OpCode.CONV_I32 else ValueError
        raise error(
            f"{source.name}: expected accumulators that fit int32, got up to {greatest}; "
            "use a smaller input or fewer channels"
        )

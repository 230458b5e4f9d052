"""Random models that keep every rule of the format: for tests, and as seeds of the fuzzer.

A graph grows by named steps; a step that does not fit the activation made last is left out, so any
list of names gives a model.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from kernels import DType, Model, Op, OpCode, Tensor, output_shape, pack_bits
from kernels.model_bounds import OF_DTYPE, Interval, output_interval

CODES_OF_INPUT = {
    DType.U8: OpCode.CONV_U8,
    DType.I8: OpCode.CONV_I8,
    DType.BITS: OpCode.CONV_B1,
}


class Graph:
    """A model in the making; ``last`` is the activation that the next step reads."""

    def __init__(self, dtype: DType, image: tuple[int, int, int], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = [Tensor(dtype, image)]
        self.ops: list[Op] = []
        self.known: dict[int, Interval] = {0: OF_DTYPE[dtype]}
        self.last = 0
        self.streams: list[int] = []

    @property
    def dtype(self) -> DType:
        """Element type of ``last``."""
        return self.tensors[self.last].dtype

    @property
    def dims(self) -> tuple[int, int, int]:
        """Shape of ``last``."""
        height, width, channels = self.tensors[self.last].dims
        return height, width, channels

    def model(self, name: str = "random") -> Model:
        """The model, ended by an operation with int32 output."""
        if not self.ops or self.dtype is not DType.I32:
            self.scale()
        return Model(tuple(self.ops), tuple(self.tensors), {"name": name})

    def grow(self, steps: Iterable[str]) -> "Graph":
        """Apply the steps of :data:`STEPS` that fit."""
        for step in steps:
            STEPS[step](self)
        return self

    def constant(self, values: NDArray[np.generic], dtype: DType) -> int:
        """Append a constant; bits are given as booleans."""
        kind = {DType.I8: "i1", DType.I32: "<i4", DType.I64: "<i8", DType.U16: "<u2"}
        data = pack_bits(values) if dtype is DType.BITS else values.astype(kind[dtype])
        self.tensors.append(Tensor(dtype, values.shape, data.tobytes()))
        return len(self.tensors) - 1

    def append(self, code: OpCode, weights: int | None = None, **more: object) -> None:
        """Append an operation that reads ``last``, and its output."""
        op = Op(code, self.last, weights, len(self.tensors), **more)  # type: ignore[arg-type]
        dtype = DType.I32 if op.threshold is None else DType.BITS
        dtype = self.dtype if code in (OpCode.MAX_POOL, OpCode.SLICE) else dtype
        self.tensors.append(Tensor(dtype, output_shape(op, self.tensors)))
        self.known[op.out] = output_interval(op, self.tensors, self.known)
        self.ops.append(op)
        self.last = op.out
        if dtype is DType.I32:
            self.streams.append(op.out)

    def thresholds(self, interval: Interval, n: int) -> int:
        """Thresholds near the middle of an interval; always and never in the first channels."""
        low, high = interval
        middle = (low + high) // 2
        reach = (high - low) // 8 + 1
        levels = self.rng.integers(middle - reach, middle + reach + 1, n)
        ends = [max(low - 1, -(2**31)), min(high + 1, 2**31 - 1)]
        levels[: min(2, n - 1)] = ends[: min(2, n - 1)]
        return self.constant(np.stack([levels, self.rng.integers(0, 2, n)]), DType.I32)

    def threshold(self) -> None:
        """The sign of a stream."""
        if self.dtype is not DType.BITS:
            rows = self.thresholds(self.known[self.last], self.dims[2])
            self.append(OpCode.THRESHOLD, threshold=rows)

    def convolution(
        self, n_out: int | None = None, *, same: bool = False, to_bits: bool | None = None
    ) -> None:
        """A convolution with everything drawn; ``same`` keeps height and width."""
        if self.dtype is DType.I32:
            self.threshold()
        code = CODES_OF_INPUT[self.dtype]
        if code is OpCode.CONV_B1 and self.rng.random() < 0.3:
            code = OpCode.CONV_B1_I8
        height, width, channels = self.dims
        groups = int(self.rng.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        n_out = n_out or int(self.rng.choice([1, 2, 3, 16, 17, 33]))
        n_out = -(-n_out // groups) * groups
        kernel = [int(self.rng.integers(1, min(n, 3) + 1)) for n in (height, width)]
        padding = [int(self.rng.integers(0, k)) for k in kernel]
        if same:
            kernel = [3 if n > 1 else 1 for n in (height, width)]
            padding = [k // 2 for k in kernel]
        weights_of = (n_out, kernel[0], kernel[1], channels // groups)
        reach = int(np.prod(weights_of[1:]))
        if code is OpCode.CONV_B1:
            weights = self.constant(self.rng.random(weights_of) < 0.5, DType.BITS)
        else:
            weights = self.constant(self.rng.integers(-128, 128, weights_of), DType.I8)
            reach *= 128 * max(map(abs, self.known[self.last]))
        more: dict[str, object] = {"padding": tuple(padding), "groups": groups}
        if not same:
            room = [n + 2 * p - k + 1 for n, p, k in zip(self.dims, padding, kernel, strict=False)]
            stride = [int(self.rng.integers(1, min(n, 2) + 1)) for n in room]
            left = [-(-n // s) for n, s in zip(room, stride, strict=True)]
            pool = tuple(int(self.rng.integers(1, min(n, 2) + 1)) for n in left)
            more |= {"stride": tuple(stride), "pool": pool}
        if self.dtype is DType.BITS:
            more["zero_border"] = bool(self.rng.random() < 0.5)
        if self.rng.random() < 0.5:
            more["bias"] = self.constant(self.rng.integers(-9, 10, n_out), DType.I32)
        if self.rng.random() < 0.5 if to_bits is None else to_bits:
            more["threshold"] = self.thresholds((-reach, reach), n_out)
        self.append(code, weights, **more)

    def scale(self, code: OpCode = OpCode.SCALE, **more: object) -> None:
        """A scale whose results stay below 2^20, so that sums of many stay int32."""
        n = self.dims[2]
        window = more.get("pool", (1, 1))
        largest = max(map(abs, self.known[self.last])) * int(np.prod(window))  # type: ignore[arg-type]
        shift = int(self.rng.integers(1, 32))
        top = min((1 << 19 + shift) // max(largest, 1), 2**31 - 1)
        n_rows = int(self.rng.integers(1, 3))
        m = self.rng.integers(-top, top + 1, (2 * n_rows - 1, n))
        if n_rows == 2:
            m[2] = self.rng.integers(-min(largest, 2**30), min(largest, 2**30) + 1, n)
        b = self.rng.integers(-(1 << 18 + shift), 1 << 18 + shift, (n_rows, n))
        multiplier, bias = self.constant(m, DType.I32), self.constant(b, DType.I64)
        self.append(code, multiplier=multiplier, bias=bias, shift=shift, **more)

    def window(self) -> dict[str, object]:
        """A window that fits, with stride and padding."""
        sizes = self.dims[:2]
        pool = tuple(int(self.rng.integers(1, min(n, 3) + 1)) for n in sizes)
        stride = tuple(int(self.rng.integers(1, 3)) for _ in sizes)
        return {
            "pool": pool,
            "stride": stride,
            "padding": tuple(int(self.rng.integers(0, p)) for p in pool),
        }

    def max_pool(self) -> None:
        """Of bits or of a stream."""
        if self.dtype in (DType.I32, DType.BITS):
            self.append(OpCode.MAX_POOL, **self.window())

    def average_pool(self) -> None:
        """Of anything."""
        if max(map(abs, self.known[self.last])) < 2**27:  # nine of them are int32
            self.scale(OpCode.AVERAGE_POOL, **self.window())

    def add(self) -> None:
        """Add a stream of the same shape, perhaps the last one itself."""
        fits = [i for i in self.streams if self.tensors[i].dims == self.dims]
        if self.dtype is DType.I32 and fits:
            other = int(self.rng.choice(fits))
            ends = [self.known[self.last][i] + self.known[other][i] for i in (0, 1)]
            if max(map(abs, ends)) < 2**31:
                self.append(OpCode.ADD, residual=other)

    def block(self) -> None:
        """A residual block: x + scale(convolution(sign(x)))."""
        if self.dtype is not DType.I32 or max(map(abs, self.known[self.last])) > 1 << 30:
            self.scale()
        stream = self.last
        self.threshold()
        self.convolution(self.dims[2], same=True, to_bits=False)
        self.scale()
        if self.dims == self.tensors[stream].dims:
            self.append(OpCode.ADD, residual=stream)

    def lookup(self, n: int = 32) -> None:
        """A table of any function."""
        if self.dtype is DType.I32:
            table = self.constant(self.rng.integers(0, 1 << 16, n), DType.U16)
            self.append(OpCode.LOOKUP, table)

    def convolution_i32(self) -> None:
        """A convolution of a stream with everything drawn, whose sums stay below 2^30."""
        height, width, channels = self.dims
        groups = int(self.rng.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        n_out = groups * int(self.rng.choice([1, 1, 2, 17]))
        kernel = [int(self.rng.integers(1, min(n, 3) + 1)) for n in (height, width)]
        weights_of = (n_out, *kernel, channels // groups)
        largest = max(map(abs, self.known[self.last])) * int(np.prod(weights_of[1:]))
        top = min(127, (1 << 30) // max(largest, 1))
        if self.dtype is not DType.I32 or top == 0:
            return
        padding = tuple(int(self.rng.integers(0, k)) for k in kernel)
        stride = tuple(int(self.rng.integers(1, 3)) for _ in kernel)
        weights = self.constant(self.rng.integers(-top, top + 1, weights_of), DType.I8)
        more: dict[str, object] = {"padding": padding, "stride": stride, "groups": groups}
        if self.rng.random() < 0.5:
            more["bias"] = self.constant(self.rng.integers(-999, 999, n_out), DType.I32)
        self.append(OpCode.CONV_I32, weights, **more)

    def concat(self) -> None:
        """Join with a stream of the same height and width, perhaps the last one itself."""
        fits = [i for i in self.streams if self.tensors[i].dims[:2] == self.dims[:2]]
        if self.dtype is DType.I32 and fits:
            self.append(OpCode.CONCAT, residual=int(self.rng.choice(fits)))

    def slice(self) -> None:
        """A box of bits or of a stream."""
        if self.dtype not in (DType.I32, DType.BITS):
            return
        start = [int(self.rng.integers(0, n)) for n in self.dims]
        size = [
            int(self.rng.integers(1, n - at + 1)) for n, at in zip(self.dims, start, strict=True)
        ]
        if self.dtype is DType.BITS:
            start[2] -= start[2] % 32
            whole = int(self.rng.integers(1, 3)) * 32
            size[2] = min(whole, self.dims[2] - start[2])
        self.append(OpCode.SLICE, start=tuple(start), size=tuple(size))

    def multiply(self) -> None:
        """Multiply with a stream of the same shape, down to 20 bits."""
        fits = [i for i in self.streams if self.tensors[i].dims == self.dims]
        if self.dtype is not DType.I32 or not fits:
            return
        other = int(self.rng.choice(fits))
        ends = [x * y for x in self.known[self.last] for y in self.known[other]]
        shift = max(1, max(map(abs, ends)).bit_length() - 20)
        if shift <= 31:
            self.append(OpCode.MULTIPLY, residual=other, shift=shift)

    def dense(self) -> None:
        """A dense layer on a stream."""
        largest = max(map(abs, self.known[self.last]))
        if self.dtype is DType.I32 and largest * 8 * int(np.prod(self.dims)) < 2**31:
            n_out = int(self.rng.integers(1, 4))
            weights = self.constant(self.rng.integers(-8, 8, (n_out, *self.dims)), DType.I8)
            bias = self.constant(self.rng.integers(-999, 999, n_out), DType.I32)
            self.append(OpCode.CONV_I32, weights, bias=bias)


STEPS: dict[str, Callable[[Graph], None]] = {
    "add": Graph.add,
    "average_pool": Graph.average_pool,
    "block": Graph.block,
    "concat": Graph.concat,
    "convolution": Graph.convolution,
    "convolution_i32": Graph.convolution_i32,
    "dense": Graph.dense,
    "lookup": Graph.lookup,
    "max_pool": Graph.max_pool,
    "multiply": Graph.multiply,
    "scale": Graph.scale,
    "slice": Graph.slice,
    "threshold": Graph.threshold,
}
OF_1_1 = ("block", "add", "block", "max_pool", "average_pool", "lookup")
OF_1_2 = ("slice", "scale", "convolution_i32", "scale", "multiply", "concat", "scale")


def every_operation(
    dtype: DType = DType.U8, channels: int = 2, seed: int = 0, *, minor: int = 2
) -> Model:
    """All operations of a minor version in one small model: four kilobytes with two channels."""
    graph = Graph(dtype, (5, 4, channels), seed)
    graph.convolution(3, same=True, to_bits=True)
    bits = graph.last
    graph.max_pool()
    graph.grow([*OF_1_1, *(OF_1_2 if minor > 1 else ()), "dense"])
    assert bits in {op.data for op in graph.ops}
    return graph.model(f"every operation on {dtype.name}")

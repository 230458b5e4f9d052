"""The C runtime against the numpy reference, and its reader against the Python reader."""

import re
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import (
    BackendUnavailable,
    DType,
    Model,
    ModelFormatError,
    Op,
    OpCode,
    Runtime,
    Tensor,
    read_model,
    run_model,
    unpack_bits,
    write_model,
)
from kernels.arena import lifetimes, plan_arena
from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.crc32c import crc32c
from kernels.model import CONVOLUTIONS
from kernels.native import Library, encode_images
from kernels.panels import Layout

CHANNELS = (1, 3, 31, 32, 33, 63, 64, 65)
N_TABLES = 64 + 2 * 64 + 7 * 48  # bytes of header, operations and tensors of tiny_model
MakeModel = Callable[..., Model]
MakeImages = Callable[..., NDArray[np.uint8]]


@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("code", CONVOLUTIONS)
def test_ragged_channels(
    make_model: MakeModel,
    make_images: MakeImages,
    library: Path,
    code: OpCode,
    channels: int,
    threshold: bool,
) -> None:
    model = make_model(
        code,
        (5, 6, channels),
        CHANNELS[-1 - CHANNELS.index(channels)],
        kernel=(3, 3),
        padding=(1, 1),
        pool=(2, 2),
        threshold=threshold,
        bias=True,
    )
    images = make_images(model, 2)
    assert np.array_equal(Runtime(write_model(model), library)(images), run_model(model, images))


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_geometry(
    make_model: MakeModel,
    make_images: MakeImages,
    library: Path,
    own_panels: Layout,
    data: st.DataObject,
) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pool = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    smallest = [max(1, (pool[i] - 1) * stride[i] + kernel[i] - 2 * padding[i]) for i in range(2)]
    image = tuple(n + data.draw(st.integers(0, 4)) for n in smallest)
    code = data.draw(st.sampled_from(CONVOLUTIONS))
    groups = data.draw(st.sampled_from([1, 1, 1, 2, 3, 32, 33]))
    of_bits = code in (OpCode.CONV_B1, OpCode.CONV_B1_I8)
    model = make_model(
        code,
        (*image, groups * data.draw(st.sampled_from(CHANNELS if groups == 1 else [1, 2, 33]))),
        groups * data.draw(st.sampled_from(CHANNELS if groups == 1 else [1, 2, 16])),
        kernel=kernel,
        padding=padding,
        stride=stride,
        pool=pool,
        threshold=data.draw(st.booleans()),
        bias=data.draw(st.booleans()),
        groups=groups,
        zero_border=of_bits and data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 99)),
    )
    images = make_images(model, 2)
    expected = run_model(model, images)
    file = write_model(model, data.draw(st.sampled_from([Layout.ROWS, own_panels])))
    for name in available_backends()[:-1]:
        with use_backend(name):
            assert np.array_equal(Runtime(file, library)(images), expected), name


@pytest.mark.parametrize("channels", [1, 127, 3969, 5000])
def test_long_rows_do_not_overflow_a_byte_lane(
    make_model: MakeModel, make_images: MakeImages, library: Path, channels: int
) -> None:
    model = make_model(OpCode.CONV_B1, (1, 1, channels), 3, kernel=(1, 1))
    images = make_images(model, 4)
    images[1] = 1 - images[1]
    assert np.array_equal(Runtime(write_model(model), library)(images), run_model(model, images))


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_network(
    make_network: MakeModel, make_images: MakeImages, library: Path, seed: int
) -> None:
    model = make_network(seed=seed)
    images = make_images(model, 17, seed=seed)
    runtime = Runtime(write_model(model), library)
    assert runtime.n_out == 10
    assert runtime.metadata["name"] == "small"
    assert np.array_equal(runtime(images), run_model(model, images))
    assert runtime(images[:0]).shape == (0, 10)


def test_extreme_accumulators_are_exact(
    make_model: MakeModel, make_images: MakeImages, library: Path
) -> None:
    """K = 65793 is the longest uint8 row whose accumulator cannot leave int32."""
    n_in = (2**31 - 1) // (255 * 128)
    model = make_model(image=(1, 1, n_in), n_out=1, kernel=(1, 1))
    weights = replace(model.tensors[1], data=b"\x80" * n_in)
    model = replace(model, tensors=(model.tensors[0], weights, model.tensors[2]))
    images = np.full((1, 1, 1, n_in), 255, np.uint8)
    assert Runtime(write_model(model), library)(images)[0, 0] == -255 * 128 * n_in
    with pytest.raises(ModelFormatError, match="acc: expected a bound"):
        write_model(make_model(image=(1, 1, n_in + 1), n_out=1, kernel=(1, 1)))


@pytest.mark.parametrize("name", available_backends())
def test_every_back_end_gives_the_same_integers(
    make_network: MakeModel, make_images: MakeImages, library: Path, name: str
) -> None:
    model = make_network()
    images = make_images(model, 5)
    with use_backend(name):
        runtime = Runtime(write_model(model), library)
    assert np.array_equal(runtime(images), run_model(model, images))


def test_a_back_end_that_is_not_there_is_named(
    tiny_model: Model, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = next(b for b in BACKENDS if b not in available_backends())
    monkeypatch.setenv("BITSPIN_BACKEND", absent)
    with pytest.raises(BackendUnavailable, match=f"backend {absent}: needs "):
        Runtime(write_model(tiny_model), library)
    monkeypatch.setenv("BITSPIN_BACKEND", "abacus")
    with pytest.raises(ValueError, match="backend: expected one of avx512, "):
        Runtime(write_model(tiny_model), library)


def test_the_forced_back_end_is_the_one_that_runs(tiny_model: Model, library: Path) -> None:
    for name in available_backends()[:-1]:
        opened = Library(library).open(write_model(tiny_model), BACKENDS[name])
        assert opened._handle.view(np.uint32)[8] == BACKENDS[name].code  # bs_model.backend


@pytest.mark.parametrize("n_out", [1, 31, 33, 65])
def test_padding_bits_of_activations_are_zero(
    make_model: MakeModel, make_images: MakeImages, library: Path, n_out: int
) -> None:
    model = make_model(image=(4, 4, 3), n_out=n_out, threshold=True)
    file = write_model(model)
    opened = Library(library).open(file)
    out = model.ops[0].out
    start = plan_arena(model)[out]
    arena = np.full(opened.arena_bytes // 8, -1, np.int64)  # what was there before is no matter
    output = np.empty(opened.output_count, np.int32)
    inputs = encode_images(model.tensors[0], make_images(model, 1))
    opened.run_at(arena.ctypes.data, inputs.ctypes.data, output.ctypes.data)
    words = arena.view(np.uint8)[start : start + model.tensors[out].n_bytes].view(np.uint32)
    n_words = -(-n_out // 32)
    beyond = unpack_bits(words.reshape(-1, n_words), 32 * n_words)[:, n_out:]
    assert not beyond.any()
    bits = unpack_bits(words.reshape(-1, n_words), n_out)
    assert np.array_equal(2 * bits.astype(int) - 1, output.reshape(-1, n_out))


def test_threads_share_a_runtime(
    make_network: MakeModel, make_images: MakeImages, library: Path
) -> None:
    model = make_network()
    runtime = Runtime(write_model(model), library)
    batches = [make_images(model, 200, seed=seed) for seed in (0, 1)]
    expected = [runtime(images) for images in batches]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(10):
            if not np.array_equal(runtime(batches[which]), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_runtime_reads_a_path(
    tiny_model: Model, make_images: MakeImages, library: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.bspn"
    path.write_bytes(write_model(tiny_model))
    images = make_images(tiny_model)
    assert np.array_equal(Runtime(path)(images), run_model(tiny_model, images))


def test_wrong_images_are_refused(tiny_model: Model, make_model: MakeModel, library: Path) -> None:
    runtime = Runtime(write_model(tiny_model), library)
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 3, 3, 1\), got \(2, 3, 3\)"):
        runtime(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(TypeError, match="images: expected dtype uint8, got float32"):
        runtime(np.zeros((2, 3, 3, 1), np.float32))  # type: ignore[arg-type]
    packed = Runtime(write_model(make_model(OpCode.CONV_B1)), library)
    with pytest.raises(ValueError, match="images: expected bits 0 and 1, got 2"):
        packed(np.full((1, 5, 4, 3), 2, np.uint8))


def test_c_reader_refuses_truncation_at_every_length(tiny_model: Model, library: Path) -> None:
    file, reader = write_model(tiny_model), Library(library)
    for length in range(len(file)):
        with pytest.raises(ModelFormatError, match="refused by the C runtime: "):
            reader.open(file[:length])
    with pytest.raises(ModelFormatError, match="shorter or longer"):
        reader.open(file + bytes(8))


def test_c_reader_notices_every_damaged_byte(
    tiny_model: Model, make_images: MakeImages, library: Path
) -> None:
    """Only the metadata, which the runtime never reads, may change without an error."""
    file, reader = write_model(tiny_model), Library(library)
    meta_off = struct.unpack_from("<Q", file, 40)[0]
    inputs = encode_images(tiny_model.tensors[0], make_images(tiny_model))
    expected = reader.open(file).run(inputs)
    for i in range(len(file)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            damaged = bytearray(file)
            damaged[i] ^= flip
            if i >= meta_off:
                assert np.array_equal(reader.open(bytes(damaged)).run(inputs), expected)
                continue
            with pytest.raises(ModelFormatError, match="refused by the C runtime: "):
                reader.open(bytes(damaged))


def _verdict(read: Callable[[bytes], object], file: bytes) -> str:
    try:
        read(file)
    except ModelFormatError as error:
        return str(error)
    return "accepted"


def _with_digest(file: bytes, message: str) -> bytes:
    """The file with the digest that the Python reader asks for."""
    expected, got = re.findall("'([0-9a-f]{64})'", message)
    return file.replace(got.encode(), expected.encode())


def _forgeries(file: bytes) -> list[bytes]:
    """Every byte of header and tables changed in five ways, with a checksum that fits."""
    forged = []
    for i in range(N_TABLES):
        for flip in (1, 2, 8, 128, 0xFF):
            changed = bytearray(file)
            changed[i] ^= flip
            zeroed = changed[:52] + bytes(4) + changed[56:N_TABLES]
            struct.pack_into("<I", changed, 52, crc32c(zeroed))
            forged.append(bytes(changed))
    return forged


def test_both_readers_agree_on_forged_files(
    tiny_model: Model, make_images: MakeImages, library: Path
) -> None:
    """What both accept runs as the reference says, inside the arena it asked for."""
    reader = Library(library)
    n_accepted = 0
    for forged in _forgeries(write_model(tiny_model)):
        file = forged
        verdict = _verdict(read_model, file)
        if verdict.startswith("logical_digest"):
            file = _with_digest(file, verdict)
            verdict = _verdict(read_model, file)
        assert (_verdict(reader.open, file) == "accepted") == (verdict == "accepted"), verdict
        if verdict != "accepted":
            continue
        n_accepted += 1
        model = read_model(file)
        images = make_images(model)
        inputs = encode_images(model.tensors[0], images)
        assert np.array_equal(reader.open(file).run(inputs), run_model(model, images))
    assert n_accepted > 10  # some forgeries are other, legal models


def test_forged_constants_are_refused_by_meaning(make_model: MakeModel, library: Path) -> None:
    """Padding bits, flips and thresholds are looked at, not only their checksum."""
    model = make_model(OpCode.CONV_B1, (3, 3, 31), 1, threshold=True)
    reader = Library(library)

    def forge(number: int, data: bytes) -> bytes:
        file = bytearray(write_model(model))
        n_tables = 64 + 64 * len(model.ops) + 48 * len(model.tensors)
        row = 64 + 64 * len(model.ops) + 48 * number
        start = struct.unpack_from("<Q", file, row + 24)[0]
        file[start : start + len(data)] = data
        struct.pack_into("<I", file, row + 40, crc32c(data))
        struct.pack_into("<I", file, 52, crc32c(file[:52] + bytes(4) + file[56:n_tables]))
        return bytes(file)

    weights, threshold = (bytearray(model.tensors[i].data or b"") for i in (1, 2))
    reader.open(forge(1, bytes(weights)))
    weights[-1] |= 0x80
    with pytest.raises(ModelFormatError, match="a padding bit is not zero"):
        reader.open(forge(1, bytes(weights)))
    for value, flip in ((0, 2), (0, -1), (3 * 2 * 31 + 2, 0), (-3 * 2 * 31 - 2, 0)):
        struct.pack_into("<2i", threshold, 0, value, flip)
        with pytest.raises(ModelFormatError, match="a threshold is out of reach"):
            reader.open(forge(2, bytes(threshold)))


def _swap(model: Model, changes: dict[int, Tensor], **more: object) -> Model:
    tensors = tuple(changes.get(i, tensor) for i, tensor in enumerate(model.tensors))
    return replace(model, tensors=tensors, **more)  # type: ignore[arg-type]


def _ints(*rows: list[int]) -> Tensor:
    values = np.array(rows if len(rows) > 1 else rows[0], "<i4")
    return Tensor(DType.I32, values.shape, values.tobytes())


def _op(model: Model, **changes: object) -> tuple[Op, ...]:
    return (replace(model.ops[0], **changes), *model.ops[1:])  # type: ignore[arg-type]


def _bits(*dims: int) -> Tensor:
    return Tensor(DType.BITS, dims)


# tiny_model: 0 input, 1 weights, 2 threshold, 3 bias, 4 bits (2, 2, 2), 5 identity, 6 output
ORDER = "read before it is written, written twice or unused"
OPERAND = "an operand is missing, superfluous or of the wrong type"
SHAPE = "the shapes of an operation do not belong together"
UNLAWFUL: list[tuple[Callable[[Model], Model], str]] = [
    (lambda m: replace(m, ops=(m.ops[1], m.ops[0])), ORDER),
    (lambda m: replace(m, ops=(m.ops[0], m.ops[0], m.ops[1])), ORDER),
    (lambda m: replace(m, tensors=(*m.tensors, m.tensors[1])), ORDER),
    (lambda m: replace(m, tensors=(*m.tensors, _bits(1))), ORDER),
    (lambda m: replace(m, ops=_op(m, out=5)), ORDER),
    (lambda m: replace(m, ops=_op(m, bias=4)), OPERAND),
    (lambda m: replace(m, ops=_op(m, code=OpCode.CONV_B1)), OPERAND),
    (lambda m: replace(m, ops=(m.ops[0],), tensors=m.tensors[:5]), OPERAND),
    (lambda m: _swap(m, {3: _ints([0, 0, 0])}), OPERAND),
    (lambda m: _swap(m, {3: Tensor(DType.I8, (2,), bytes(2))}), OPERAND),
    (lambda m: _swap(m, {2: _ints([0, 0, 0], [0, 0, 0])}), OPERAND),
    (lambda m: _swap(m, {2: _ints([0, 0])}), OPERAND),
    (lambda m: _swap(m, {4: Tensor(DType.I32, (2, 2, 2))}), OPERAND),
    (lambda m: _swap(m, {0: Tensor(DType.U8, (3, 3, 2))}), SHAPE),
    (lambda m: _swap(m, {0: Tensor(DType.U8, (1, 3, 1))}), SHAPE),
    (lambda m: _swap(m, {0: Tensor(DType.U8, (9, 1))}), SHAPE),
    (lambda m: _swap(m, {4: _bits(2, 2, 3)}), SHAPE),
    (lambda m: _swap(m, {4: _bits(2, 1, 2)}), SHAPE),
    (
        lambda m: _swap(
            m,
            {4: _bits(6, 6, 2), 6: Tensor(DType.I32, (6, 6, 2))},
            ops=_op(m, padding=(2, 2)),
        ),
        SHAPE,
    ),
    (  # bits without a threshold
        lambda m: _swap(
            m,
            {2: _ints([0, 0])},
            ops=(replace(m.ops[0], threshold=None, bias=2), replace(m.ops[1], bias=3)),
        ),
        OPERAND,
    ),
    (  # rows of the padded image beyond int32
        lambda m: _swap(
            m,
            {0: Tensor(DType.U8, (2**31 - 1, 1, 1))},
            ops=_op(m, stride=(2**30, 1), padding=(1, 1)),
        ),
        SHAPE,
    ),
    (lambda m: _swap(m, {3: _ints([2**31 - 1, 0])}), "an accumulator could leave int32"),
    (lambda m: _swap(m, {3: _ints([0, -(2**31)])}), "an accumulator could leave int32"),
]


@pytest.mark.parametrize(("breaks", "match"), UNLAWFUL)
def test_c_reader_refuses_models_that_the_writer_would_not_write(
    tiny_model: Model,
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[Model], Model],
    match: str,
) -> None:
    unknown = defaultdict(lambda: (0, 0))
    monkeypatch.setattr("kernels.model_format.check_model", lambda model: unknown)
    monkeypatch.setattr("kernels.arena.check_arena", lambda *arguments: None)
    reader = Library(library)
    with pytest.raises(ModelFormatError, match="the declared interval"):
        reader.open(write_model(tiny_model))
    with pytest.raises(ModelFormatError, match=match):
        reader.open(write_model(breaks(tiny_model)))


def test_c_reader_refuses_activations_that_overlap(
    make_network: MakeModel, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_network()
    everywhere_zero = dict.fromkeys(plan_arena(model), 0)
    monkeypatch.setattr("kernels.model_format.plan_arena", lambda model: everywhere_zero)
    file = write_model(model)
    with pytest.raises(ModelFormatError, match="tensors that live together overlap"):
        Library(library).open(file)
    with pytest.raises(ModelFormatError, match="overlaps tensor"):
        read_model(file)


def test_a_residual_that_is_overwritten_is_refused(
    graphs: ModuleType, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of a residual block lives until it is added."""
    graph = graphs.Graph(DType.I32, (2, 2, 40), 0)
    graph.scale()
    stream = graph.last
    graph.threshold()
    graph.convolution(40, same=True, to_bits=False)
    graph.scale()
    graph.append(OpCode.ADD, residual=stream)
    model = graph.model()
    branch = model.ops[-2].out
    assert lifetimes(model)[stream] == (0, 4)
    offsets = {**plan_arena(model), branch: plan_arena(model)[stream]}
    monkeypatch.setattr("kernels.model_format.plan_arena", lambda model: offsets)
    file = write_model(model)
    with pytest.raises(ModelFormatError, match="tensors that live together overlap"):
        Library(library).open(file)
    with pytest.raises(ModelFormatError, match="overlaps tensor"):
        read_model(file)


def test_huge_claims_allocate_nothing(tiny_model: Model, library: Path) -> None:
    """A file of 1 kB that claims a 2 GiB input is legal; opening it costs nothing."""
    op, last = tiny_model.ops
    image, out = (46_340, 46_340, 1), (1, 1, 2)
    huge = replace(
        tiny_model,
        ops=(replace(op, stride=(2**31 - 1, 2**31 - 1)), last),
        tensors=(
            replace(tiny_model.tensors[0], dims=image),
            *tiny_model.tensors[1:4],
            replace(tiny_model.tensors[4], dims=out),
            tiny_model.tensors[5],
            replace(tiny_model.tensors[6], dims=out),
        ),
    )
    runtime = Runtime(write_model(huge), library)
    assert runtime.input.n_bytes == 46_340**2
    assert runtime.input.dtype is DType.U8

"""The page of a model file: counted by hand for a small network."""

import json
import sys
from pathlib import Path

import pytest

import bnn
from flows.cli import main
from flows.model_page import model_page
from kernels import DType, Model, Op, OpCode, Tensor, read_model, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = bnn.BinaryConvNet((8, 6, 1), 3, widths=(32, 40), seed=2)
    bnn.export(net, tmp_path / "small.bspn", {"labels": ["a", "[b]", "c"], "run_key": "12ab"})
    return tmp_path / "small.bspn"


def test_multiplications_bytes_and_shapes_are_those_of_the_layers(model: Path) -> None:
    page = model_page(model)
    data = model.read_bytes()
    parsed = read_model(data)
    assert page.file_bytes == len(data)
    assert page.logical_digest == parsed.metadata["logical_digest"]
    assert (page.labels, page.run_key) == (("a", "[b]", "c"), "12ab")
    first, second, last = page.ops[0], page.ops[1], page.ops[-1]
    # 3 x 3 kernels over 8 x 6 places; the second sees 32 channels in one word per tap.
    assert (first.op, first.macs, first.precision) == ("conv_u8", 8 * 6 * 32 * 9, "8 x 8 bit")
    height, width, _ = second.input
    assert (second.op, second.precision) == ("conv_b1", "1 x 1 bit")
    assert second.macs == height * width * 40 * 9 * 32
    assert second.bytes == 40 * 9 * 4 + 2 * 40 * 4
    assert first.output == second.input
    assert last.output == (1, 1, 3)
    assert sum(page.macs.values()) == sum(line.macs for line in page.ops)
    assert page.macs["1 x 1 bit"] == sum(x.macs for x in page.ops if x.precision == "1 x 1 bit")
    activation = parsed.tensors[parsed.ops[0].out].n_bytes
    assert activation <= page.arena_bytes <= 1 << 16


def test_operations_on_integers_are_counted(tmp_path: Path) -> None:
    """A slice, a grouped convolution of it with stride 2, and a square."""
    stream, half, sums = (Tensor(DType.I32, dims) for dims in ((5, 4, 6), (5, 4, 4), (3, 2, 8)))
    tables = [
        Tensor(DType.U16, (2,), bytes(4)),
        Tensor(DType.I8, (8, 3, 3, 2), bytes(144)),
    ]
    ops = (
        Op(OpCode.LOOKUP, 0, 1, 3),
        Op(OpCode.SLICE, 3, None, 4, start=(0, 0, 2), size=(5, 4, 4)),
        Op(OpCode.CONV_I32, 4, 2, 5, stride=(2, 2), padding=(1, 1), groups=2),
        Op(OpCode.MULTIPLY, 5, None, 6, residual=5, shift=4),
    )
    path = tmp_path / "integers.bspn"
    path.write_bytes(write_model(Model(ops, (stream, *tables, stream, half, sums, sums))))
    _, cut, convolution, square = model_page(path).ops
    assert (cut.op, cut.detail, cut.macs) == ("slice", "from 0, 0, 2", 0)
    assert convolution.detail == "3x3, stride 2, padding 1, groups 2"
    assert (convolution.macs, convolution.precision) == (3 * 2 * 8 * 9 * 2, "32 x 8 bit")
    assert (square.op, square.macs, square.precision) == ("multiply", 3 * 2 * 8, "32 x 32 bit")


def test_show_prints_the_page_and_json(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def show(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitspin", "show", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    code, out, _ = show(str(model))
    assert code == 0
    for word in ("conv_u8", "1 x 1 bit", "3: a, [b], c", model_page(model).logical_digest):
        assert word in out
    code, out, _ = show(str(model), "--json")
    record = json.loads(out)
    assert (code, record["file_bytes"]) == (0, model.stat().st_size)
    assert record["ops"][0]["op"] == "conv_u8"
    code, _, err = show("nothing.bspn")
    assert code == 2
    assert err == "bitspin: nothing.bspn: expected a model file, got nothing; check the path\n"
    model.write_bytes(b"not a model")
    code, _, err = show(str(model))
    assert code == 2
    assert err.count("\n") == 1

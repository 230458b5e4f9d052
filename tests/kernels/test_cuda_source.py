"""Texts and declarations of the CUDA sources."""

import re

import pytest

from kernels import cuda_source as module
from kernels.cuda_source import (
    INTEGER_RANGES,
    SOURCES,
    Parameter,
    cuda_source,
    source_names,
    source_of_text,
)


def test_every_source_is_one_text():
    assert source_names() == tuple(sorted(path.stem for path in SOURCES.glob("*.cu")))
    for name in source_names():
        source = cuda_source(name)
        assert source.name == name
        assert source.text.count("typedef unsigned int u32;") == 1
        assert "#pragma once" not in source.text
        included = re.findall(r'^#include "(.*)"', source.text, re.MULTILINE)
        assert not [header for header in included if (SOURCES / header).is_file()]
        for kernel in source.kernels.values():
            assert 32 <= kernel.n_threads <= 1024
            assert kernel.n_blocks >= 1
            assert kernel.parameters


def test_no_two_kernels_have_one_name():
    names = [kernel for name in source_names() for kernel in cuda_source(name).kernels]
    assert len(names) == len(set(names))


def test_a_declaration_is_read():
    source = source_of_text(
        "some", "KERNEL(128, 3) first(const u32 *x, i64 n,\n    float *__restrict__ y)\n{\n}\n"
    )
    kernel = source.kernel("first")
    assert (kernel.n_threads, kernel.n_blocks) == (128, 3)
    assert kernel.parameters == (
        Parameter("x", "u32", True),
        Parameter("n", "i64", False),
        Parameter("y", "float", True),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KERNEL(N, 1) wrong(u32 *y) {}\n", "a kernel is not declared as KERNEL"),
        ("KERNEL(256) wrong(u32 *y) {}\n", "a kernel is not declared as KERNEL"),
        ("  KERNEL(32, 1) wrong(u32 *y) {}\n", "a kernel is not declared as KERNEL"),
        ("KERNEL(32, 1) wrong(int y) {}\n", "wrong: expected a parameter of i8, .* got 'int y'"),
        ("KERNEL(32, 1) wrong(u32 &y) {}\n", "wrong: expected a parameter of .* got 'u32 &y'"),
        ("KERNEL(32, 1) same() {}\n" * 2, "same is declared twice"),
    ],
)
def test_other_declarations_are_one_line(text, expected):
    with pytest.raises(ValueError, match=f"^some.cu: {expected}") as error:
        source_of_text("some", text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nothing", "../cuda/pack", ""])
def test_an_unknown_source(name):
    with pytest.raises(
        ValueError, match=rf"name: expected one of .*pack.*, got '{re.escape(name)}'"
    ):
        cuda_source(name)


def test_an_unknown_kernel():
    with pytest.raises(ValueError, match=r"pack\.cu: expected one of .*, got 'nothing'"):
        cuda_source("pack").kernel("nothing")


def test_headers_are_included_once(monkeypatch, tmp_path):
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\nint a;\n')
    (tmp_path / "b.cuh").write_text("#pragma once\nint b;\n")
    monkeypatch.setattr(module, "SOURCES", tmp_path)
    text = source_of_text("some", '#include "b.cuh"\n#include "a.cuh"\n#include "shim.h"\n').text
    assert text == 'int b;\nint a;\n#include "shim.h"\n'


def test_ranges_are_those_of_the_types():
    assert INTEGER_RANGES["i8"] == (-128, 127)
    assert INTEGER_RANGES["u16"] == (0, 65535)
    assert INTEGER_RANGES["i64"] == (-(2**63), 2**63 - 1)

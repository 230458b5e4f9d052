"""Reading machine code; what is missing is one line."""

from pathlib import Path

import pytest

from kernels import cuda_compile as module
from kernels.cuda_compile import MachineCode, compile_cubin, cubin_path, machine_code
from kernels.cuda_source import source_of_text
from kernels.errors import BackendUnavailable

TEXT = """
#include "device.cuh"
KERNEL(64, 2) plain(const u32 *x, u32 *y) { y[threadIdx.x] = __popc(x[threadIdx.x]); }
KERNEL(32, 1) local(const u32 *x, u32 *y)
{
    u32 values[64];
    for (i32 i = 0; i < 64; i++) values[i] = x[i];
    for (i32 i = 0; i < 64; i++) values[x[i] % 64] += i;
    for (i32 i = 0; i < 64; i++) y[i] = values[i];
}
KERNEL(32, 1) calls(u64 *x) { x[0] = x[threadIdx.x] / x[1]; }
"""


@pytest.fixture
def nvrtc():
    try:
        module.nvrtc_version()
        module._program("nvidia-cuda-nvdisasm", "nvdisasm")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


def planted(name):
    return source_of_text(name, TEXT)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, of the process too, and a source that is in no file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "cuda_source", planted)
    machine_code.cache_clear()
    yield
    machine_code.cache_clear()


@pytest.mark.usefixtures("nvrtc", "fresh")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_machine_code_is_read(architecture):
    code = machine_code("planted", architecture)
    assert list(code) == ["plain", "local", "calls"]
    plain = code["plain"]
    assert plain.count("POPC") == 1
    assert plain.count("STG") == 1
    assert 0 < plain.n_registers <= 32
    assert plain.stack_bytes == 0
    assert plain.count("CALL") == 0
    assert code["local"].stack_bytes >= 256
    assert code["calls"].count("CALL") == 1


@pytest.mark.usefixtures("nvrtc", "fresh")
def test_nothing_is_compiled_or_disassembled_twice(monkeypatch):
    code = machine_code("planted", "sm_80")
    assert machine_code("planted", "sm_80") is code
    machine_code.cache_clear()
    monkeypatch.setattr(module, "compile_cubin", None)
    monkeypatch.setattr(module, "_run", None)
    assert machine_code("planted", "sm_80") == code
    path = cubin_path("planted", "sm_80")
    assert path.read_bytes()[:4] == b"\x7fELF"


def test_instructions_are_counted_by_their_beginning():
    code = MachineCode(8, 0, {"IMAD.MOV": 2, "IMAD": 3, "IADD3": 1})
    assert code.count("IMAD") == 5
    assert code.count("BMMA") == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "        /*0010*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;",
            "IMAD.MOV.U32",
        ),
        ("        /*1f0*/", None),
        ("        /*00a0*/              @!P0 EXIT ;", "EXIT"),
        ("        /*00a0*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ ;", "UIADD3"),
        ("        /*2af0*/               @P0 CALL.REL.NOINC `(.L_x_1) ;", "BRA"),
        (
            "        /*1000*/                   CALL.REL.NOINC `($__internal_0_$__div) ;",
            "CALL.REL.NOINC",
        ),
        (
            "        /*1000*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4] ;",
            "HGMMA.64x128x16.F32.BF16",
        ),
    ],
)
def test_a_line_of_the_listing(line, expected):
    found = module._INSTRUCTION.findall(module._LOCAL_CALL.sub("BRA `(.L_", line))
    assert found == ([expected] if expected else [])


@pytest.mark.usefixtures("nvrtc")
def test_what_does_not_compile_is_one_line():
    source = source_of_text(
        "wrong", '#include "device.cuh"\nKERNEL(32, 1) wrong(u32 *y) { y = z; }\n'
    )
    with pytest.raises(RuntimeError, match=r'wrong\.cu does not compile for sm_80: .*"z"') as error:
        compile_cubin(source, "sm_80")
    assert "\n" not in str(error.value)


def test_what_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(module, "_packaged", lambda package, file: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module.ctypes, "CDLL", lambda path: (_ for _ in ()).throw(OSError(path)))
    for cached in (module._nvrtc, module._program):
        cached.cache_clear()
    with pytest.raises(
        BackendUnavailable, match=r"^NVRTC is missing; pip install 'bitspin\[test\]'$"
    ):
        compile_cubin(planted("planted"), "sm_80")
    with pytest.raises(BackendUnavailable, match=r"^nvdisasm is missing; pip install"):
        module._run("nvidia-cuda-nvdisasm", "nvdisasm")
    for cached in (module._nvrtc, module._program):
        cached.cache_clear()


@pytest.mark.parametrize(("version", "first"), [("13.0", "13"), ("12.8", "12"), (None, "13")])
def test_the_compiler_is_that_of_torch_if_there_is_one(monkeypatch, version, first):
    packages = {"nvidia-cuda-nvrtc": "/13/", "nvidia-cuda-nvrtc-cu12": "/12/"}
    monkeypatch.setattr(module, "_packaged", lambda package, file: Path(packages[package] + file))
    monkeypatch.setattr(module.torch.version, "cuda", version)
    monkeypatch.setenv("CUDA_PATH", "/opt/cuda")
    candidates = list(module._nvrtc_candidates())
    other = {"12": "13", "13": "12"}[first]
    assert candidates[:3] == [
        *(f"/{first}/libnvrtc.so.{first}", f"libnvrtc.so.{first}"),
        f"/opt/cuda/lib64/libnvrtc.so.{first}",
    ]
    assert f"/{other}/libnvrtc.so.{other}" in candidates


@pytest.mark.usefixtures("nvrtc", "fresh")
def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    path = cubin_path("planted", "sm_80")
    assert path.read_bytes().startswith(b"\x7fELF")
    assert tmp_path not in path.parents

"""The modelled inner loop: it is the shipped one, and within reach of its bound on every core."""

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from kernels import BackendUnavailable
from kernels.arm_model import CORES, Llvm, find_llvm, inner_loop, model_loop
from kernels.build import build_library

pytestmark = pytest.mark.arm

# Cycles per product of 128 bits that the kernels are held to, as LLVM 19 models them.
LIMITS = {"neoverse-n1": 1.55, "neoverse-v1": 0.80, "cortex-a55": 3.5, "cortex-a53": 3.9}


@pytest.fixture(scope="module")
def llvm() -> Llvm:
    try:
        return find_llvm()
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def library() -> Path:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is missing: pip install 'bitspin[arm]'")
    return build_library("aarch64-linux")


def test_the_loop_is_that_of_the_widest_tile(library: Path, llvm: Llvm) -> None:
    loop = inner_loop(library, llvm)
    operations = [line.split()[0] for line in loop]
    assert operations.count("cnt") == operations.count("eor") == 6 * 8 * 4
    # 3 vector instructions per product, 6 * 4 loads of rows, 32 columns in pairs, 6 others.
    assert len(loop) == 3 * 192 + 24 + 16 + 6
    assert loop[-1].split() == ["b.ne", "loop"]


def test_modelled_cycles(library: Path, llvm: Llvm) -> None:
    if int(llvm.version.split(".")[0]) < 19:
        pytest.skip(f"llvm-mca {llvm.version}: the limits are those of 19; apt-get install llvm-19")
    models = {model.core: model for model in model_loop(library, llvm)}
    assert models.keys() == CORES.keys() == LIMITS.keys()
    for core, limit in LIMITS.items():
        assert CORES[core] <= models[core].cycles_per_product <= limit, core
        assert models[core].source == f"modelled by llvm-mca {llvm.version}"
        assert 3 < models[core].instructions_per_product <= 3.3
    assert json.loads(json.dumps(asdict(models["cortex-a53"])))["n_products"] == 192


def test_a_library_without_the_loop_is_refused(llvm: Llvm, library: Path) -> None:
    with pytest.raises(ValueError, match="expected a loop with cnt and eor, found none in"):
        inner_loop(Path(shutil.which("true") or ""), llvm)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"llvm-mca, .*apt-get install llvm-19"):
        find_llvm()

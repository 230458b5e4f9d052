"""Runs the aarch64 runtime on any machine, in an emulator, and counts its instructions.

The emulator (unicorn) runs in a process of its own, ``python -m kernels.emulate``: it is a
verification tool under its own licence, and nothing of it is loaded into the caller. Data crosses
as raw bytes in a temporary folder. The count is of instructions, not of cycles, and is the same in
every run.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kernels.errors import BackendUnavailable, ModelFormatError
from kernels.model_format import read_model
from kernels.native import encode_images

_PAGE: Final = 0x1000
_CODE: Final = 0x0100_0000
_DATA: Final = 0x1_0000_0000
_STACK_BYTES: Final = 1 << 16
_R_AARCH64_RELATIVE: Final = 1027
_FP_ENABLED: Final = 0b11 << 20  # CPACR_EL1.FPEN: no trap on floating point and SIMD


@dataclass(frozen=True)
class Emulation:
    """What an emulated run gave."""

    outputs: NDArray[np.int32]
    """Shape (N, n_out)."""
    instructions_per_image: float
    """Mean over the counted images; opening the model is not included."""
    n_counted: int
    """Images whose instructions were counted."""


def emulate(
    library: Path, model: bytes, images: NDArray[np.uint8], *, n_counted: int = 2
) -> Emulation:
    """Run ``images`` through an aarch64 library built by :func:`kernels.build.build_library`.

    Parameters
    ----------
    library
        ELF shared library for aarch64 that uses no libc.
    model
        Contents of a ``.bspn`` file.
    images
        Shape (N, H, W, C), uint8, N >= 1.
    n_counted
        Instructions are counted on the first images only, since counting is slow.

    Raises
    ------
    BackendUnavailable
        If unicorn or pyelftools is not installed.
    ModelFormatError
        If the library or the Python reader refuses the model.
    ValueError
        If shapes do not fit the model, ``n_counted`` is not in 1 ... N, or the library is not for
        aarch64.
    RuntimeError
        If the emulator stops; the message carries its last line.
    """
    for module in ("unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            raise BackendUnavailable(f"{module}: not installed; pip install 'bitspin[arm]'")
    if not 1 <= n_counted <= len(images):
        raise ValueError(f"n_counted: expected 1 to {len(images)} (images), got {n_counted}")
    inputs = encode_images(read_model(model).tensors[0], images)
    with library.open("rb") as stream:
        if stream.read(20)[::18] != b"\x7f\xb7":  # first byte of the magic, and e_machine
            raise ValueError(f"library: expected an aarch64 ELF file, got {library}")
    with tempfile.TemporaryDirectory(prefix="bitspin-emulate-") as name:
        folder = Path(name)
        (folder / "model.bspn").write_bytes(model)
        (folder / "inputs").write_bytes(inputs.tobytes())
        (folder / "job.json").write_text(
            json.dumps({"library": str(library), "n_images": len(images), "n_counted": n_counted})
        )
        result = subprocess.run(
            [sys.executable, "-m", "kernels.emulate", name],
            env={**os.environ, "PYTHONPATH": _python_path()},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            raise RuntimeError(f"emulator: {lines[-1]}")
        answer = json.loads(result.stdout)
        if "refused" in answer:
            raise ModelFormatError(f"model: refused by the C runtime: {answer['refused']}")
        outputs = np.frombuffer((folder / "outputs").read_bytes(), "<i4").astype(np.int32)
    return Emulation(
        outputs.reshape(len(images), -1), answer["instructions"] / n_counted, n_counted
    )


def _python_path() -> str:
    """Search path on which the child finds this very package first."""
    inherited = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).parents[1])
    return os.pathsep.join([here, inherited] if inherited else [here])


class _Machine:
    """One emulated aarch64 core with a library loaded, in the child process."""

    def __init__(self, library: Path) -> None:
        # Imported by name: both belong to the extra, and unicorn's annotations are incomplete.
        unicorn: Any = importlib.import_module("unicorn")
        elf: Any = importlib.import_module("elftools.elf.elffile")
        self._registers: Any = importlib.import_module("unicorn.arm64_const")
        self._core = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._core.reg_write(self._registers.UC_ARM64_REG_CPACR_EL1, _FP_ENABLED)
        self._hook_kind = unicorn.UC_HOOK_BLOCK
        self._next = _DATA
        self._symbols: dict[str, int] = {}
        with library.open("rb") as stream:
            self._load(elf.ELFFile(stream))
        self._stack = self.allocate(bytes(_STACK_BYTES)) + _STACK_BYTES
        self._stop = self.allocate(bytes(_PAGE))  # where the outermost function returns to

    def _load(self, elf: Any) -> None:
        segments = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        end = max(s["p_vaddr"] + s["p_memsz"] for s in segments)
        self._core.mem_map(_CODE, -(-end // _PAGE) * _PAGE)
        for segment in segments:
            self._core.mem_write(_CODE + segment["p_vaddr"], segment.data())
        for section in elf.iter_sections():
            if section["sh_type"] == "SHT_RELA":
                self._relocate(section)
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols():
            self._symbols[symbol.name] = _CODE + symbol["st_value"]

    def _relocate(self, section: Any) -> None:
        for entry in section.iter_relocations():
            if entry["r_info_type"] != _R_AARCH64_RELATIVE:
                raise ValueError(f"library: unexpected relocation {entry['r_info_type']}")
            target = (_CODE + entry["r_addend"]).to_bytes(8, "little")
            self._core.mem_write(_CODE + entry["r_offset"], target)

    def allocate(self, data: bytes) -> int:
        """Map fresh pages that begin with ``data``; an unmapped page follows them."""
        n_bytes = -(-max(len(data), 1) // _PAGE) * _PAGE
        address = self._next
        self._core.mem_map(address, n_bytes)
        self._core.mem_write(address, data)
        self._next += n_bytes + _PAGE
        return address

    def write(self, address: int, data: bytes) -> None:
        self._core.mem_write(address, data)

    def read(self, address: int, n_bytes: int) -> bytes:
        return bytes(self._core.mem_read(address, n_bytes))

    def read_string(self, address: int) -> str:
        return self.read(address, 256).partition(b"\0")[0].decode()

    def call(self, function: str, *arguments: int) -> int:
        """Call ``function`` with integer arguments; returns register X0."""
        for i, argument in enumerate(arguments):
            self._core.reg_write(getattr(self._registers, f"UC_ARM64_REG_X{i}"), argument)
        self._core.reg_write(self._registers.UC_ARM64_REG_SP, self._stack)
        self._core.reg_write(self._registers.UC_ARM64_REG_LR, self._stop)
        self._core.emu_start(self._symbols[function], self._stop)
        return int(self._core.reg_read(self._registers.UC_ARM64_REG_X0))

    def count_call(self, function: str, *arguments: int) -> int:
        """Call ``function`` and return the number of instructions it took, 4 bytes each."""
        n_bytes = 0

        def add(_core: object, _address: int, size: int, _data: object) -> None:
            nonlocal n_bytes
            n_bytes += size

        self._core.ctl_flush_tb()  # blocks translated without the hook would not be seen
        hook = self._core.hook_add(self._hook_kind, add)
        self.call(function, *arguments)
        self._core.hook_del(hook)
        self._core.ctl_flush_tb()
        return n_bytes // 4


def _main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    machine = _Machine(Path(job["library"]))
    file = (folder / "model.bspn").read_bytes()
    model = machine.allocate(bytes(64))
    error = machine.call("bs_open", model, machine.allocate(file), len(file)) & 0xFFFFFFFF
    if error:
        print(json.dumps({"refused": machine.read_string(machine.call("bs_strerror", error))}))
        return
    arena = machine.allocate(bytes(machine.call("bs_arena_bytes", model)))
    n_output = 4 * machine.call("bs_output_count", model)
    output = machine.allocate(bytes(n_output))
    inputs = (folder / "inputs").read_bytes()
    n_input = len(inputs) // job["n_images"]
    source = machine.allocate(bytes(n_input))
    outputs, instructions = bytearray(), 0
    for i in range(job["n_images"]):
        machine.write(source, inputs[i * n_input : (i + 1) * n_input])
        if i < job["n_counted"]:
            instructions += machine.count_call("bs_run", model, arena, source, output)
        else:
            machine.call("bs_run", model, arena, source, output)
        outputs += machine.read(output, n_output)
    (folder / "outputs").write_bytes(outputs)
    print(json.dumps({"instructions": instructions}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

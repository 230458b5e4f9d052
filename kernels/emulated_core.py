"""One aarch64 core in the emulator (unicorn), with a library loaded; for the child process only.

:mod:`kernels.emulate` starts the process and speaks with it. What crosses the pipes is a u64
length and a message: a u32 length, a JSON header, and the bytes of the arrays.
"""

import importlib
import json
import struct
from pathlib import Path
from typing import IO, Any, Final

_PAGE: Final = 0x1000
_CODE: Final = 0x0100_0000
_DATA: Final = 0x1_0000_0000
_STACK_BYTES: Final = 1 << 17
_R_AARCH64_RELATIVE: Final = 1027
_R_AARCH64_OF_SYMBOL: Final = (1025, 1026)  # GLOB_DAT, JUMP_SLOT: calls of exported functions
_FP_ENABLED: Final = 0b11 << 20  # CPACR_EL1.FPEN: no trap on floating point and SIMD
_REGISTER_ARGUMENTS: Final = 8  # of each kind, AAPCS64


class EmulatedCore:
    """An aarch64 core that can call the functions of one library.

    Parameters
    ----------
    library
        ELF shared library for aarch64 that uses no libc.
    dot_product
        Whether the core has what Armv8.2 added to the base NEON of Armv8.0.
    """

    def __init__(self, library: Path, *, dot_product: bool = False) -> None:
        # Imported by name: both belong to the extra, and unicorn's annotations are incomplete.
        unicorn: Any = importlib.import_module("unicorn")
        elf: Any = importlib.import_module("elftools.elf.elffile")
        self._registers: Any = importlib.import_module("unicorn.arm64_const")
        self._core = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        if dot_product:
            self._core.ctl_set_cpu_model(self._registers.UC_CPU_ARM64_MAX)
        self._core.reg_write(self._registers.UC_ARM64_REG_CPACR_EL1, _FP_ENABLED)
        self._hook_kind = unicorn.UC_HOOK_BLOCK
        self._error: type[Exception] = unicorn.UcError
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
        symbols = elf.get_section_by_name(".dynsym")
        for section in elf.iter_sections():
            if section["sh_type"] == "SHT_RELA":
                self._relocate(section, symbols)
        for symbol in symbols.iter_symbols():
            self._symbols[symbol.name] = _CODE + symbol["st_value"]

    def _relocate(self, section: Any, symbols: Any) -> None:
        for entry in section.iter_relocations():
            kind, value = entry["r_info_type"], entry["r_addend"]
            if kind in _R_AARCH64_OF_SYMBOL:
                symbol = symbols.get_symbol(entry["r_info_sym"])
                if symbol["st_shndx"] == "SHN_UNDEF":
                    raise ValueError(f"library: {symbol.name} is not defined in it")
                value += symbol["st_value"]
            elif kind != _R_AARCH64_RELATIVE:
                raise ValueError(f"library: unexpected relocation {kind}")
            self._core.mem_write(_CODE + entry["r_offset"], (_CODE + value).to_bytes(8, "little"))

    def allocate(self, data: bytes | memoryview, *, at_end: bool = False) -> int:
        """Map fresh pages that begin with ``data``, or end with it; an unmapped page follows."""
        n_bytes = -(-max(len(data), 1) // _PAGE) * _PAGE
        address = self._next + (n_bytes - len(data) if at_end else 0)
        self._core.mem_map(self._next, n_bytes)
        if data:
            self._core.mem_write(address, bytes(data))
        self._next += n_bytes + _PAGE
        return address

    def release(self, mark: int) -> None:
        """Unmap everything that was allocated since ``mark`` (:attr:`mark`)."""
        for begin, end, _permissions in list(self._core.mem_regions()):
            if begin >= mark:
                self._core.mem_unmap(begin, end - begin + 1)
        self._next = mark

    @property
    def mark(self) -> int:
        """Where the next allocation will lie."""
        return self._next

    def write(self, address: int, data: bytes) -> None:
        """Copy ``data`` into mapped memory."""
        self._core.mem_write(address, data)

    def read(self, address: int, n_bytes: int) -> bytes:
        """Copy mapped memory."""
        return bytes(self._core.mem_read(address, n_bytes))

    def read_string(self, address: int) -> str:
        """Read a C string of at most 256 bytes."""
        return self.read(address, 256).partition(b"\0")[0].decode()

    def call(self, function: str, *arguments: int | float) -> int:
        """Call ``function`` with int64_t and float arguments; returns register X0, unsigned.

        Raises
        ------
        ValueError
            If the library has no such function.
        RuntimeError
            If the core stops, for example where memory is not mapped; the message says where.
        """
        if function not in self._symbols:
            raise ValueError(f"library: there is no function {function}")
        stacked = self._pass(arguments)
        self._core.reg_write(self._registers.UC_ARM64_REG_SP, stacked)
        self._core.reg_write(self._registers.UC_ARM64_REG_LR, self._stop)
        try:
            self._core.emu_start(self._symbols[function], self._stop)
        except self._error as error:
            at = self._core.reg_read(self._registers.UC_ARM64_REG_PC) - _CODE
            raise RuntimeError(f"{function}: {error} at address {at:#x} of the library") from error
        return int(self._core.reg_read(self._registers.UC_ARM64_REG_X0))

    def _pass(self, arguments: tuple[int | float, ...]) -> int:
        """Put arguments where AAPCS64 wants them; returns the stack pointer."""
        stack = bytearray()
        n_used = {"X": 0, "Q": 0}
        for argument in arguments:
            kind = "Q" if isinstance(argument, float) else "X"
            value = _bits(argument)
            if n_used[kind] < _REGISTER_ARGUMENTS:
                register = getattr(self._registers, f"UC_ARM64_REG_{kind}{n_used[kind]}")
                self._core.reg_write(register, value)
                n_used[kind] += 1
            else:
                stack += value.to_bytes(8, "little")
        pointer = self._stack - -(-len(stack) // 16) * 16
        if stack:
            self._core.mem_write(pointer, bytes(stack))
        return pointer

    def count_call(self, function: str, *arguments: int | float) -> tuple[int, int]:
        """Call ``function``; returns X0 and the number of instructions, 4 bytes each."""
        n_bytes = 0

        def add(_core: object, _address: int, size: int, _data: object) -> None:
            nonlocal n_bytes
            n_bytes += size

        self._core.ctl_flush_tb()  # blocks translated without the hook would not be seen
        hook = self._core.hook_add(self._hook_kind, add)
        try:
            result = self.call(function, *arguments)
        finally:
            self._core.hook_del(hook)
            self._core.ctl_flush_tb()
        return result, n_bytes // 4


def _bits(argument: int | float) -> int:
    if isinstance(argument, float):
        return int.from_bytes(struct.pack("<f", argument), "little")
    return argument & 0xFFFF_FFFF_FFFF_FFFF


def read_message(stream: IO[bytes]) -> tuple[Any, memoryview] | None:
    """Read one message: its header and the bytes of its arrays; None at the end of the stream."""
    prefix = stream.read(8)
    if len(prefix) < 8:
        return None
    (n_bytes,) = struct.unpack("<Q", prefix)
    message = stream.read(n_bytes)
    if len(message) < n_bytes:
        return None
    (n_header,) = struct.unpack("<I", message[:4])
    return json.loads(message[4 : 4 + n_header]), memoryview(message)[4 + n_header :]


def write_message(stream: IO[bytes], header: object, data: list[bytes]) -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    n_bytes = 4 + len(text) + sum(map(len, data))
    stream.write(struct.pack("<QI", n_bytes, len(text)) + text)
    for block in data:
        stream.write(block)
    stream.flush()


def serve(
    library: Path, requests: IO[bytes], answers: IO[bytes], *, dot_product: bool = False
) -> None:
    """Answer calls until ``requests`` ends.

    The header of a request has ``function``, ``counts`` (bool), ``sizes`` and ``writes`` of the
    arrays, and ``arguments``: a number, or ``[i]`` for the address of array i. The answer has
    ``error``, or ``result`` (signed) and ``instructions`` (0 if not counted) and carries the
    arrays that may have been written.
    """
    core = EmulatedCore(library, dot_product=dot_product)
    mark = core.mark
    while (request := read_message(requests)) is not None:
        header, data = request
        try:
            answer, arrays = _answer(core, header, data)
        except (RuntimeError, ValueError) as error:
            answer, arrays = {"error": str(error)}, []
        core.release(mark)
        write_message(answers, answer, arrays)


def _answer(core: EmulatedCore, header: Any, data: memoryview) -> tuple[object, list[bytes]]:
    addresses, at = [], 0
    for n_bytes in header["sizes"]:
        addresses.append(core.allocate(data[at : at + n_bytes], at_end=True))
        at += n_bytes
    arguments = [addresses[a[0]] if isinstance(a, list) else a for a in header["arguments"]]
    instructions = 0
    if header["counts"]:
        result, instructions = core.count_call(header["function"], *arguments)
    else:
        result = core.call(header["function"], *arguments)
    written = [
        core.read(address, n_bytes)
        for address, n_bytes, writes in zip(
            addresses, header["sizes"], header["writes"], strict=True
        )
        if writes
    ]
    signed = result - (1 << 64) if result >> 63 else result
    return {"result": signed, "instructions": instructions}, written

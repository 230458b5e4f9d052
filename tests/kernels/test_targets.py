"""Libraries that load anywhere: what a linker wrote, read byte by byte, for every target."""

import io
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernels import build
from kernels.build import build_library
from kernels.targets import TARGETS, Format

pytestmark = pytest.mark.arm

MAX_BYTES = 64 * 1024
HEADER = (build.SOURCES / "bitspin.h").read_text()
API = set(re.findall(r"^BS_API [^;]*?\b(bs_\w+)\(", HEADER, re.MULTILINE))
ARCHIVED = [name for name, target in TARGETS.items() if target.archive]


@dataclass
class Binary:
    """What the tests ask of a library or an object."""

    defined: set[str] = field(default_factory=set)
    undefined: set[str] = field(default_factory=set)
    needed: list[str] = field(default_factory=list)
    load_alignments: list[int] = field(default_factory=list)
    content_bytes: int = 0
    """Without the zeros that fill Apple's segments up to pages of 16 kB."""
    notes: dict[str, object] = field(default_factory=dict)


def read_elf(data: bytes) -> Binary:
    elffile = pytest.importorskip(
        "elftools.elf.elffile", reason="pyelftools (extra arm) is missing"
    )
    elf = elffile.ELFFile(io.BytesIO(data))
    binary = Binary(content_bytes=len(data))
    table = elf.get_section_by_name(".dynsym") or elf.get_section_by_name(".symtab")
    for symbol in table.iter_symbols():
        if symbol.name and symbol["st_info"]["bind"] != "STB_LOCAL":
            is_open = symbol["st_shndx"] == "SHN_UNDEF"
            (binary.undefined if is_open else binary.defined).add(symbol.name)
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_LOAD":
            binary.load_alignments.append(segment["p_align"])
        if segment["p_type"] == "PT_DYNAMIC":
            tags = segment.iter_tags()
            binary.needed = [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"]
    return binary


def read_macho(data: bytes) -> Binary:
    """Format of Apple's loader.h: the header, then commands of (kind, size, ...)."""
    magic, _cpu, _sub, _type, n_commands, size, _flags, _ = struct.unpack_from("<8I", data)
    assert magic == 0xFEEDFACF
    binary = Binary(content_bytes=32 + size)
    at = 32
    for _ in range(n_commands):
        kind, size = struct.unpack_from("<2I", data, at)
        if kind == 0x19:  # LC_SEGMENT_64
            n_sections = struct.unpack_from("<I", data, at + 64)[0]
            sections = range(at + 72, at + 72 + 80 * n_sections, 80)
            binary.content_bytes += sum(struct.unpack_from("<Q", data, s + 40)[0] for s in sections)
            if data[at + 8 :].startswith(b"__LINKEDIT"):
                binary.content_bytes += struct.unpack_from("<Q", data, at + 48)[0]
        if kind == 0x2:  # LC_SYMTAB
            start, n_symbols, strings, _ = struct.unpack_from("<4I", data, at + 8)
            for i in range(n_symbols):
                name_at, flags, section = struct.unpack_from("<IBB", data, start + 16 * i)
                end = data.index(b"\0", strings + name_at)
                name = data[strings + name_at : end].decode()
                if flags & 0x01:  # N_EXT; private to the library with N_PEXT
                    is_open = section == 0
                    if is_open or not flags & 0x10:
                        (binary.undefined if is_open else binary.defined).add(name)
                    binary.notes.setdefault("external", set()).add(name)  # type: ignore[attr-defined]
        if kind in (0xC, 0xD):  # LC_LOAD_DYLIB, LC_ID_DYLIB
            name_at = at + struct.unpack_from("<I", data, at + 8)[0]
            name = data[name_at : data.index(b"\0", name_at)].decode()
            if kind == 0xD:
                binary.notes["install name"] = name
            else:
                binary.needed.append(name)
        if kind == 0x32:  # LC_BUILD_VERSION
            binary.notes["platform"], binary.notes["minimum"] = struct.unpack_from(
                "<2I", data, at + 8
            )
        if kind == 0x1D:  # LC_CODE_SIGNATURE
            binary.notes["signed"] = True
        at += size
    return binary


def read_wasm(data: bytes) -> Binary:
    """Format of the WebAssembly core specification, chapter 5: imports and exports."""
    assert data[:8] == b"\0asm\1\0\0\0"
    stream = io.BytesIO(data[8:])

    def number() -> int:
        value = shift = 0
        while True:
            (byte,) = stream.read(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    binary = Binary(content_bytes=len(data))
    while section := stream.read(1):
        size = number()
        end = stream.tell() + size
        if section == b"\2":
            binary.undefined = {f"{number()} imports"}
        if section == b"\7":
            for _ in range(number()):
                binary.defined.add(stream.read(number()).decode())
                stream.read(1)
                number()
        stream.seek(end)
    return binary


READERS = {Format.ELF: read_elf, Format.MACHO: read_macho, Format.WASM: read_wasm}


def members(archive: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """(name, header, content) of every member of an archive but its index of symbols."""
    assert archive[:8] == b"!<arch>\n"
    at, long_names = 8, b""
    while at < len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        name, content = header[:16].decode().rstrip(), archive[at + 60 : at + 60 + size]
        if name.startswith("#1/"):  # BSD style: the name comes before the content
            length = int(name[3:])
            name, content = content[:length].rstrip(b"\0").decode(), content[length:]
        if name == "//":
            long_names = content
        if name[0] == "/" and name[1:].isdigit():  # GNU style: the name is in a table
            name = long_names[int(name[1:]) :].partition(b"/")[0].decode()
        if name not in ("/", "//") and not name.startswith("__.SYMDEF"):
            yield name, header, content
        at += 60 + size + size % 2


def names_in(path: Path, target: str) -> Binary:
    return READERS[TARGETS[target].format](path.read_bytes())


def test_the_header_declares_what_a_program_calls() -> None:
    assert {"bs_open", "bs_run", "bs_arena_bytes", "bs_strerror", "bs_version"} <= API


@pytest.mark.parametrize("target", TARGETS)
def test_a_library_is_small_and_needs_nothing(target: str) -> None:
    library = build_library(target)
    assert library.name == TARGETS[target].library
    binary = names_in(library, target)
    assert 0 < binary.content_bytes <= MAX_BYTES
    if TARGETS[target].format is Format.ELF:
        assert (binary.defined, binary.undefined, binary.needed) == (API, set(), [])
    if TARGETS[target].format is Format.MACHO:
        # What belongs to the linker and the loader: none of it has to be brought along.
        linkers = {"__mh_dylib_header", "___dso_handle"}
        assert binary.defined - linkers == {f"_{name}" for name in API}
        assert binary.undefined <= {"dyld_stub_binder"}
        assert binary.needed == ["/usr/lib/libSystem.B.dylib"]
        assert binary.notes["install name"] == "@rpath/libbitspin.dylib"
    if TARGETS[target].format is Format.WASM:
        assert binary.undefined == set()
        assert binary.defined == API | {"memory", "__heap_base", "__stack_pointer"}


def test_android_may_have_pages_of_16_kb() -> None:
    alignments = names_in(build_library("aarch64-android"), "aarch64-android").load_alignments
    assert alignments
    assert all(alignment % 0x4000 == 0 for alignment in alignments)


@pytest.mark.parametrize(
    ("target", "platform", "is_signed"), [("aarch64-macos", 1, True), ("aarch64-ios", 2, False)]
)
def test_apple_is_told_the_platform(target: str, platform: int, is_signed: bool) -> None:
    """Apple silicon runs signed code only; an app signs what it embeds."""
    binary = names_in(build_library(target), target)
    assert binary.notes["platform"] == platform
    assert binary.notes.get("signed", False) is is_signed


@pytest.mark.parametrize("target", ARCHIVED)
def test_an_archive_is_complete_in_itself(target: str) -> None:
    """Nothing is left open, so that it links without libc and without division helpers."""
    archive = build_library(target, kind="static")
    assert archive.name == "libbitspin.a"
    reader = READERS[TARGETS[target].format]
    defined, undefined, names = set(), set(), []
    for name, header, content in members(archive.read_bytes()):
        names.append(name.rstrip("/"))
        assert header[16:48].split() in ([b"0", b"0", b"0", b"644"], [b"0", b"0", b"0", b"100644"])
        binary = reader(content)
        defined |= binary.defined | set(binary.notes.get("external", ())) - binary.undefined  # type: ignore[call-overload]
        undefined |= binary.undefined
    assert names == sorted(f"{path.stem}.o" for path in build.SOURCES.glob("*.c"))
    prefix = "_" if TARGETS[target].format is Format.MACHO else ""
    assert {prefix + name for name in API} <= defined
    assert undefined - defined <= {"_GLOBAL_OFFSET_TABLE_"}
    assert all(name.startswith(f"{prefix}bs_") for name in defined)


@pytest.mark.parametrize(
    ("target", "kind"),
    # Each format, each way of archiving, and the one whose libraries are signed.
    [
        ("aarch64-linux", "shared"),
        ("armv7-linux", "static"),
        ("aarch64-macos", "shared"),
        ("aarch64-ios", "static"),
        ("wasm32", "shared"),
    ],
)
def test_bytes_do_not_depend_on_the_folder(
    target: str, kind: build.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    for name in ("a", "a-much-longer-name"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name / "cache"))
        monkeypatch.setattr(build, "SOURCES", tmp_path / name / "c")
        shutil.copytree(Path(build.__file__).parent / "c", tmp_path / name / "c")
        library = build_library(target, kind=kind)
        assert library.is_relative_to(tmp_path / name / "cache" / "bitspin" / "native")
        built.append(library.read_bytes())
    assert built[0] == built[1]

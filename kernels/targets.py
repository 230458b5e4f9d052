"""What the runtime can be built for: one row per target."""

import platform
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Format(StrEnum):
    """What a linker writes."""

    ELF = "elf"
    MACHO = "macho"
    WASM = "wasm"


@dataclass(frozen=True)
class Target:
    """One row of :data:`TARGETS`."""

    zig: tuple[str, ...]
    """What zig calls it. The libraries use no libc, so musl in a name binds nothing."""
    format: Format
    link: tuple[str, ...] = ()
    """Flags of the linker beyond those of the format."""

    @property
    def library(self) -> str:
        """File that is loaded: at run time, or by a web page."""
        return _LIBRARY[self.format]

    @property
    def archive(self) -> str | None:
        """File that is linked into a program; None where there is no use for one."""
        return None if self.format is Format.WASM else "libbitspin.a"


_LIBRARY = {
    Format.ELF: "libbitspin.so",
    Format.MACHO: "libbitspin.dylib",
    Format.WASM: "bitspin.wasm",
}

# Android 15 and later may run with pages of 16 kB; a library aligned to less does not load there.
_PAGES_16K = ("-Wl,-z,max-page-size=16384",)

TARGETS: Final[dict[str, Target]] = {
    "x86_64-linux": Target(("-target", "x86_64-linux-musl"), Format.ELF),
    "aarch64-linux": Target(("-target", "aarch64-linux-musl"), Format.ELF),
    "aarch64-android": Target(("-target", "aarch64-linux-android"), Format.ELF, _PAGES_16K),
    "aarch64-ios": Target(("-target", "aarch64-ios.13.0"), Format.MACHO),
    "aarch64-macos": Target(("-target", "aarch64-macos.11.0"), Format.MACHO),
    "armv7-linux": Target(("-target", "arm-linux-musleabihf", "-mcpu=cortex_a15"), Format.ELF),
    "wasm32": Target(("-target", "wasm32-freestanding"), Format.WASM),
}
"""Name -> target."""

HOSTS: Final = {
    ("linux", "x86_64"): "x86_64-linux",
    ("linux", "aarch64"): "aarch64-linux",
    ("darwin", "arm64"): "aarch64-macos",
}
"""Machines that can train and verify: (``sys.platform``, ``platform.machine()``) -> target."""


def host_target() -> str | None:
    """Target of this machine; None if the runtime has not been taught to run here."""
    return HOSTS.get((sys.platform, platform.machine()))

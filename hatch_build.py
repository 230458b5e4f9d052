"""Build backend: hatchling, and the compiled libraries in every wheel.

A wheel brings the runtime for all targets and the kernels for all hosts, so that who installs it
needs no compiler; zig, which makes them, is required only while a wheel is built. An editable
install compiles at first use instead. ``BITSPIN_PURE_WHEEL=1`` makes a wheel without libraries.
"""

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.build import *  # noqa: F403  # the other functions of a build backend
from hatchling.build import get_requires_for_build_wheel as _requirements
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ZIG = "ziglang==0.17.*"


def _is_pure() -> bool:
    return os.environ.get("BITSPIN_PURE_WHEEL") == "1"


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What building a wheel needs; pip asks for editable installs elsewhere."""
    return [*_requirements(config_settings), *([] if _is_pure() else [ZIG])]


class Libraries(BuildHookInterface):
    """Compiles what ``kernels.build`` then finds in the installed package."""

    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to a wheel that is not editable."""
        if version == "editable":
            return
        if _is_pure():
            self.app.display_info("wheel without compiled libraries: BITSPIN_PURE_WHEEL=1")
            return
        if importlib.util.find_spec("ziglang") is None:
            raise RuntimeError(
                f"wheel: expected zig to compile the libraries, got none; pip install '{ZIG}', "
                "or set BITSPIN_PURE_WHEEL=1 for a wheel without them"
            )
        self._folder = tempfile.mkdtemp(prefix="bitspin-wheel-")
        libraries = _kernels_build(Path(self.root)).package_libraries(Path(self._folder))
        for place, file in libraries.items():
            build_data["force_include"][str(file)] = f"kernels/lib/{place}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled; it is in the wheel."""
        if self._folder is not None:
            shutil.rmtree(self._folder)


def _kernels_build(root: Path) -> ModuleType:
    """``kernels.build`` without ``kernels/__init__.py``, which needs numpy."""
    package = ModuleType("kernels")
    package.__path__ = [str(root / "kernels")]
    sys.modules["kernels"] = package
    return importlib.import_module("kernels.build")

"""What an application needs to run a model on a target: the folder that ``bitspin export`` writes.

Equal models and sources give equal bytes in every file.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from string import Template
from typing import Final

from kernels.build import SOURCES, build_library
from kernels.model import DType, Model
from kernels.model_format import read_model, write_model
from kernels.panels import Layout
from kernels.targets import TARGETS
from kernels.version import __version__

TEMPLATES: Final = Path(__file__).parent / "templates"
SUMS: Final = "SHA256SUMS"
_LAYOUTS: Final = {
    "x86_64": Layout.LANES,
    "aarch64": Layout.VECTORS,
    "armv7": Layout.VECTORS,
    "wasm32": Layout.ROWS,
}
"""First part of a target's name -> order of the weights that its inner loop reads."""
_JAVA: Final = ("Bitspin.java", "bitspin_jni.c")
_SWIFT: Final = ("Bitspin.swift", "module.modulemap")
_PROGRAMS: Final = ("example.c", "benchmark.c", "CMakeLists.txt")
_WRAPPERS: Final = {
    "x86_64-linux": (*_PROGRAMS, *_JAVA),
    "aarch64-linux": (*_PROGRAMS, *_JAVA),
    "aarch64-android": (*_PROGRAMS, *_JAVA),
    "aarch64-ios": (*_PROGRAMS, *_SWIFT),
    "aarch64-macos": (*_PROGRAMS, *_SWIFT),
    "armv7-linux": (*_PROGRAMS, *_JAVA),
    "wasm32": ("example.mjs",),
}
"""Target -> files of :data:`TEMPLATES` that go with it as they are."""
_C_USAGE: Final = (
    "cc -O2 example.c libbitspin.a -o example && ./example model.bspn image.raw\n"
    "cc -O2 benchmark.c libbitspin.a -o benchmark && ./benchmark model.bspn\n"
    "or: cmake -S . -B build && cmake --build build"
)
_USAGE: Final = {
    "aarch64-android": (
        "With the NDK: cmake -S . -B build -DCMAKE_TOOLCHAIN_FILE=$NDK/build/cmake/"
        "android.toolchain.cmake\n"
        "  -DANDROID_ABI=arm64-v8a && cmake --build build\n"
        "On the phone: adb push build/benchmark model.bspn /data/local/tmp/, then\n"
        "  adb shell 'cd /data/local/tmp && ./benchmark model.bspn'\n"
        "In an app: Bitspin.java with bitspin_jni.c and libbitspin.a as libbitspin_jni.so"
    ),
    "aarch64-ios": (
        "In Xcode: add libbitspin.a, bitspin.h, module.modulemap (Import Paths) and Bitspin.swift"
    ),
    "wasm32": "node example.mjs model.bspn image.raw [RUNS]",
}


def layout_of(target: str) -> Layout:
    """Order of the packed weights in a model file for ``target``."""
    return _LAYOUTS[target.partition("-")[0]]


def write_bundle(model: bytes, target: str, out: Path) -> tuple[str, ...]:
    """Write everything that goes with a model on one target.

    Parameters
    ----------
    model
        Contents of a ``.bspn`` file, for any target.
    target
        Key of :data:`~kernels.targets.TARGETS`.
    out
        Folder; made if it is missing. Each file is replaced atomically, others are left alone.

    Returns
    -------
    tuple
        Names of the files: the libraries, ``bitspin.h``, ``model.bspn`` in the layout of the
        target, programs and wrappers, ``README.txt``, and ``SHA256SUMS`` over the others.

    Raises
    ------
    ValueError
        If the target is unknown.
    ModelFormatError
        If the model is damaged; nothing has been written then.
    BackendUnavailable
        If the library cannot be built here; nothing has been written then.
    """
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    parsed = read_model(model)
    files = {"model.bspn": write_model(parsed, layout_of(target))}
    row = TARGETS[target]
    files[row.library] = build_library(target).read_bytes()
    if row.archive:
        files[row.archive] = build_library(target, kind="static").read_bytes()
    files["bitspin.h"] = (SOURCES / "bitspin.h").read_bytes()
    for name in _WRAPPERS[target]:
        files[name] = (TEMPLATES / name).read_bytes()
    files["README.txt"] = _read_me(parsed, target, len(files["model.bspn"])).encode()
    sums = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    files[SUMS] = "".join(sums).encode()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        for name in files:
            os.replace(Path(folder) / name, out / name)
    return tuple(sorted(files))


def _read_me(model: Model, target: str, model_bytes: int) -> str:
    labels = model.metadata.get("labels")
    names = [str(label) for label in labels] if isinstance(labels, list) else []
    row = TARGETS[target]
    return Template((TEMPLATES / "README.txt").read_text()).substitute(
        version=__version__,
        target=target,
        library=" and ".join(name for name in (row.library, row.archive) if name),
        model_bytes=model_bytes,
        digest=model.metadata["logical_digest"],
        input=_input_line(model),
        n_scores=model.tensors[model.ops[-1].out].n_bytes // 4,
        output_scale=model.metadata.get("output_scale", 1),
        labels=", ".join(f"{i}: {name}" for i, name in enumerate(names))
        or "not named in the model",
        usage=_USAGE.get(target, _C_USAGE),
    )


def _input_line(model: Model) -> str:
    tensor = model.tensors[0]
    shape = " x ".join(map(str, tensor.dims))
    if tensor.dtype is DType.BITS:
        return (
            f"{shape} bits (height, width, channels), each pixel's channels in 32-bit "
            f"little-endian words, spare bits zero: {tensor.n_bytes} bytes"
        )
    line = (
        f"{shape} (height, width, channels) of {tensor.dtype.name.lower()}: {tensor.n_bytes} bytes"
    )
    ranges = model.metadata.get("column_ranges")
    if isinstance(ranges, list):
        ends = ", ".join(" to ".join(map(str, pair)) for pair in ranges if isinstance(pair, list))
        return f"{line}; a byte per column, 0 to 255, rounded and clipped, for {ends}"
    described = model.metadata.get("input")
    note = described.get("preprocessing") if isinstance(described, dict) else None
    return f"{line}; {note}" if note else line

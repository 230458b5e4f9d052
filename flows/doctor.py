"""``bitspin doctor``: what this machine can do, and the command that adds what is missing."""

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console
from rich.table import Table

from flows.settings import home


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    is_present: bool
    detail: str
    remedy: str = ""
    """Command or step that adds it; empty if nothing is missing."""


def doctor_command(*, as_json: bool) -> None:
    """Print every finding; what is missing here never fails the command."""
    findings = [examine() for examine in EXAMINATIONS]
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings], indent=2, ensure_ascii=False))
        return
    table = Table("", "what", "found", "to add it", box=None)
    for finding in findings:
        mark = "[green]✓[/]" if finding.is_present else "[yellow]-[/]"
        table.add_row(mark, finding.what, finding.detail, finding.remedy)
    Console().print(table)


def _python() -> Finding:
    return Finding("Python", True, f"{platform.python_version()} on {platform.machine()}")


def _torch() -> Finding:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    detail = f"{torch.__version__}, {capability}, {torch.get_num_threads()} threads"
    return Finding("torch on the CPU", True, detail)


def _versions() -> Finding:
    names = ("ray", "prefect", "fastapi", "sqlalchemy", "numpy")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return Finding("ray and prefect", True, found)


def _home() -> Finding:
    free = shutil.disk_usage(home() if home().exists() else home().parent).free
    return Finding("runs", True, f"{home() / 'runs'}, {free >> 30} GiB free")


def _host_runtime() -> Finding:
    from kernels.build import build_library
    from kernels.errors import BackendUnavailable

    try:
        library = build_library("host")
    except BackendUnavailable as error:
        return Finding("host runtime", False, str(error), "pip install 'bitspin[arm]'")
    return Finding("host runtime", True, f"{library.stat().st_size:,} bytes")


def _arm_runtime() -> Finding:
    from kernels.build import build_library
    from kernels.errors import BackendUnavailable

    try:
        library = build_library("aarch64-linux")
    except BackendUnavailable as error:
        return Finding("ARM runtime", False, str(error), "pip install 'bitspin[arm]'")
    return Finding("ARM runtime", True, f"aarch64-linux, {library.stat().st_size:,} bytes")


def _backend() -> Finding:
    from kernels.backends import available_backends, current_backend
    from kernels.errors import BackendUnavailable

    available = available_backends()
    try:
        chosen = current_backend().name
    except (BackendUnavailable, ValueError) as error:  # BITSPIN_BACKEND names another one
        return Finding("kernels", False, str(error), "unset BITSPIN_BACKEND")
    is_compiled = available != ("reference",)
    remedy = "" if is_compiled else "pip install 'bitspin[arm]'"
    return Finding("kernels", is_compiled, f"{chosen}, of {', '.join(available)}", remedy)


def _cycle_model() -> Finding:
    names = ("llvm-mca", *(f"llvm-mca-{number}" for number in range(25, 14, -1)))
    path = next((path for path in map(shutil.which, names) if path), None)
    if path:
        return Finding("cycle model", True, path)
    return Finding("cycle model", False, "llvm-mca is missing", "apt-get install llvm")


def _emulator() -> Finding:
    try:
        return Finding("ARM emulator", True, f"unicorn {version('unicorn')}")
    except PackageNotFoundError:
        return Finding("ARM emulator", False, "unicorn is missing", "pip install 'bitspin[arm]'")


def _second_emulator() -> Finding:
    path = shutil.which("qemu-aarch64")
    if path:
        return Finding("second ARM emulator", True, path)
    remedy = "apt-get install qemu-user (used by tests only)"
    return Finding("second ARM emulator", False, "qemu-aarch64 is missing", remedy)


def _cuda() -> Finding:
    """Driver, CuPy, architecture and the path that each size of product takes."""
    import torch

    from kernels.cuda_launch import missing

    if not torch.cuda.is_available():
        return Finding("GPU", False, "none that torch can use", "")
    name = torch.cuda.get_device_name()
    if missing():
        return Finding("GPU", False, f"{name}, but no CuPy", "pip install 'bitspin[cuda13]'")
    import cupy

    from kernels.cuda_launch import architecture
    from kernels.cuda_matmul import default_path

    both = [f"cupy-cuda{major}x" for major in (12, 13)]
    if all(map(_version, both)):
        remedy = f"pip uninstall {both[0]}, or {both[1]}: they overwrite each other"
        return Finding("GPU", False, f"{name}, but two CuPys", remedy)
    driver, minor = divmod(cupy.cuda.runtime.driverGetVersion(), 1000)
    capability = torch.cuda.get_device_capability()
    paths = ", ".join(f"{m} rows {default_path(capability, m)}" for m in (1, 4096))
    detail = (
        f"{name}, {architecture(capability)}, driver for CUDA {driver}.{minor // 10}, "
        f"CuPy {cupy.__version__}; products: {paths}"
    )
    return Finding("GPU", True, detail)


def _cuda_compiler() -> Finding:
    """What compiles the CUDA kernels, with a GPU or without."""
    from kernels.cuda_compile import nvrtc_version
    from kernels.errors import BackendUnavailable

    try:
        version_number = ".".join(map(str, nvrtc_version()))
    except BackendUnavailable as error:
        return Finding("CUDA compiler", False, str(error), "pip install 'bitspin[cuda13]'")
    return Finding("CUDA compiler", True, f"NVRTC {version_number}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _data() -> Finding:
    from workers.datasets import catalogue

    found = [record.name for record in catalogue() if record.present_at]
    missing = [record.name for record in catalogue() if not record.present_at]
    remedy = f"bitspin data get {missing[0]}" if missing else ""
    return Finding("data", not missing, ", ".join(found), remedy)


EXAMINATIONS: tuple[Callable[[], Finding], ...] = (
    _python,
    _torch,
    _versions,
    _home,
    _backend,
    _host_runtime,
    _arm_runtime,
    _emulator,
    _second_emulator,
    _cycle_model,
    _cuda,
    _cuda_compiler,
    _data,
)

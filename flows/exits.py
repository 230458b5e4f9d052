"""Exit codes and the one line that goes with them (conventions, section 6)."""

import errno
import sys
import tempfile
import traceback
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from workers.storage import Json


class ExitCode(IntEnum):
    """What a script that calls ``bitspin`` can rely on."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    MISMATCH = 3
    INTERRUPTED = 130


class VerificationError(RuntimeError):
    """A runtime did not return the integer network's integers."""


def raise_on_mismatch(result: "dict[str, Json]") -> None:
    """Fail a run whose binaries do not return the integer network's integers.

    Raises
    ------
    VerificationError
        If there is a mismatch on the host or on ARM.
    """
    verify = result.get("verify")
    if not isinstance(verify, dict):
        raise VerificationError("result: expected a verify section, got none")
    for place in ("host", "arm"):
        n, n_images = verify.get(f"{place}_mismatches"), verify.get(f"{place}_images")
        if n != 0:
            raise VerificationError(
                f"verification: expected the {place} runtime to equal the integer network, "
                f"got {n} different outputs on {n_images} images"
            )


_UsageError: Final = typer.BadParameter.__mro__[1]
"""What click raises; typer may have a copy of click of its own."""
_STORAGE_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT)


def exit_code_of(error: BaseException) -> ExitCode:
    """Print one line for ``error`` and return the exit code; unknown errors leave a log file."""
    if isinstance(error, _UsageError):
        return _explain_usage(error)
    code = _classify(error)
    if code is ExitCode.INTERRUPTED:
        _say("interrupted")
        return code
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        line = (
            f"run directory: expected to write, got: {error.strerror}; make room or set "
            "BITSPIN_HOME, then go on with bitspin resume latest"
        )
    if code is ExitCode.FAILED:
        with tempfile.NamedTemporaryFile(
            "w", prefix="bitspin-", suffix=".log", delete=False
        ) as log:
            traceback.print_exception(error, file=log)
        line = f"{type(error).__name__}: {line} (the whole story: {Path(log.name)})"
    _say(line)
    return code


def _explain_usage(error: Any) -> ExitCode:
    """One line for an option or argument that was refused; without any, the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return ExitCode.BAD_INPUT
    line = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "bitspin"
    _say(f"{line[:1].lower()}{line[1:]}; see {command} -h")
    return ExitCode.BAD_INPUT


def _say(line: str) -> None:
    sys.stderr.write(f"bitspin: {line}\n")


def _classify(error: BaseException) -> ExitCode:
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, VerificationError):
        return ExitCode.MISMATCH
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        return ExitCode.BAD_INPUT
    return ExitCode.BAD_INPUT if isinstance(error, _input_errors()) else ExitCode.FAILED


def _input_errors() -> tuple[type[BaseException], ...]:
    """Errors that say what the user can change; imported late, they are needed only now."""
    from flows.config_file import ConfigError
    from flows.runs import RunError
    from kernels.errors import BackendUnavailable, ModelFormatError
    from workers.datasets import DataError
    from workers.runtime import ClusterError

    return (ConfigError, RunError, DataError, ModelFormatError, BackendUnavailable, ClusterError)

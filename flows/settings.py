"""Environment of Prefect and of everything it starts; set before prefect is imported.

What the user has set stays. The defaults keep the embedded server inside the runs directory, send
nothing out, and give a loaded machine time to start.
"""

import os
from contextlib import suppress
from pathlib import Path

_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The terminal belongs to the progress display, and the caller says what failed; the API gets
    # every line.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def home() -> Path:
    """Directory that holds ``runs/``: ``BITSPIN_HOME``, or the current directory."""
    return Path(os.environ.get("BITSPIN_HOME") or ".").absolute()


def runs_directory() -> Path:
    """Directory of all runs."""
    return home() / "runs"


def set_prefect_environment() -> None:
    """Fill in what the user has not set. Must run before the first import of prefect."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ and "PREFECT_HOME" not in os.environ:
        os.environ["PREFECT_HOME"] = str(runs_directory() / ".prefect")
        with suppress(OSError):  # prefect makes the last folder itself, and complains if it cannot
            runs_directory().mkdir(parents=True, exist_ok=True)

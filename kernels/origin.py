"""Checks that the five packages of this distribution come from one place.

Other distributions also install packages called ``kernels`` or ``bnn``; mixed with ours they
would fail in obscure ways, so the import fails in a clear one.
"""

from pathlib import Path

_ROOMS = ("bnn", "rbm", "workers", "flows")


def check_origin(package: Path) -> None:
    """Check that ``package``, the folder of ``kernels``, is ours and lies beside the other rooms.

    Raises
    ------
    ImportError
        If it does not; the message says what to do.
    """
    missing = [room for room in _ROOMS if not (package.parent / room).is_dir()]
    if not (package / "layout.py").is_file() or missing:
        raise ImportError(
            f"kernels: expected bitspin's package beside {', '.join(_ROOMS)}, got {package}; "
            "another distribution is in the way, install bitspin into an environment of its own"
        )

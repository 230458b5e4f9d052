"""Downloads into the cache: one process at a time, verified before a file gets its name.

A file is streamed to a temporary name in the cache directory, cut off at the size the manifest
promises, hashed, synced and renamed; whoever finds a file under its own name finds a whole one.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.image_data import DataError, DataUnavailable, HostsUnreachable
from workers.manifest import DatasetEntry, FileEntry
from workers.payloads import find_file, has_valid_stamp, verified_payload, write_stamp
from workers.transfer import (
    HostFailure,
    MirrorFailure,
    Network,
    TransientFailure,
    check_reachable,
    stream,
)

_log = logging.getLogger(__name__)


def cache_directory(entry: DatasetEntry) -> Path:
    """Return the place of a data set in the cache, which may not exist yet.

    ``$XDG_CACHE_HOME/bitspin/datasets/NAME/VERSION``, by default below ``~/.cache``.
    """
    import platformdirs

    return platformdirs.user_cache_path("bitspin") / "datasets" / entry.name / entry.version


def fill_cache(entry: DatasetEntry, directory: Path, network: Network | None = None) -> list[str]:
    """Download what is missing in ``directory`` and verify what is there.

    Parameters
    ----------
    entry
        The data set.
    directory
        Cache directory; made if it does not exist.
    network
        Time limits and retries.

    Returns
    -------
    list
        The addresses used, empty if nothing was missing.

    Raises
    ------
    HostsUnreachable
        If no host of a missing file could be reached.
    DataUnavailable
        If a missing file could not be downloaded, or the directory cannot be written.
    DataError
        If a file that is already there is corrupt.
    """
    network = network or Network()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory, network.lock_seconds):
            for leftover in directory.glob("*.part"):  # of a process that was killed
                leftover.unlink()
            urls = [_ensure_file(file, directory, network) for file in entry.files]
    except OSError as error:
        raise DataUnavailable(
            f"the cache {directory} could not be written ({error.strerror or error})"
        ) from error
    return [url for url in urls if url]


@contextmanager
def _locked(directory: Path, seconds: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(directory / ".lock", timeout=seconds):
            yield
    except Timeout as error:
        raise DataUnavailable(
            f"another process held {directory / '.lock'} for {seconds:g} s"
        ) from error


def _ensure_file(file: FileEntry, directory: Path, network: Network) -> str:
    """Return the address that the file was downloaded from, empty if it was there."""
    path = find_file(directory, file)
    if path is None:
        return _download(file, directory, network)
    if not has_valid_stamp(path, file):
        verified_payload(path, file)
        write_stamp(path, file)
    return ""


def _download(file: FileEntry, directory: Path, network: Network) -> str:
    failures: list[MirrorFailure] = []
    for url in file.urls:
        try:
            _download_from(url, file, directory, network)
        except MirrorFailure as failure:
            _log.info("%s: %s", url, failure)
            failures.append(failure)
        else:
            return url
    tried = "; ".join(str(failure) for failure in failures) or "no address is known"
    no_host = bool(failures) and all(isinstance(failure, HostFailure) for failure in failures)
    kind = HostsUnreachable if no_host else DataUnavailable
    raise kind(f"{file.name} could not be downloaded ({tried})")


def _download_from(url: str, file: FileEntry, directory: Path, network: Network) -> None:
    n_attempts = 1 + network.n_retries
    for attempt in range(1, n_attempts + 1):
        try:
            _attempt(url, file, directory, network)
        except TransientFailure as failure:
            if attempt == n_attempts:
                raise MirrorFailure(f"{failure}, {n_attempts} attempts") from failure
        else:
            return


def _attempt(url: str, file: FileEntry, directory: Path, network: Network) -> None:
    check_reachable(url, network.connect_seconds)
    handle, name = tempfile.mkstemp(dir=directory, prefix=f"{file.name}.", suffix=".part")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            found = stream(url, file, out, network)
            out.flush()
            os.fsync(out.fileno())
        if file.download_sha256 and found != file.download_sha256:
            raise MirrorFailure(f"{url} sent sha256 {found}, expected {file.download_sha256}")
        try:
            verified_payload(draft, file, origin=url)
        except DataError as error:
            raise MirrorFailure(str(error)) from error
        path = directory / (f"{file.name}.gz" if url.endswith(".gz") else file.name)
        os.replace(draft, path)
        write_stamp(path, file)
    finally:
        draft.unlink(missing_ok=True)

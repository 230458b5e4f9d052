"""One transfer over HTTP: reach the host, follow redirects, copy at most the expected bytes."""

import hashlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from workers.manifest import FileEntry

if TYPE_CHECKING:
    import requests

_CHUNK_BYTES = 1 << 16
_MAX_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Patience with the network."""

    connect_seconds: float = 5.0
    """Time to reach a host; short, because a machine without a network must not wait."""
    read_seconds: float = 20.0
    """Longest silence of a server that has answered."""
    file_seconds: float = 1800.0
    """Longest time for one file: ends a server that sends a byte now and then."""
    n_retries: int = 2
    """Further attempts at an address after a silence, a cut-off body or a server error."""
    lock_seconds: float = 1800.0
    """Longest wait for another process that downloads the same data set."""


class MirrorFailure(Exception):
    """An address did not give the file; the next one is tried."""


class HostFailure(MirrorFailure):
    """The host of an address could not be reached."""


class TransientFailure(MirrorFailure):
    """The same address may succeed at the next attempt."""


def check_reachable(url: str, seconds: float) -> None:
    """Open and close a connection within ``seconds`` in all.

    requests applies its limit to each address of a host in turn; popular hosts have a dozen, and a
    firewall that drops packets would hold a machine for a minute.
    """
    from requests.utils import get_environ_proxies

    if get_environ_proxies(url):  # a proxy resolves and connects in our place
        return
    parts = urlsplit(url)
    host = parts.hostname or ""
    deadline = time.monotonic() + seconds
    try:
        addresses = socket.getaddrinfo(
            host, parts.port or _PORTS[parts.scheme], type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise HostFailure(f"{host} could not be resolved: {error.strerror}") from error
    cause = "no answer"
    for family, kind, protocol, _, address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            with socket.socket(family, kind, protocol) as connection:
                connection.settimeout(min(left, seconds / 2))
                connection.connect(address)
                return
        except OSError as error:
            cause = error.strerror or "no answer"
    raise HostFailure(f"{host} could not be reached within {seconds:g} s: {cause}")


def stream(url: str, file: FileEntry, out: BinaryIO, network: Network) -> str:
    """Copy the body to ``out`` and return its SHA-256."""
    import requests

    # Identity: a server or a library that unpacks .gz on the way would change the bytes.
    headers = {"Accept-Encoding": "identity"}
    try:
        with requests.Session() as session:
            session.headers.update(headers)
            with _open(session, url, network) as response:
                return _copy(response, url, file, out, network.file_seconds)
    except (requests.ConnectTimeout, requests.exceptions.ProxyError) as error:
        raise HostFailure(f"{url} could not be reached: {type(error).__name__}") from error
    except requests.exceptions.SSLError as error:
        raise MirrorFailure(f"{url} has no trusted certificate") from error
    except requests.RequestException as error:
        raise TransientFailure(f"{url} broke off: {type(error).__name__}") from error


def _open(session: "requests.Session", url: str, network: Network) -> "requests.Response":
    """Follow redirects, never to another scheme, up to an answer of 200."""
    scheme = urlsplit(url).scheme
    target = url
    timeout = (network.connect_seconds, network.read_seconds)
    for _ in range(1 + _MAX_REDIRECTS):
        response = session.get(target, stream=True, timeout=timeout, allow_redirects=False)
        if response.status_code == 200:
            return response
        response.close()
        if not response.is_redirect:
            kind = TransientFailure if response.status_code >= 500 else MirrorFailure
            raise kind(f"{url} answered {response.status_code}")
        target = urljoin(target, response.headers["location"])
        if urlsplit(target).scheme != scheme:
            raise MirrorFailure(f"{url} redirects to another scheme: {target}")
    raise MirrorFailure(f"{url} redirects more than {_MAX_REDIRECTS} times")


def _copy(
    response: "requests.Response", url: str, file: FileEntry, out: BinaryIO, seconds: float
) -> str:
    digest = hashlib.sha256()
    n_received = 0
    deadline = time.monotonic() + seconds
    for chunk in response.iter_content(_CHUNK_BYTES):
        n_received += len(chunk)
        if n_received > file.download_bytes:
            raise MirrorFailure(f"{url} sent more than the {file.download_bytes} bytes expected")
        if time.monotonic() > deadline:
            raise MirrorFailure(f"{url} took longer than {seconds:g} s")
        digest.update(chunk)
        out.write(chunk)
    if n_received < file.download_bytes:
        raise TransientFailure(f"{url} sent {n_received} of {file.download_bytes} bytes")
    return digest.hexdigest()

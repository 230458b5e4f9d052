import gzip
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers.downloads import cache_directory, fill_cache
from workers.image_data import DataError, DataUnavailable, HostsUnreachable
from workers.manifest import DatasetEntry, FileEntry
from workers.transfer import Network

PAYLOAD = bytes(range(256)) * 64
BODY = gzip.compress(PAYLOAD, mtime=0)
OTHER_BODY = gzip.compress(PAYLOAD[::-1], mtime=0)
QUICK = Network(connect_seconds=2.0, read_seconds=0.2, lock_seconds=0.2)
PATIENT = Network(connect_seconds=10.0, read_seconds=10.0, lock_seconds=30.0)
Route = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers each path by the function in ``routes`` and lists the paths asked for."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.routes[self.path](self)

    def log_message(self, *_: object) -> None:
        pass


def answer(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Route:
    def route(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return route


def hang(handler: BaseHTTPRequestHandler) -> None:
    assert isinstance(handler.server, Server)
    handler.server.closing.wait(30)


def without_length(body: bytes) -> Route:
    def route(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except ConnectionError:  # the client is right to hang up
            pass

    return route


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def entry_of(*urls: str, **changes: object) -> DatasetEntry:
    file = FileEntry(
        role="rows",
        name="rows.bin",
        payload_bytes=len(PAYLOAD),
        payload_sha256=hashlib.sha256(PAYLOAD).hexdigest(),
        download_bytes=len(BODY),
        download_sha256=hashlib.sha256(BODY).hexdigest(),
        urls=urls,
    )
    return DatasetEntry(
        name="tiny", title="Tiny", version="1", format="idx", licence="CC0", redistributable=True,
        citation="none", package="", split="none", n_train=1, n_test=1, image_shape=(1, 1, 1),
        label_names=("a",), files=(replace(file, **changes),),  # type: ignore[arg-type]
    )  # fmt: skip


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def test_a_good_file_is_stored_with_a_stamp(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = answer(BODY)
    url = f"{server.address}/rows.bin.gz"
    cache = tmp_path / "a" / "b"
    assert fill_cache(entry_of(url), cache, PATIENT) == [url]
    assert (cache / "rows.bin.gz").read_bytes() == BODY
    assert names_in(cache) == ["rows.bin.gz", "rows.bin.gz.stamp"]
    assert fill_cache(entry_of(url), cache, PATIENT) == []
    assert server.asked == ["/rows.bin.gz"]


def test_a_packed_body_is_not_unpacked_on_the_way(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = answer(BODY)
    accepted: list[str] = []

    def route(handler: BaseHTTPRequestHandler) -> None:
        accepted.append(handler.headers["Accept-Encoding"])
        answer(BODY)(handler)

    server.routes["/rows.bin.gz"] = route
    fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
    assert accepted == ["identity"]


def test_wrong_transport_hash_keeps_nothing(server: Server, tmp_path: Path) -> None:
    wrong = BODY[:4] + b"\1" + BODY[5:]  # only the time in the gzip header: the payload is right
    server.routes["/rows.bin.gz"] = answer(wrong)
    url = f"{server.address}/rows.bin.gz"
    with pytest.raises(DataUnavailable) as caught:
        fill_cache(entry_of(url), tmp_path, PATIENT)
    message = str(caught.value)
    for part in (url, hashlib.sha256(BODY).hexdigest(), hashlib.sha256(wrong).hexdigest()):
        assert part in message
    assert names_in(tmp_path) == []
    assert len(server.asked) == 1  # the same bytes would come again
    fill_cache(entry_of(url, download_sha256=""), tmp_path, PATIENT)  # hash of the address unknown
    assert names_in(tmp_path) == ["rows.bin.gz", "rows.bin.gz.stamp"]


def test_wrong_payload_hash_keeps_nothing(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = answer(OTHER_BODY)
    url = f"{server.address}/rows.bin.gz"
    entry = entry_of(url, download_sha256="", download_bytes=len(OTHER_BODY))
    with pytest.raises(DataUnavailable) as caught:
        fill_cache(entry, tmp_path, PATIENT)
    message = str(caught.value)
    for data in (PAYLOAD, PAYLOAD[::-1]):
        assert hashlib.sha256(data).hexdigest() in message
    assert url in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("promised", [len(BODY), len(BODY) - 7])
def test_a_cut_off_body_is_tried_again_then_refused(
    server: Server, tmp_path: Path, promised: int
) -> None:
    server.routes["/rows.bin.gz"] = answer(BODY[:-7], length=promised)
    with pytest.raises(DataUnavailable, match="3 attempts"):
        fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
    assert names_in(tmp_path) == []
    assert len(server.asked) == 3


def test_a_second_attempt_may_succeed(server: Server, tmp_path: Path) -> None:
    routes = iter([answer(b"", status=503), answer(BODY[:50], length=len(BODY)), answer(BODY)])
    server.routes["/rows.bin.gz"] = lambda handler: next(routes)(handler)
    fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
    assert (tmp_path / "rows.bin.gz").read_bytes() == BODY


def test_an_oversize_body_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = without_length(BODY + bytes(1 << 22))
    with pytest.raises(DataUnavailable, match=f"sent more than the {len(BODY)} bytes"):
        fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
    assert names_in(tmp_path) == []


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = hang
    with pytest.raises(DataUnavailable, match=r"broke off: ReadTimeout, 3 attempts"):
        fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, QUICK)
    assert names_in(tmp_path) == []


def test_a_transfer_that_takes_too_long_is_given_up(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = answer(BODY)
    network = replace(PATIENT, file_seconds=-1.0)
    with pytest.raises(DataUnavailable, match="took longer"):
        fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, network)


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    server.routes["/gone.gz"] = answer(b"no", status=404)
    server.routes["/wrong.gz"] = answer(OTHER_BODY)
    server.routes["/good.gz"] = answer(BODY)
    urls = [f"{server.address}/{name}.gz" for name in ("gone", "wrong", "good")]
    assert fill_cache(entry_of(*urls), tmp_path, PATIENT) == [urls[2]]
    assert server.asked == ["/gone.gz", "/wrong.gz", "/good.gz"]


def test_redirects_keep_their_scheme(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = answer(b"", status=302, Location="/there.gz")
    server.routes["/there.gz"] = answer(BODY)
    server.routes["/bad.gz"] = answer(b"", status=302, Location="ftp://127.0.0.1/rows.bin.gz")
    server.routes["/loop.gz"] = answer(b"", status=301, Location="/loop.gz")
    fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path / "good", PATIENT)
    assert (tmp_path / "good" / "rows.bin.gz").read_bytes() == BODY
    with pytest.raises(DataUnavailable, match="another scheme: ftp"):
        fill_cache(entry_of(f"{server.address}/bad.gz"), tmp_path / "bad", PATIENT)
    with pytest.raises(DataUnavailable, match="redirects more than 5 times"):
        fill_cache(entry_of(f"{server.address}/loop.gz"), tmp_path / "bad", PATIENT)


def test_unreachable_hosts_are_told_apart(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/rows.bin.gz"
        with pytest.raises(HostsUnreachable, match=r"127\.0\.0\.1 could not be reached"):
            fill_cache(entry_of(closed), tmp_path, PATIENT)
        server.routes["/rows.bin.gz"] = answer(b"", status=404)
        with pytest.raises(DataUnavailable) as caught:
            fill_cache(entry_of(closed, f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
        assert not isinstance(caught.value, HostsUnreachable)
        assert "answered 404" in str(caught.value)


def test_an_unknown_host_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def resolve(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(HostsUnreachable, match=r"host\.invalid could not be resolved"):
        fill_cache(entry_of("https://host.invalid/rows.bin.gz"), tmp_path, PATIENT)
    assert asked == ["host.invalid"]  # no retries: it would only take time


def test_a_corrupt_file_in_the_cache_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.bin.gz").write_bytes(OTHER_BODY)
    with pytest.raises(DataError, match="expected payload sha256") as caught:
        fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
    assert not isinstance(caught.value, DataUnavailable)
    assert server.asked == []


def test_leftovers_of_a_killed_process_are_removed(server: Server, tmp_path: Path) -> None:
    server.routes["/rows.bin.gz"] = answer(BODY)
    (tmp_path / "rows.bin.abc.part").write_bytes(b"half")
    fill_cache(entry_of(f"{server.address}/rows.bin.gz"), tmp_path, PATIENT)
    assert names_in(tmp_path) == ["rows.bin.gz", "rows.bin.gz.stamp"]


def test_a_lock_that_is_never_released_is_named(tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(DataUnavailable, match=r"another process held .*\.lock"),
    ):
        fill_cache(entry_of("http://127.0.0.1:1/x.gz"), tmp_path, QUICK)


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnavailable, match=r"cache .*tiny could not be written"):
        fill_cache(entry_of("http://127.0.0.1:1/x.gz"), tmp_path / "file" / "tiny", QUICK)


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    both_are_up = threading.Barrier(3, timeout=60)

    def ready(handler: BaseHTTPRequestHandler) -> None:
        both_are_up.wait()
        answer(b"")(handler)

    server.routes["/ready"] = ready
    server.routes["/rows.bin.gz"] = answer(BODY)
    entry = entry_of(f"{server.address}/rows.bin.gz")
    script = f"""
import urllib.request
from pathlib import Path
from workers.downloads import fill_cache
from workers.manifest import DatasetEntry, FileEntry
import requests, filelock
urllib.request.urlopen({server.address + "/ready"!r}).read()
print(len(fill_cache({entry!r}, Path({str(tmp_path)!r}))))
"""
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    both_are_up.wait()
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sorted(counts) == [0, 1]
    assert server.asked.count("/rows.bin.gz") == 1
    assert (tmp_path / "rows.bin.gz").read_bytes() == BODY


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory(entry_of()) == tmp_path / "bitspin" / "datasets" / "tiny" / "1"

import socket
import time

import pytest

from workers.runtime import ClusterConfig, ClusterError, check_reachable, split_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [("head:6379", ("head", 6379)), ("ray://10.0.0.1:10001", ("10.0.0.1", 10001))],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["auto", "head", "http://head:1", "head:port", ":6379", ""])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected local, host:port or ray://host:port"):
        ClusterConfig(address=address)


def test_counts_are_checked() -> None:
    with pytest.raises(ValueError, match="n_workers: expected at least 1, got 0"):
        ClusterConfig(n_workers=0)
    with pytest.raises(ValueError, match="n_cpus: expected at least 1, got 0"):
        ClusterConfig(n_cpus=0)


def test_a_local_cluster_is_always_reachable() -> None:
    check_reachable(ClusterConfig())


def test_a_closed_port_is_one_clear_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{port}.*refused.*leave --ray-address"):
        check_reachable(ClusterConfig(address=f"127.0.0.1:{port}"))


def test_a_port_that_is_not_rays_fails_within_the_promised_30_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.runtime._PROBE_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(ClusterError, match=r"no answer to a join|expected to join"):
            check_reachable(ClusterConfig(address=f"127.0.0.1:{port}"))
        assert time.monotonic() - started < 30

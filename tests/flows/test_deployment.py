"""A canary: the pinned server really schedules the pipeline, and knows its parameters.

Some versions of fastapi and sqlalchemy break this without a word; nothing weaker notices.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.prefect

START_SECONDS = 120
SCHEDULE_SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [Path(sys.executable).with_name("prefect"), "server", "start", "--port", str(port)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_for(lambda: is_healthy(url), START_SECONDS, "the server did not start")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition, seconds: float, message: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.2)


def test_a_nightly_pipeline_is_scheduled_with_a_typed_form(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSPIN_HOME", str(tmp_path))
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.pipeline import pipeline

    with temporary_settings({PREFECT_API_URL: server}):
        deployment = pipeline.to_deployment(
            name="nightly", cron="0 3 * * *", parameters={"config": {"data": {"name": "digits"}}}
        )
        identifier = deployment.apply()
    stored = httpx.get(f"{server}/deployments/{identifier}").json()
    schema = stored["parameter_openapi_schema"]
    classifier = schema["definitions"]["ClassifierConfig"]["properties"]
    assert classifier["n_shards"]["type"] == "integer"
    assert classifier["widths"]["description"].startswith("Output channels of the stages")
    assert schema["definitions"]["RunConfig"]["additionalProperties"] is False

    def is_scheduled() -> bool:
        runs = httpx.post(
            f"{server}/flow_runs/filter",
            json={"flow_runs": {"deployment_id": {"any_": [str(identifier)]}}},
        ).json()
        return [run for run in runs if run["state_type"] == "SCHEDULED"] != []

    wait_for(is_scheduled, SCHEDULE_SECONDS, "the server's scheduler makes no runs")

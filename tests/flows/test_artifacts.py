import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.artifacts import MAX_URI_LENGTH, TABLE_KEYS, overview, publish_artifacts, table_rows
from flows.pictures import draw_pictures
from flows.report import data_uri, write_report


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """An embedded server on a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    settings = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, os.environ.get(name, value))
        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture
def run_dir(sample_result: dict[str, Any], sample_arrays: dict[str, Any], tmp_path: Path) -> Path:
    pictures = draw_pictures(sample_result, sample_arrays, tmp_path)
    sample_result["pictures"] = [asdict(picture) for picture in pictures]
    write_report(sample_result, tmp_path)
    return tmp_path


@pytest.mark.prefect
def test_artifacts_of_a_run_are_in_prefect(
    prefect_server: None, sample_result: dict[str, Any], run_dir: Path
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    @flow(name="publish")
    def publish() -> str:
        publish_artifacts(sample_result, run_dir)
        return str(flow_run.id)

    run_id = publish()
    with get_client(sync_client=True) as client:
        response = client.request("POST", "/artifacts/filter", json={})
    artifacts = {artifact["key"]: artifact for artifact in response.json()}
    assert set(artifacts) == {"report", "overview", "report-file", *TABLE_KEYS}
    assert {artifact["flow_run_id"] for artifact in artifacts.values()} == {run_id}
    assert {key: artifact["type"] for key, artifact in artifacts.items()} == {
        "report": "markdown",
        "overview": "image",
        "report-file": "markdown",
        **dict.fromkeys(TABLE_KEYS, "table"),
    }
    assert "| BNN test accuracy | **90.53 ± 0.29 %** |" in artifacts["report"]["data"]
    assert ".png" not in artifacts["report"]["data"]
    assert json.loads(artifacts["accuracy"]["data"])[0]["figure"] == "90.53 ± 0.29 %"
    assert json.loads(artifacts["verification"]["data"])[0]["figure"] == "0 mismatches"
    assert artifacts["overview"]["data"].startswith("data:image/png;base64,")
    assert len(artifacts["overview"]["data"]) <= MAX_URI_LENGTH
    assert (run_dir / "report.html").resolve().as_uri() in artifacts["report-file"]["data"]


def test_overview_is_small_and_shows_every_picture(
    sample_result: dict[str, Any], run_dir: Path
) -> None:
    files = [run_dir / picture["file"] for picture in sample_result["pictures"]]
    png = overview(files)
    assert png == overview(files)
    assert len(data_uri(png)) <= MAX_URI_LENGTH
    (run_dir / "overview.png").write_bytes(png)
    with Image.open(run_dir / "overview.png") as sheet:
        shown = np.asarray(sheet.convert("RGB"), dtype=np.int64)
    assert shown.shape[1] >= 2 * 240
    # Hues that few pixels have survive the reduction of colours: red of filters, blue of lines.
    assert (shown[..., 0] - shown[..., 2]).max() > 80
    assert (shown[..., 2] - shown[..., 0]).max() > 80


def test_noise_is_made_smaller_until_it_fits(tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(data_uri(overview([tmp_path / "noise.png"]))) <= MAX_URI_LENGTH
    with pytest.raises(ValueError, match=r"files: expected pictures that fit 40000 characters"):
        overview([tmp_path / "noise.png"] * 14)


def test_overview_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        overview([])


def test_tables_hold_the_readings(sample_result: dict[str, Any]) -> None:
    assert table_rows(sample_result, "verification")[1] == {
        "what": "ARM runtime (aarch64-linux)",
        "figure": "0 mismatches",
        "beside it": "equal to torch, bit for bit; 256 images; run by unicorn 2.1.4",
    }

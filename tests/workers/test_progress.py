from pathlib import Path

from workers.progress import ProgressLog, ProgressReader, read_progress


def test_events_come_back_in_order_of_step(tmp_path: Path) -> None:
    path = tmp_path / "progress" / "part.jsonl"
    assert read_progress(path) == []
    log = ProgressLog(path)
    log.report(2, 4, {"loss": 0.5})
    log.report(4, 4, {"loss": 0.25})
    assert [event["loss"] for event in read_progress(path)] == [0.5, 0.25]


def test_a_repeated_step_counts_once_and_a_torn_line_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl"
    log = ProgressLog(path)
    log.report(1, 3, {"loss": 3.0})
    log.report(2, 3, {"loss": 2.0})
    with path.open("a") as stream:
        stream.write('{"step": 3, "n_st')  # killed while writing
    ProgressLog(path).report(2, 3, {"loss": 2.5})
    events = read_progress(path)
    assert [(event["step"], event["loss"]) for event in events] == [(1, 3.0), (2, 2.5)]


def test_the_reader_sees_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl"
    reader = ProgressReader(path)
    assert reader.latest() is None
    ProgressLog(path).report(1, 2, {"loss": 1.0})
    first = reader.latest()
    assert first == {"step": 1, "n_steps": 2, "loss": 1.0}
    assert reader.latest() is first
    ProgressLog(path).report(2, 2, {"loss": 0.5})
    latest = reader.latest()
    assert latest is not None
    assert latest["step"] == 2

"""What a run tells machines: a file for Prometheus, and a JSON line per event that names documents, never texts."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from m3core.errors import ConfigError, StoreError
from m3core.logs import log_as_asked
from pipelines.ingest.exposition import exposition, last_success
from pipelines.ingest.report import DocumentCounts, IngestReport
from pipelines.state.runs import RunFolder
from tests.pipelines import fake_encoder
from tests.pipelines.ingest.outage import TWO, Switchboard
from tests.pipelines.ingest.projects import Project
from tests.tiny import HIDDEN, MULTI_DIM


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_encoder.install(monkeypatch, HIDDEN, MULTI_DIM)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What M3_LOG=json would write to stderr."""
    names = ("m3", "m3.run", "pipelines", "connectors", "m3core")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in names}
    monkeypatch.setenv("M3_LOG", "json")
    written = io.StringIO()
    assert log_as_asked(written)
    yield written
    for name, (handlers, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(logging.NOTSET)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values but the collection's -> value, as Prometheus' own parser reads them."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "collection")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_run_leaves_its_counts_for_prometheus(project: Project, tmp_path: Path) -> None:
    project.settings["ingest"] = {"metrics_file": "notes.prom", "min_free_bytes": 1 << 20}
    project.write_many(3)
    project.write("empty.md", "")
    report = project.ingest()
    text = (tmp_path / "notes.prom").read_text()
    found = samples(text)
    assert found["m3_run_number",] == 1
    assert found["m3_run_documents", "added"] == 3
    assert found["m3_run_documents", "failed"] == 1
    assert found["m3_run_tokens", "model"] == report.tokens_encoded > 0
    assert found["m3_store_up", "main"] == 1
    assert found["m3_run_success_timestamp_seconds",] == found["m3_run_end_timestamp_seconds",]
    assert (tmp_path / "notes.prom").stat().st_mode & 0o777 == 0o644
    own = RunFolder(project.paths, 1).path / "metrics.prom"
    assert samples(own.read_text())["m3_run_documents", "added"] == 3


def test_a_failed_run_is_in_the_file_and_keeps_the_last_success(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.settings |= {"stores": TWO, "ingest": {"metrics_file": "notes.prom", "min_free_bytes": 1 << 20}}
    project.write_many(2)
    project.ingest()
    ended = last_success(tmp_path / "notes.prom")
    assert ended is not None
    board = Switchboard.install(monkeypatch)
    board.down = {"main", "words"}
    project.write_many(4)
    with pytest.raises(StoreError):
        project.ingest()
    found = samples((tmp_path / "notes.prom").read_text())
    assert (found["m3_run_number",], found["m3_run_exit_code",]) == (2, 7)
    assert found["m3_run_success_timestamp_seconds",] == pytest.approx(ended)
    assert found["m3_run_end_timestamp_seconds",] > ended


def test_names_are_escaped() -> None:
    report = IngestReport('a"b\\c\nd', 1, 1, DocumentCounts(), 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0, "anonymous", 0)  # type: ignore[arg-type]
    labels = {
        sample.labels["collection"]
        for family in text_string_to_metric_families(exposition(report, now=1.0, exit_code=0))
        for sample in family.samples
    }
    assert labels == {'a"b\\c\nd'}


def test_a_file_without_a_success_says_so(tmp_path: Path) -> None:
    assert last_success(tmp_path / "none") is None
    (tmp_path / "other").write_text("m3_run_number 1\n")
    assert last_success(tmp_path / "other") is None


def test_events_name_run_and_documents_and_no_text(project: Project, lines: io.StringIO) -> None:
    project.write_many(2)
    project.write("empty.md", "")
    project.write("bad.md", b"\xff\xfe secret-canary")
    project.ingest()
    written = lines.getvalue()
    events = [json.loads(line) for line in written.splitlines()]
    assert all({"time", "level", "logger", "message"} <= event.keys() for event in events)
    run = [event for event in events if event["logger"] == "m3.run"]
    assert all((event["run"], event["collection"]) == (1, "notes") for event in run)
    told = [event["message"] for event in run if event["level"] == "info"]
    assert told == ["run began", "wave committed", "run ended"]
    dead = {event["doc_id"]: event for event in run if event["message"] == "dead letter"}
    assert {"empty.md"} <= dead.keys()
    assert dead["empty.md"]["level"] == "warning"
    assert "canary" not in written
    assert "laboratory" not in written


def test_a_store_that_is_given_up_is_an_event(
    project: Project, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.settings["stores"] = TWO
    project.write_many(2)
    board = Switchboard.install(monkeypatch)
    board.down = {"words"}
    project.ingest()
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    [given_up] = [event for event in events if event["message"] == "store given up"]
    assert (given_up["store"], given_up["code"], given_up["run"]) == ("words", "store", 1)


def test_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3_LOG", "xml")
    with pytest.raises(ConfigError, match="json is the only form"):
        log_as_asked()
    monkeypatch.setenv("M3_LOG", "")
    assert not log_as_asked()

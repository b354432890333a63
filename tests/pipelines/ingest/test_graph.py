"""The graph of a wave: what its steps raise arrives as it was, and what was finished before is committed."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipelines.ingest import graph
from pipelines.ingest.embed import Reference, Work
from pipelines.ingest.graph import EncodeUnit, quiet_beam
from pipelines.ingest.load import Loaded, LoadStep, load
from pipelines.ingest.shared import Here
from tests.pipelines.ingest.projects import EDGE, Project, document


def test_the_error_of_a_step_is_raised_as_it_was_and_finished_documents_stay(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_many(200)
    calls = 0

    def fail_late(reference: Reference, step: LoadStep) -> Loaded:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise ZeroDivisionError("a fault of ours")
        return load(reference, step)

    monkeypatch.setattr(graph, "load", fail_late)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        project.ingest()
    committed = project.records()
    assert 0 < len(committed) < 200
    assert project.manifest_ids() == project.rows().keys()

    monkeypatch.undo()
    assert project.ingest().documents.added == 200 - len(committed)
    project.check_agreement()


def test_a_reader_sees_the_last_snapshot_while_a_run_works(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest()
    before = project.rows()
    project.write("d001.md", document(77))
    seen: list[dict[str, int]] = []

    def load_and_look(reference: Reference, step: LoadStep) -> Loaded:
        loaded = load(reference, step)
        seen.append(project.rows())
        return loaded

    monkeypatch.setattr(graph, "load", load_and_look)
    project.ingest()

    assert seen
    assert all(rows == before for rows in seen)
    assert project.rows() != before


def test_the_engine_counts_what_the_encode_step_does(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []

    class Recording(FnApiRunner):
        def run_pipeline(self, *arguments: Any) -> Any:
            results.append(super().run_pipeline(*arguments))
            return results[-1]

    monkeypatch.setattr(graph, "FnApiRunner", Recording)
    project.write_many(3)
    report = project.ingest()
    counted: Counter[str] = Counter()
    for result in results:
        for found in result.metrics().query(MetricsFilter().with_namespace("encode"))["counters"]:
            counted[found.key.metric.name] += found.committed
    assert counted.keys() == Work().counters.keys()
    assert counted["texts"] == report.chunks_written > 0
    assert counted["tokens"] == report.tokens_encoded
    assert counted["encode-msec"] > 0
    assert (counted["truncated"], counted["oom-halvings"]) == (0, 0)


def test_a_step_outside_of_a_run_says_so() -> None:
    with pytest.raises(KeyError):
        EncodeUnit(Here("no run")).setup()
    with pytest.raises(RuntimeError, match="setup"):
        next(EncodeUnit(Here("no run")).process(b""))


@pytest.mark.parametrize(("before", "inside"), [(logging.NOTSET, logging.ERROR), (logging.DEBUG, logging.DEBUG)])
def test_beam_is_quiet_unless_somebody_debugs_it(before: int, inside: int) -> None:
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(before)
    try:
        with quiet_beam():
            assert logger.level == inside
        assert logger.level == before
    finally:
        logger.setLevel(level)

"""A run on a disk that has little room left says so, before and after."""

from __future__ import annotations

import logging

import pytest

from tests.pipelines.ingest.projects import Project

_LITTLE = "7% of the disk of /data is free (9 MiB)"


def test_a_run_warns_when_little_of_the_disk_is_free(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_many(1)
    with caplog.at_level(logging.WARNING, "pipelines.ingest.running"):
        assert not any("of the disk" in note for note in project.ingest().notes)
        assert caplog.messages == []
        monkeypatch.setattr("pipelines.ingest.running.scarce", lambda path: _LITTLE)
        report = project.ingest()
    assert f"{_LITTLE}. Remedy: m3 gc, or a larger disk" in report.notes
    assert caplog.messages == [f"{_LITTLE}; the run stops at 1 MiB. Remedy: m3 gc, or a larger disk"]
    assert report.exit_code == 0

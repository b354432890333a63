"""Workers besides a pool: processes that the TaskManager starts by a command, and threads of the launcher."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode
from tests.flink.samples import Collection, on, stores_in
from tests.pipelines.ingest.projects import document
from tests.servers.flink import FlinkCluster
from tests.servers.running import Servers

pytestmark = [pytest.mark.flink, pytest.mark.xdist_group("flink")]


@pytest.mark.parametrize("environment", ["process", "loopback"])
def test_a_run_on_workers_of_this_kind(
    environment: str, tmp_path: Path, tiny_model: Path, servers: Servers, cluster: FlinkCluster
) -> None:
    (tmp_path / "docs").mkdir()
    for number in range(20):
        (tmp_path / "docs" / f"d{number:03}.md").write_text(document(number))
    worker = tmp_path / "worker"
    root = Path(__file__).parents[2]
    worker.write_text(f'#!/bin/sh\ncd "{root}" && exec "{sys.executable}" -m pipelines.ingest.runners.boot "$@"\n')
    worker.chmod(0o755)
    section: dict[str, Any] = {"environment": environment, "worker": str(worker) if environment == "process" else ""}
    collection = Collection(
        tmp_path,
        {
            "collection": {"name": "notes"},
            "model": {"name": str(tiny_model), "threads": 1},
            "sources": {"docs": {"kind": "folder", "path": "docs", "acl": ["everyone"]}},
            "ingest": {"min_free_bytes": 1 << 20},
            "stores": stores_in(tmp_path, servers),
            "runner": on(cluster, **section),
        },
    )
    report = collection.ingest()
    assert (report.exit_code, report.documents.added) == (ExitCode.OK, 20)
    assert report.tokens_encoded > 0

"""A purge that dies by SIGKILL, in processes of its own: whoever writes next finishes it first."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from m3core.config.model import Config
from pipelines.operate.collection import Place
from pipelines.operate.purge import Named, purge
from tests.pipelines.ingest.ingest_process import signal_at
from tests.pipelines.ingest.projects import EDGE, Project
from tests.pipelines.operate.damage import audited
from tests.pipelines.operate.traces import (
    CANARIES,
    DOC_ID,
    TENANT,
    plain_rows,
    prepare,
    secret_row,
    traces,
)

_SECONDS = 300
_PRELOADED = ("connectors.qdrant.edge.sink", "pipelines.operate.purge", "tests.pipelines.operate.test_purge_killed")

# Where a purge commits something, in its order.
_POINTS = (
    "pipelines.operate.purge:add_event:after:1",
    "pipelines.state.erase.apply:find_victims:after:1",
    "connectors.qdrant.edge.sink:EdgeSink.compact:after:1",
    "connectors.qdrant.edge.sink:EdgeSink.publish:after:1",
    "pipelines.state.manifest:Manifest.append:after:1",
    "pipelines.state.erase.lake:drop_rows:before:1",
    "pipelines.state.lakerewrite:remove_files:before:1",
    "pipelines.state.erase.apply:drop_lake_rows:after:1",
    "pipelines.state.erase.apply:keep_rows:after:1",
    "pipelines.state.erase.apply:erase_records:after:1",
    "pipelines.state.erase.apply:mark_applied:before:1",
)


def _purge(raw_config: dict[str, Any], base: Path, point: str) -> None:
    if point:
        signal_at(f"{point}:SIGKILL")
    purge(Place.of(Config.model_validate(raw_config), base), Named(TENANT, (DOC_ID,)))


def started(project: Project, point: str = "") -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    process = context.Process(target=_purge, args=(project.raw(), project.base, point))
    process.start()
    return process


@pytest.fixture
def secret(project: Project) -> Project:
    prepare(project, [secret_row(), *plain_rows(4)], EDGE)
    project.ingest()
    return project


def check_erased(project: Project, others: dict[str, Any]) -> None:
    """Nothing of it is left, and everything else is as it was."""
    assert traces(project.base / project.config.storage.path, *CANARIES.values()) == []
    records = {name: record.chunk_ids for name, record in project.records().items()}
    assert records == {name: record.chunk_ids for name, record in others.items() if name != DOC_ID}
    project.check_agreement()
    assert audited(project, sample=100).clean


def killed_at(project: Project, point: str) -> None:
    process = started(project, point)
    process.join(_SECONDS)
    assert process.exitcode == -signal.SIGKILL, point


@pytest.mark.slow
def test_killed_again_and_again_it_is_finished_by_the_next_run(secret: Project) -> None:
    others = secret.records()
    for point in (_POINTS[0], _POINTS[3], _POINTS[6], _POINTS[8], _POINTS[10]):
        killed_at(secret, point)
    report = secret.ingest()
    assert (report.tokens_encoded, report.skipped["purged"], report.documents.unchanged) == (0, 1, 4)
    check_erased(secret, others)


@pytest.mark.nightly
@pytest.mark.parametrize("point", _POINTS)
def test_a_kill_at_every_commit(secret: Project, point: str) -> None:
    others = secret.records()
    killed_at(secret, point)
    secret.ingest()
    check_erased(secret, others)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_any_moment(secret: Project, seed: int) -> None:
    others = secret.records()
    chance = random.Random(seed)
    for _ in range(3):
        process = started(secret)
        time.sleep(chance.uniform(0.05, 3))
        process.kill()
        process.join(_SECONDS)
    last = started(secret)
    last.join(_SECONDS)
    assert last.exitcode == 0
    check_erased(secret, others)

"""Runs over Edge, Milvus Lite and real Elasticsearch, killed at random moments.

The next run ends as if nothing had been, and what the lake had is not encoded again.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from m3core.errors import ExitCode
from tests.pipelines.ingest.ingest_process import IngestProcess
from tests.pipelines.ingest.projects import EDGE, Project, document
from tests.pipelines.operate.damage import audited, lake_files, once_in_the_lake
from tests.pipelines.three_stores import three_stores
from tests.servers.running import Servers

pytestmark = [pytest.mark.xdist_group("elasticsearch"), pytest.mark.slow]

_SECONDS = 300
# From the first import to the last commit of an undisturbed run.
_MOMENTS = (0.05, 3.0)


@pytest.fixture
def three(servers: Servers, tmp_path: Path, tiny_model: Path) -> Project:
    """A small collection in three stores, ingested once."""
    project = Project(tmp_path / "three", tiny_model, {"stores": three_stores(servers, tmp_path)})
    project.docs.mkdir(parents=True)
    project.write_many(8)
    assert project.ingest().exit_code is ExitCode.OK
    return project


def change(project: Project, chance: random.Random) -> None:
    """Edits, deletes, a document that cannot be read, and new ones in several waves."""
    there = sorted(path.name for path in project.docs.iterdir())
    for name in chance.sample(there, 3):
        project.write(name, document(chance.randrange(1000), 3))
    for name in chance.sample(there, 2):
        (project.docs / name).unlink()
    for _ in range(30):
        project.write(f"n{chance.randrange(10**6):06}.md", document(chance.randrange(10**6), 6))
    project.write("empty.md", "")


def undisturbed(project: Project, base: Path) -> Project:
    """The same sources in one embedded store, ingested once: chunk ids do not depend on stores."""
    other = Project(base, project.model, {"stores": EDGE})
    shutil.copytree(project.docs, other.docs)
    other.ingest()
    return other


def kill_and_check(project: Project, seed: int, kills: int) -> None:
    """Change the sources, kill that many runs of it, run once more, and look at everything."""
    chance = random.Random(seed)
    change(project, chance)
    for _ in range(kills):
        written = {path: path.stat().st_mtime_ns for path in lake_files(project)}
        started = IngestProcess.start(project.raw(), project.base)
        time.sleep(chance.uniform(*_MOMENTS))
        started.process.kill()
        started.wait(_SECONDS)
        assert written.items() <= {path: path.stat().st_mtime_ns for path in lake_files(project)}.items()
    written = {path: path.stat().st_mtime_ns for path in lake_files(project)}
    assert project.ingest().exit_code in (ExitCode.OK, ExitCode.DEAD_LETTERS)
    assert written.items() <= {path: path.stat().st_mtime_ns for path in lake_files(project)}.items()
    assert once_in_the_lake(project), "a text is in the lake twice: it was encoded twice"
    project.check_agreement()
    assert audited(project).clean
    reference = undisturbed(project, project.base.parent / f"undisturbed-{seed}")
    assert {name: one.chunk_ids for name, one in project.records().items()} == {
        name: one.chunk_ids for name, one in reference.records().items()
    }
    assert project.ingest().documents.unchanged == len(reference.records())


def test_ten_kills_end_like_no_kill(three: Project) -> None:
    for seed in range(2):
        kill_and_check(three, seed, kills=5)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_kills_end_like_no_kill(three: Project, part: int) -> None:
    """`M3_SEED` chooses other moments."""
    first = 1000 * int(os.environ.get("M3_SEED", "1")) + 2 * part
    for seed in (first, first + 1):
        kill_and_check(three, seed, kills=5)

"""What goes wrong around a collection, and what an operator's commands say and do: one row each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.snapshots.chain import SnapshotChain
from m3core.disk import DiskUsage
from pipelines.operate.purge import Named, purge
from pipelines.state.lease import acquire_lease
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, Project
from tests.pipelines.operate.conftest import configured
from tests.pipelines.operate.damage import lake_files, place_of
from tests.pipelines.operate.traces import CANARIES, DOC_ID, TENANT, plain_rows, prepare, secret_row, traces

Prepare = Callable[[Project], AbstractContextManager[object] | None]


@dataclass(frozen=True)
class Condition:
    """A condition, then commands with their exit code and a part of what they say (stdout or stderr)."""

    name: str
    prepare: Prepare
    steps: tuple[tuple[str, int, str], ...]


def storage(project: Project) -> Path:
    return project.base / project.config.storage.path


def embedded(project: Project) -> Path:
    return storage(project) / "stores" / "main" / "notes"


def _truncate_lake(project: Project) -> None:
    file = lake_files(project)[0]
    file.write_bytes(file.read_bytes()[:-100])


def _remove_manifest_shard(project: Project) -> None:
    next(project.paths.manifest(1).glob("data/base-*.parquet")).unlink()


def _newer_format(project: Project) -> None:
    file = project.paths.collection_file
    file.write_text(file.read_text().replace('"format": 1', '"format": 9'))


def _pointer_from_the_future(project: Project) -> None:
    (embedded(project) / "g00001" / "CURRENT").write_text("s000099\n")


def _drop_store(project: Project) -> None:
    shutil.rmtree(embedded(project))


def _restore_old_store(project: Project) -> None:
    """Yesterday's store beside today's state: what was purged and what was added since differ."""
    backup = project.base / "backup"
    shutil.copytree(embedded(project), backup)
    prepare(project, [secret_row(), *plain_rows(6)], EDGE)
    project.ingest()
    purge(place_of(project), Named(TENANT, (DOC_ID,)))
    _drop_store(project)
    shutil.copytree(backup, embedded(project))


@contextmanager
def _another_writer(project: Project) -> Iterator[None]:
    with acquire_lease(project.paths):
        yield


@contextmanager
def _little_disk(_project: Project) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m3core.disk.disk_usage", lambda path: DiskUsage(1 << 10, 1 << 40))
        yield


@contextmanager
def _clock_set_back(_project: Project) -> Iterator[None]:
    import time

    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.operate.gc.time.time", lambda: now - 400 * 86_400)
        patch.setattr("pipelines.state.tombstones.time.time", lambda: now - 400 * 86_400)
        yield


def _source(project: Project) -> Path:
    return project.base / "rows.jsonl"


def _empty_source(project: Project) -> None:
    _source(project).write_text("")


def _fewer_documents(project: Project) -> None:
    lines = _source(project).read_text().splitlines()
    _source(project).write_text("\n".join(lines[:-1]) + "\n")


def _listing_fails_half_way(project: Project) -> None:
    lines = _source(project).read_text().splitlines()
    _source(project).write_text("\n".join(lines[:2]) + '\n{"doc_id": "p1", "te')


def _renamed_field(project: Project) -> None:
    project.settings["fields"] = {"sort": "string"}
    configured(project)


def _foreign_tenant(project: Project) -> None:
    with _source(project).open("a") as file:
        file.write(json.dumps({"doc_id": "p9", "tenant": "initech", "text": "Not theirs.", "acl": ["staff"]}) + "\n")


PURGE = f"purge --tenant {TENANT} --doc {DOC_ID}"
LOCKED = "is being written by pid"
FULL = "MiB are free and"
CONDITIONS = (
    Condition("nothing is wrong", lambda project: None, (("audit", 0, ""), ("repair", 0, "nothing to mend"))),
    Condition(
        "lake file truncated",
        _truncate_lake,
        (("audit", 8, ""), ("repair", 4, "to be read again. Remedy: m3 ingest"), ("ingest", 0, ""), ("audit", 0, "")),
    ),
    Condition(
        "manifest shard deleted",
        _remove_manifest_shard,
        tuple((command, 1, "it is missing. Remedy: restore the file") for command in ("audit", "repair", "gc", PURGE)),
    ),
    Condition(
        "state of a newer version",
        _newer_format,
        tuple((command, 1, "has format 9") for command in ("status", "audit", "repair", "gc", PURGE)),
    ),
    Condition(
        "pointer from the future",
        _pointer_from_the_future,
        tuple((command, 7, "s000099") for command in ("audit", "repair --sample 0", PURGE)),
    ),
    Condition(
        "collection dropped by hand",
        _drop_store,
        (("audit", 8, ""), ("repair", 0, "written"), ("audit", 0, ""), ("ingest", 0, "~ 0")),
    ),
    Condition(
        "a store restored from an old backup",
        _restore_old_store,
        (
            ("audit", 8, ""),
            ("repair --max-delete-fraction 1", 0, "deleted"),
            ("purge --again", 0, "no trace of it was here"),
            ("audit", 0, ""),
        ),
    ),
    Condition(
        "two at once",
        _another_writer,
        tuple((command, 6, LOCKED) for command in ("repair", PURGE, "purge --again", "gc", "gc --dry-run")),
    ),
    Condition("empty source", _empty_source, (("ingest", 7, "no line in any file"), ("audit", 0, ""))),
    Condition(
        "fewer documents than the limit allows",
        _fewer_documents,
        (
            ("ingest --max-delete-fraction 0.1", 5, "first p3. Remedy: check the source"),
            ("audit", 0, ""),
            ("ingest", 0, "- 1"),
            ("audit", 0, ""),
        ),
    ),
    Condition(
        "listing fails half-way",
        _listing_fails_half_way,
        (("ingest", 3, "- 0"), ("ingest", 0, "1 of them known before"), ("audit", 0, "")),
    ),
    Condition("a renamed field", _renamed_field, (("ingest", 5, "the declared fields (kind, sort)"),)),
    Condition(
        "a tenant the source may not write",
        _foreign_tenant,
        (("ingest", 3, "initech"), ("audit", 0, "")),
    ),
    Condition("disk full", _little_disk, ((PURGE, 7, FULL), ("gc", 5, "m3 purge --again"))),
    Condition(
        "clock jumps back",
        _clock_set_back,
        (
            ("gc --run-days 0", 0, "0 B freed"),
            (PURGE, 0, "1 tombstone"),
            (f"{PURGE} --lift", 0, "1 tombstone lifted"),
            ("ingest", 0, "+ 1"),
        ),
    ),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Project:
    """A collection ingested once; each condition gets a copy."""
    made = Project(tmp_path_factory.mktemp("template"), tiny_model)
    prepare(made, [secret_row(), *plain_rows(4)], EDGE)
    made.ingest()
    return made


@pytest.fixture
def project(template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    base = tmp_path / "copy"
    shutil.copytree(template.base, base)
    monkeypatch.setenv("M3_CONFIG", str(base / "m3.toml"))
    made = Project(base, template.model, json.loads(json.dumps(template.settings)))
    configured(made)
    return made


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_the_table(condition: Condition, project: Project, m3: M3) -> None:
    with condition.prepare(project) or nullcontext():
        for command, code, said in condition.steps:
            ended = m3(*command.split())
            assert (command, ended.code) == (command, code), ended.err
            assert said in ended.out + ended.err, command


def test_after_the_old_store_was_mended_and_purged_again_no_byte_is_left(project: Project, m3: M3) -> None:
    _restore_old_store(project)
    assert traces(embedded(project), *CANARIES.values()) != []
    m3("repair", "--max-delete-fraction", "1")
    assert m3("purge", "--again").code == 0
    assert traces(storage(project), *CANARIES.values()) == []
    assert SnapshotChain(embedded(project) / "g00001").sweep() == 0


def test_status_tells_that_a_purge_waits(project: Project, m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "m3 purge --again" not in m3("status").out
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("pipelines.operate.purge.apply_tombstones", die)
        assert m3(*PURGE.split()).code == 130
    assert (
        "  a purge is not carried out: what it erases can still be found. Remedy: m3 purge --again" in m3("status").out
    )
    assert m3("purge", "--again").code == 0
    assert "m3 purge --again" not in m3("status").out

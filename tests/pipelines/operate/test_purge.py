"""`m3 purge`: what is erased is in no file any more, stays away, and nothing else is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from m3core.errors import ExitCode, LockedError, RefusedError, StoreError, UsageError
from pipelines.operate.promoting import PromoteRequest, promote, rollback
from pipelines.operate.purge import Named, lift, purge, purge_again
from pipelines.state.collection import begin_run
from pipelines.state.lease import acquire_lease
from pipelines.state.tombstones import read_tombstones
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, MEMORY, Project
from tests.pipelines.operate.conftest import configured
from tests.pipelines.operate.damage import audited, place_of, spoil, stored_rows
from tests.pipelines.operate.traces import (
    CANARIES,
    DOC_ID,
    TENANT,
    kept_chunks,
    plain_rows,
    prepare,
    row,
    secret_row,
    traces,
)

SECRET = Named(TENANT, (DOC_ID,))


def everywhere(project: Project) -> Path:
    """The storage path: state folder, stores, tombstones."""
    return project.base / project.config.storage.path


@pytest.fixture
def secret(project: Project) -> Project:
    """A secret document and others; ingested twice, in two versions of the secret."""
    first = secret_row()
    first["text"] += f"\n{CANARIES['text']} of the first version, which was longer than the second.\n"
    prepare(project, [first, *plain_rows(5)], EDGE)
    project.ingest()
    prepare(project, [secret_row(), *plain_rows(5)], EDGE)
    project.ingest()
    return project


def test_nothing_of_an_erased_document_is_left_in_any_file(secret: Project) -> None:
    before = traces(everywhere(secret), *CANARIES.values())
    for name, canary in CANARIES.items():
        assert any(one.startswith(canary) and "/stores/" in f"/{one.split(': ')[1]}" for one in before), name
        assert any(one.startswith(canary) and "chunks/" in one for one in before), name
    others = {name: record for name, record in secret.records().items() if name != DOC_ID}
    vectors = {name: one.vectors for name, one in stored_rows(secret).items() if one.chunk.doc_id != DOC_ID}
    ids, keys, shared = kept_chunks(secret, TENANT, DOC_ID)
    assert len(ids) > len(secret.records()[DOC_ID].chunk_ids)
    assert not shared
    published = len(secret.records()[DOC_ID].chunk_ids)

    purged = purge(place_of(secret), SECRET)

    assert traces(everywhere(secret), *CANARIES.values()) == []
    assert purged.exit_code is ExitCode.OK
    receipt = purged.as_json()
    assert [(one["documents"], one["chunks"]) for one in receipt["erased"]] == [(1, len(ids))]
    assert [(one["name"], one["rows"], one["compacted"]) for one in receipt["stores"]] == [("main", published, True)]
    assert (receipt["lake"]["rows"], receipt["rows_left"]) == (len(keys - shared), {"main": 0})
    assert (receipt["tombstones"], receipt["held_copies"], receipt["damaged_files"]) == (1, 0, 0)
    assert secret.records() == others
    left = stored_rows(secret)
    assert left.keys() == vectors.keys()
    assert all(left[name].vectors.dense.tobytes() == vectors[name].dense.tobytes() for name in left)
    assert audited(secret, sample=100).clean
    secret.check_agreement()


def test_a_text_that_another_document_has_keeps_its_vectors_until_that_goes_too(project: Project) -> None:
    same = "Two documents of the tenant have this text, and so has another tenant."
    rows = [row("one", same), row("two", same), {**row("one", same), "tenant": "globex"}]
    prepare(project, rows, MEMORY)
    project.ingest()
    _, keys, shared = kept_chunks(project, TENANT, "one")
    assert keys == shared
    first = purge(place_of(project), Named(TENANT, ("one",))).receipt
    assert (first.lake.rows, first.found[0].chunks) == (0, len(keys))
    assert audited(project, sample=10).clean
    second = purge(place_of(project), Named(TENANT, ("two",))).receipt
    assert second.lake.rows == len(keys)
    assert audited(project, sample=10).lake.rows == len(keys)  # the other tenant's


def test_it_stays_away_until_the_tombstone_is_lifted(secret: Project) -> None:
    purge(place_of(secret), SECRET)
    report = secret.ingest()
    assert (report.documents.added, report.documents.unchanged, report.skipped["purged"]) == (0, 5, 1)
    assert traces(everywhere(secret), *CANARIES.values()) == []
    assert lift(place_of(secret), SECRET, dry_run=True) == 1
    assert secret.ingest().documents.added == 0
    lift(place_of(secret), SECRET)
    report = secret.ingest()
    assert (report.documents.added, report.skipped.get("purged", 0)) == (1, 0)
    assert report.tokens_encoded > 0
    assert DOC_ID in secret.records()
    secret.check_agreement()
    with pytest.raises(UsageError, match="document 1 of those named is under no tombstone"):
        lift(place_of(secret), SECRET)


def test_it_goes_again_when_yesterdays_state_is_put_back(secret: Project, tmp_path: Path) -> None:
    storage = everywhere(secret)
    backup = tmp_path / "backup"
    shutil.copytree(storage, backup)
    purge(place_of(secret), SECRET)
    for name in ("state", "stores"):
        shutil.rmtree(storage / name)
        shutil.copytree(backup / name, storage / name)
    assert traces(storage, *CANARIES.values()) != []

    report = secret.ingest()

    assert (report.documents.unchanged, report.documents.added, report.tokens_encoded) == (5, 0, 0)
    assert traces(storage, *CANARIES.values()) == []
    assert audited(secret, sample=100).clean


def test_a_backup_unpacked_over_everything_does_not_lift_a_tombstone(secret: Project, tmp_path: Path) -> None:
    """Files of the backup replace what is there, nothing is removed: as tar and rsync do."""
    storage = everywhere(secret)
    backup = tmp_path / "backup"
    purge(place_of(secret), Named(TENANT, ("p0",)))
    shutil.copytree(storage, backup)
    purge(place_of(secret), SECRET)
    shutil.rmtree(storage / "state")
    shutil.copytree(backup, storage, dirs_exist_ok=True)
    assert not read_tombstones(secret.paths).standing.isdisjoint(
        {read_tombstones(secret.paths).document(*SECRET.documents[0])}
    )
    secret.ingest()
    assert traces(storage / "state", *CANARIES.values()) == []
    assert traces(storage / "stores", *CANARIES.values()) == []


def test_every_generation_is_erased_and_a_rollback_brings_nothing_back(secret: Project) -> None:
    old = dict(secret.settings)
    secret.settings["chunking"] = {"max_tokens": 96}
    secret.ingest(build=True)
    assert promote(PromoteRequest(place_of(secret))).flipped
    purged = purge(place_of(secret), SECRET)
    assert {(store.generation, store.compacted) for store in purged.receipt.stores} == {(1, True), (2, True)}
    assert all(store.rows > 0 for store in purged.receipt.stores)
    assert traces(everywhere(secret), *CANARIES.values()) == []
    secret.settings = old
    assert rollback(PromoteRequest(place_of(secret))).flipped
    assert DOC_ID not in secret.records()
    assert audited(secret, sample=20).clean


def test_no_run_begins_before_an_interrupted_purge_is_done(
    secret: Project, m3: M3, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(secret)
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("pipelines.state.erase.apply.erase_from_stores", die)
        with pytest.raises(KeyboardInterrupt):
            purge(place_of(secret), SECRET)
    with acquire_lease(secret.paths) as lease, pytest.raises(RefusedError, match="is not carried out"):
        begin_run(secret.paths, lease)
    collected = m3("gc")
    assert (collected.code, "Remedy: m3 purge --again" in collected.err) == (5, True)
    with pytest.raises(RefusedError):
        lift(place_of(secret), SECRET)
    report = secret.ingest()
    assert report.skipped["purged"] == 1
    assert traces(everywhere(secret), *CANARIES.values()) == []


def test_a_whole_tenant_goes_and_others_stay(project: Project) -> None:
    globex = [{**one, "tenant": "globex"} for one in (secret_row(), *plain_rows(1))]
    prepare(project, [*globex, *plain_rows(4)], EDGE_AND_MEMORY)
    project.ingest()
    ids, _, _ = kept_chunks(project, "globex")

    purged = purge(place_of(project), Named("globex"))

    storage = everywhere(project)
    assert traces(storage / "stores", "globex", *CANARIES.values()) == []
    assert [one for one in traces(storage / "state", "globex", *CANARIES.values()) if "config.json" not in one] == []
    assert [(one.documents, one.chunks) for one in purged.receipt.found] == [(2, len(ids))]
    assert len(project.records()) == 4
    project.check_agreement()
    newcomer = {**row("new", "Something new."), "tenant": "globex"}
    prepare(project, [*globex, *plain_rows(4), newcomer], EDGE_AND_MEMORY)
    assert project.ingest().skipped["purged"] == 3
    assert len(project.records()) == 4
    with pytest.raises(UsageError, match="the whole tenant is under a tombstone"):
        lift(place_of(project), Named("globex", ("new",)))
    lift(place_of(project), Named("globex"))
    assert project.ingest().documents.added == 3


def test_dead_letters_reports_and_leftovers_forget_it_too(project: Project) -> None:
    bad = {**secret_row(), "acl": "no list"}
    prepare(project, [bad, {**row("bad", "x"), "acl": 7}, *plain_rows(2)], MEMORY)
    assert project.ingest().documents.failed == 2
    lost = project.paths.runs / ".tmp-audit-lost"
    lost.mkdir()
    (lost / "named.parquet").write_bytes(DOC_ID.encode())
    (project.paths.run(1) / "work").mkdir()
    (project.paths.run(1) / "work" / "listing.parquet").write_bytes(DOC_ID.encode())
    (project.paths.root / "lake" / "old.parquet.damaged").write_bytes(DOC_ID.encode())
    plan = [{"plan": "threefold.repair"}, {"store": "main", "tenant": TENANT, "doc_id": DOC_ID, "id": "x"}]
    (project.paths.run(1) / "repair.jsonl").write_text("".join(json.dumps(line) + "\n" for line in plan))
    places = {one.split(": ")[1].split("/")[-1] for one in traces(everywhere(project), DOC_ID)}
    assert {"dead_letters.parquet", "report.json", "repair.jsonl", "listing.parquet", "named.parquet"} <= places

    purged = purge(place_of(project), SECRET)

    assert traces(everywhere(project), DOC_ID) == []
    assert (purged.receipt.dead_letters, purged.receipt.damaged_files) == (2, 1)
    report = project.ingest()
    assert (report.documents.failed, report.new_dead_letters) == (1, 0)


def test_a_damaged_chunk_file_is_removed_because_it_may_hold_it(secret: Project) -> None:
    for path in secret.paths.chunks(1).rglob("*.parquet"):
        spoil(path)
    purged = purge(place_of(secret), SECRET)
    assert purged.receipt.damaged_files > 0
    assert list(secret.paths.chunks(1).rglob("*.parquet")) == []
    assert DOC_ID not in secret.records()


def test_a_reader_that_holds_an_old_copy_is_told(secret: Project) -> None:
    from connectors.snapshots.chain import SnapshotChain

    chain = SnapshotChain(everywhere(secret) / "stores" / "main" / "notes" / "g00001")
    with chain.open_copy():
        purged = purge(place_of(secret), SECRET)
        assert (purged.receipt.held, purged.exit_code) == (1, ExitCode.PENDING)
        assert traces(everywhere(secret), DOC_ID) != []
    again = purge_again(place_of(secret))
    assert (again.receipt.held, again.exit_code, again.receipt.found) == (0, ExitCode.OK, ())
    assert traces(everywhere(secret), *CANARIES.values()) == []


def test_the_command(secret: Project, m3: M3) -> None:
    configured(secret)
    before = secret.records()
    ids, keys, shared = kept_chunks(secret, TENANT, DOC_ID)
    rows = len(before[DOC_ID].chunk_ids)
    dry = m3("purge", "--tenant", TENANT, "--doc", DOC_ID, "--dry-run")
    assert (dry.code, dry.out) == (
        0,
        f"1 document with {len(ids)} chunks and {len(keys - shared)} vector rows would be erased\n",
    )
    assert secret.records() == before
    assert not secret.paths.tombstones.exists()
    done = m3("purge", "--tenant", TENANT, "--doc", DOC_ID)
    assert (done.code, done.err) == (0, "")
    assert DOC_ID not in done.out
    assert f"store main, generation 1: {rows} rows · compacted" in done.out
    unknown = json.loads(m3("purge", "--tenant", TENANT, "--doc", "never-there", "--json").out)
    assert (unknown["schema_version"], unknown["erased"], unknown["tombstones"]) == (1, [], 2)
    assert m3("purge", "--tenant", TENANT, "--doc", "never-there", "--lift").out.startswith("1 tombstone lifted.")
    assert "\n  1 tombstone; keep the folder tombstones/" in m3("purge", "--again").out
    status = json.loads(m3("status", "--json").out)
    assert (status["runs"][0]["command"], status["runs"][0]["outcome"]) == ("purge", "ok")
    assert json.loads(m3("plan", "--json").out)["documents"]["added"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "whose documents is not said"),
        (["--tenant", "t"], "which documents is not said"),
        (["--tenant", "t", "--doc", "a", "--all"], "both --doc and --all are given"),
        (["--again", "--tenant", "t"], "--again is about all that was purged before"),
        (["--again", "--dry-run"], "--again goes with neither --lift nor --dry-run"),
    ],
)
def test_what_is_meant_must_be_said(arguments: list[str], said: str, project: Project, m3: M3) -> None:
    configured(project)
    ended = m3("purge", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_while_a_run_is_at_work_it_is_refused(secret: Project) -> None:
    with acquire_lease(secret.paths), pytest.raises(LockedError):
        purge(place_of(secret), SECRET)
    assert not secret.paths.tombstones.exists()


def test_a_purge_that_a_store_stops_is_told_as_such(secret: Project, m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(secret)
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise StoreError("store 'main' is down", "start it")

        patch.setattr("connectors.qdrant.edge.sink.EdgeSink.delete", refuse)
        ended = m3("purge", "--tenant", TENANT, "--doc", DOC_ID)
    assert (ended.code, "store 'main' is down" in ended.err) == (7, True)
    assert DOC_ID in secret.records()
    found = json.loads(m3("status", "--json").out)
    assert (found["runs"][0]["command"], found["runs"][0]["outcome"]) == ("purge", "store")
    assert found["faults"][0]["remedy"] == "m3 purge --again"
    assert m3("purge", "--again").code == 0
    assert traces(everywhere(secret), *CANARIES.values()) == []

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.errors import DiskFullError, StateError
from pipelines.state import folding, manifestfiles
from pipelines.state import manifest as manifest_module
from pipelines.state.collection import FORMAT, CollectionState, Generation, swap_collection
from pipelines.state.files import DamagedError
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest, ManifestCounts
from pipelines.state.manifestfiles import SHARDS, ManifestFolder
from pipelines.state.paths import StatePaths

Start = Callable[..., "subprocess.Popen[str]"]


def record(doc_id: str, revision: int = 1, tenant: str = "acme", **changes: object) -> DocumentRecord:
    one = DocumentRecord(
        tenant, doc_id, "docs", f"c{revision}", "m", "a", f"stamp {revision}", (f"{doc_id}#0", f"{doc_id}#1"), revision,
        {"main": "done"},
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]


def held(manifest: Manifest) -> dict[DocumentKey, DocumentRecord]:
    found = list(manifest.records())
    assert len({one.key for one in found}) == len(found)
    return {one.key: one for one in found}


def holds(paths: StatePaths, wanted: Sequence[DocumentRecord]) -> bool:
    return held(Manifest(paths, 1)) == {one.key: one for one in wanted}


@pytest.fixture
def manifest(paths: StatePaths) -> Manifest:
    return Manifest(paths, 1)


@pytest.fixture(params=[False, True], ids=["deltas", "compacted"])
def settle(request: pytest.FixtureRequest) -> Callable[[Manifest], None]:
    """Leaves the deltas, or folds them in: no answer may depend on it."""
    return Manifest.compact if request.param else lambda manifest: None


def test_nothing_is_there_at_first_and_reading_makes_nothing(paths: StatePaths, manifest: Manifest) -> None:
    assert held(manifest) == {}
    assert manifest.find([("acme", "a")]) == {}
    assert manifest.counts() == ManifestCounts(0, 0, {})
    manifest.compact()
    manifest.append(1, 1, [])
    assert not paths.root.exists()


def test_the_newest_row_of_a_document_counts(
    paths: StatePaths, manifest: Manifest, settle: Callable[[Manifest], None]
) -> None:
    manifest.append(1, 1, [record("a"), record("b"), record("a", tenant="other")])
    manifest.append(1, 2, [record("c")])
    settle(manifest)
    newer = record("a", 2)
    manifest.append(2, 1, [newer], removed=[("acme", "b")])
    settle(manifest)
    wanted = [newer, record("a", tenant="other"), record("c")]
    assert holds(paths, wanted)
    keys = [("acme", "a"), ("acme", "b"), ("other", "a"), ("acme", "never")]
    assert manifest.find(keys) == {newer.key: newer, ("other", "a"): wanted[1]}
    assert manifest.counts() == ManifestCounts(3, 6, {})
    manifest.append(3, 1, [record("b", 3)])
    settle(manifest)
    assert holds(paths, [*wanted, record("b", 3)])


def test_pending_stores_are_counted_and_their_removed_documents_kept(
    paths: StatePaths, manifest: Manifest, settle: Callable[[Manifest], None]
) -> None:
    pending = record("a", status={"main": "done", "es": "pending"}, obsolete_chunk_ids=("old#0",))
    gone = record("b", 2, status={"es": "pending", "main": "done"}, removed=True)
    manifest.append(1, 1, [pending, record("b")])
    settle(manifest)
    manifest.append(2, 1, [gone])
    settle(manifest)
    assert holds(paths, [pending])
    assert manifest.counts() == ManifestCounts(1, 2, {"es": 2})
    assert {one.key: one for one in manifest.records(removed=True)} == {pending.key: pending, gone.key: gone}
    manifest.append(3, 1, [replace(pending, status={"main": "done", "es": "done"})], removed=[gone.key])
    manifest.compact()
    assert manifest.counts() == ManifestCounts(1, 2, {})
    assert [one.doc_id for one in manifest.records(removed=True)] == ["a"]


def test_rows_come_by_shard_tenant_and_document(manifest: Manifest, settle: Callable[[Manifest], None]) -> None:
    ids = [f"doc {n}" for n in range(200)] + ["\uffff", "\U0001f600", "é", "e\u0301", "", "'; DROP TABLE manifest; --"]
    manifest.append(1, 1, [record(name, tenant=tenant) for name in ids for tenant in ("b", "a")])
    settle(manifest)
    manifest.append(1, 2, [record("doc 5", tenant="b")])
    settle(manifest)
    found = [(manifest.shard_of(*one.key), one.tenant.encode(), one.doc_id.encode()) for one in manifest.records()]
    assert found == sorted(found)
    assert len(found) == 2 * len(ids)
    keys = [("a", name) for name in ids]
    assert manifest.find(keys).keys() == set(keys)


def test_the_shard_of_a_document_is_fixed(manifest: Manifest) -> None:
    canonical = '["acme","\\u00e9"]'
    assert json.loads(canonical) == ["acme", "é"]
    expected = int(hashlib.sha256(canonical.encode()).hexdigest()[:16], 16) % 256
    assert manifest.shard_of("acme", "é") == expected
    assert SHARDS == 256


def test_a_wave_is_committed_once_and_in_order(paths: StatePaths, manifest: Manifest) -> None:
    manifest.append(2, 5, [record("a")])
    for run, wave in ((2, 5), (2, 4), (1, 9)):
        with pytest.raises(StateError, match="does not come after"):
            manifest.append(run, wave, [record("b")])
    with pytest.raises(StateError, match="comes twice"):
        manifest.append(3, 1, [record("b")], removed=[("acme", "b")])
    manifest.compact()
    with pytest.raises(StateError, match="does not come after"):
        manifest.append(2, 5, [record("b")])
    assert holds(paths, [record("a")])


def test_compaction_leaves_only_the_files_that_count(paths: StatePaths, manifest: Manifest) -> None:
    folder = paths.manifest(1)
    for wave in range(1, 5):
        manifest.append(1, wave, [record(f"{wave}-{n}") for n in range(30)])
    (folder / "data" / "delta-000009-00009.parquet").write_bytes(b"left by a writer that died before its commit")
    manifest.compact()
    manifest.compact()
    assert not list(folder.glob("delta-*"))
    assert [path.name for path in (folder / "data").iterdir()] == ["base-000001-00004-00000.parquet"]
    assert len(held(manifest)) == 120


def test_the_base_is_split_as_it_grows_and_what_did_not_change_stays(
    paths: StatePaths, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "_PART_ROWS", 10)
    model = {f"doc {n}": record(f"doc {n}") for n in range(80)}
    names = list(model)
    for run, (start, stop) in enumerate([(0, 5), (5, 40), (40, 41), (41, 80)], 1):
        manifest.append(run, 1, [model[name] for name in names[start:stop]])
        manifest.compact()
        assert holds(paths, [model[name] for name in names[:stop]])
    listing = ManifestFolder(paths.manifest(1)).listing()
    ranges = [range(file.first_shard, file.last_shard + 1) for file in listing.base]
    assert [shard for shards in ranges for shard in shards] == list(range(SHARDS))
    assert len(ranges) >= 8
    assert {path.name for path in data_files(paths)} == {file.name for file in listing.base}
    before = {path.name: path.stat().st_mtime_ns for path in data_files(paths)}
    manifest.append(9, 1, [record("doc 7", 9)], removed=[("acme", "doc 8")])
    manifest.compact()
    after = {path.name: path.stat().st_mtime_ns for path in data_files(paths)}
    assert len(before.items() & after.items()) >= len(before) - 2, "parts without a change are not written again"
    model["doc 7"] = record("doc 7", 9)
    del model["doc 8"]
    assert holds(paths, list(model.values()))
    assert manifest.find([("acme", name) for name in names]) == {one.key: one for one in model.values()}
    assert manifest.counts().documents == 79


def test_a_run_finds_documents_as_they_were_and_opens_none_of_its_own_waves(
    paths: StatePaths, manifest: Manifest
) -> None:
    old, new, key = record("a", 1), record("a", 3), ("acme", "a")
    manifest.append(1, 1, [old])
    manifest.append(2, 1, [record("b", 2)])
    manifest.append(3, 1, [new])
    manifest.append(3, 2, [record("c", 3)])
    assert manifest.find([key], before=(3, 0)) == {key: old}
    assert manifest.find([key], before=(3, 2)) == manifest.find([key]) == {key: new}
    assert manifest.find([("acme", "b"), ("acme", "c")], before=(3, 2)).keys() == {("acme", "b")}
    assert manifest.find([key], before=(1, 0)) == {}
    for own in data_files(paths):
        if own.name.startswith("delta-000003"):
            own.write_bytes(b"not opened")
    assert Manifest(paths, 1).find([key], before=(3, 0)) == {key: old}
    with pytest.raises(DamagedError):
        Manifest(paths, 1).find([key])


def test_a_manifest_that_has_grown_little_is_left_for_the_end_of_the_run(paths: StatePaths, manifest: Manifest) -> None:
    def waves() -> int:
        return len(ManifestFolder(paths.manifest(1)).listing().deltas)

    manifest.compact(only_if_grown=True)
    manifest.append(1, 1, [record(f"{n}") for n in range(5)])
    manifest.append(1, 2, [record(f"{n}") for n in range(5, 10)])
    manifest.compact(only_if_grown=True)
    assert waves() == 0, "a first load is folded: there was nothing before it"
    manifest.append(2, 1, [record(f"{n}", 2) for n in range(9)])
    manifest.compact(only_if_grown=True)
    assert waves() == 1, "ten rows would be written anew for nine"
    manifest.append(2, 2, [record("10", 2)])
    manifest.compact(only_if_grown=True)
    assert waves() == 0
    assert len(held(manifest)) == 11


def test_a_compaction_reads_every_wave_once_and_leaves_nothing_beside(
    paths: StatePaths, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Footers of all waves at once, or all waves for every part, would grow with the collection."""
    monkeypatch.setattr(manifest_module, "_PART_ROWS", 10)
    model = {f"doc {n}": record(f"doc {n}") for n in range(60)}
    manifest.append(1, 1, list(model.values())[:30])
    manifest.compact()
    for wave in range(1, 13):
        changed = [record(name, 2, stamp=f"wave {wave}") for name in list(model)[wave : wave + 5]]
        model |= {one.doc_id: one for one in changed}
        manifest.append(2, wave, changed)
    manifest.append(3, 1, [model[f"doc {n}"] for n in range(30, 60)], removed=[("acme", "doc 0")])
    opened: Counter[str] = Counter()
    plain = folding.open_table

    def counting(path: Path, *arguments: Any) -> Any:
        opened[path.name] += 1
        return plain(path, *arguments)

    monkeypatch.setattr(folding, "open_table", counting)
    manifest.compact()
    deltas = {name: count for name, count in opened.items() if name.startswith("delta-")}
    assert len(deltas) == 13
    assert set(deltas.values()) == {1}
    assert sum(opened.values()) > 13
    del model["doc 0"]
    assert holds(paths, list(model.values()))
    assert {path.name for path in paths.manifest(1).iterdir()} == {"data", "manifest.json", "manifest.json.lock"}


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_wave_stops_a_compaction_and_is_named(paths: StatePaths, manifest: Manifest, damage: str) -> None:
    manifest.append(1, 1, [record(f"doc {n}") for n in range(50)])
    manifest.append(1, 2, [record("b")])
    (delta,) = (path for path in data_files(paths) if path.name.startswith("delta-000001-00001"))
    data = delta.read_bytes()
    delta.write_bytes(data[:-9] if damage == "cut" else data[:200] + bytes(8) + data[208:])
    with pytest.raises(DamagedError, match="delta-000001-00001"):
        Manifest(paths, 1).compact()
    delta.write_bytes(data)
    Manifest(paths, 1).compact()
    assert len(held(manifest)) == 51


def test_a_manifest_can_become_empty(paths: StatePaths, manifest: Manifest) -> None:
    manifest.append(1, 1, [record("a")])
    manifest.compact()
    manifest.append(2, 1, [], removed=[("acme", "a")])
    manifest.compact()
    assert holds(paths, [])
    assert manifest.counts() == ManifestCounts(0, 0, {})
    with pytest.raises(StateError, match="does not come after"):
        manifest.append(2, 1, [record("a")])
    manifest.append(3, 1, [record("b")])
    assert holds(paths, [record("b")])


def test_a_listing_is_joined_in_duckdb(manifest: Manifest, settle: Callable[[Manifest], None]) -> None:
    manifest.append(1, 1, [record("same"), record("changed"), record("gone")])
    settle(manifest)
    manifest.append(1, 2, [record("late", status={"main": "pending"})], removed=[("acme", "gone")])
    settle(manifest)
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE listing AS SELECT * FROM (VALUES ('same', 'stamp 1'), ('changed', 'x')) t(d, s)"
        )
        manifest.attach(connection, "known")
        rows = connection.execute(
            "SELECT doc_id, s = stamp, list_contains(map_values(status), 'pending'), chunk_ids[1] "
            "FROM known LEFT JOIN listing ON d = doc_id ORDER BY doc_id"
        ).fetchall()
    assert rows == [
        ("changed", False, False, "changed#0"),
        ("late", None, True, "late#0"),
        ("same", True, False, "same#0"),
    ]


def test_a_folder_with_glob_characters_in_its_name(tmp_path: Path) -> None:
    paths = StatePaths.of(tmp_path / "it's [a]*?{b}", "handbook")
    manifest = Manifest(paths, 1)
    manifest.append(1, 1, [record("a")])
    manifest.append(1, 2, [record("b")])
    manifest.compact()
    manifest.append(1, 3, [record("c")])
    assert holds(paths, [record("a"), record("b"), record("c")])


DOCUMENTS = st.sampled_from("abcdefgh")
WAVES = st.lists(st.tuples(st.sets(DOCUMENTS), st.sets(DOCUMENTS), st.booleans()), max_size=8)


@settings(max_examples=10)
@given(WAVES)
def test_any_sequence_of_waves_is_what_a_dictionary_says(
    tmp_path_factory: pytest.TempPathFactory, waves: list[tuple[set[str], set[str], bool]]
) -> None:
    paths = StatePaths(tmp_path_factory.mktemp("state"))
    manifest = Manifest(paths, 1)
    model: dict[str, DocumentRecord] = {}
    for n, (written, unwanted, compact) in enumerate(waves, 1):
        removed = unwanted - written
        manifest.append(n, 1, [record(name, n) for name in written], removed=[("acme", name) for name in removed])
        model |= {name: record(name, n) for name in written}
        model = {name: one for name, one in model.items() if name not in removed}
        if compact:
            manifest.compact()
    assert holds(paths, list(model.values()))
    assert manifest.counts().documents == len(model)


def data_files(paths: StatePaths) -> list[Path]:
    return sorted((paths.manifest(1) / "data").glob("*.parquet"))


@pytest.mark.parametrize("how", ["changed", "truncated", "gone"])
def test_a_damaged_or_deleted_shard_is_named(
    paths: StatePaths, manifest: Manifest, settle: Callable[[Manifest], None], how: str
) -> None:
    manifest.append(1, 1, [record("a")])
    settle(manifest)
    (file,) = data_files(paths)
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if how == "truncated" else content[:40] + b"?" + content[41:])
    for read in (
        held,
        lambda it: it.counts(),
        lambda it: it.find([("acme", "a")]),
        lambda it: it.attach(duckdb.connect()),
    ):
        with pytest.raises(DamagedError, match=rf"{file} is damaged"):
            read(Manifest(paths, 1))


def test_a_reader_that_a_compaction_overtakes_is_told_to_run_again(paths: StatePaths, manifest: Manifest) -> None:
    manifest.append(1, 1, [record("a")])
    manifest.compact()
    reader = Manifest(paths, 1).records()
    stale = ManifestFolder(paths.manifest(1)).listing()
    manifest.append(2, 1, [record("a", 2)])
    manifest.compact()
    with pytest.raises(StateError, match="was compacted while it was read") as caught:
        ManifestFolder(paths.manifest(1)).verified(stale.base, stale)
    assert caught.value.remedy == "run it again"
    assert [one.revision for one in reader] == [2]


def test_a_deleted_listing_is_noticed(paths: StatePaths, manifest: Manifest) -> None:
    folder = paths.manifest(1)
    for wave in range(1, 5):
        manifest.append(1, wave, [record(str(wave))])
    second = folder / "delta-000001-00002.json"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(DamagedError, match=r"delta-000001-00002\.json is missing"):
        held(manifest)
    second.write_bytes(content)
    assert len(held(manifest)) == 4
    (folder / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged: it is missing"):
        held(manifest)


def test_the_manifest_of_a_live_generation_cannot_vanish(paths: StatePaths, manifest: Manifest) -> None:
    generation = Generation(1, "c", "float-0e", "m", 8, 8, {}, (), "live", "2030-01-01T00:00:00.000000Z", applied_run=1)
    swap_collection(paths, None, CollectionState(FORMAT, "handbook", 1, 1, (generation,)))
    with pytest.raises(DamagedError, match="the manifest of generation 1 is gone"):
        manifest.counts()
    assert Manifest(paths, 2).counts().documents == 0


def test_a_newer_format_is_refused(paths: StatePaths, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(manifestfiles, "FORMAT", 2)
        manifest.append(1, 1, [record("a")])
    with pytest.raises(StateError, match=r"manifest\.json has format 2"):
        held(manifest)


def test_a_run_that_lost_its_lease_cannot_commit_into_the_next_one(
    paths: StatePaths, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.append(1, 1, [record("a")])
    late = Manifest(paths, 1)
    stale = ManifestFolder(paths.manifest(1)).listing()
    manifest.append(2, 1, [record("b", 2)])
    with monkeypatch.context() as paused:  # it looked before the other run committed, and writes after
        paused.setattr(ManifestFolder, "listing", lambda self: stale)
        late.append(1, 2, [record("late")])
    assert holds(paths, [record("a"), record("b", 2)])
    with monkeypatch.context() as paused:
        paused.setattr(ManifestFolder, "listing", lambda self: stale)
        manifest_before = (paths.manifest(1) / "manifest.json").read_bytes()
        other = Manifest(paths, 1)
    other.compact()
    assert (paths.manifest(1) / "manifest.json").read_bytes() != manifest_before
    with monkeypatch.context() as paused:
        paused.setattr(ManifestFolder, "listing", lambda self: stale)
        with pytest.raises(StateError):
            late.compact()
        late.append(1, 3, [record("later still")])
    assert holds(paths, [record("a"), record("b", 2)])
    manifest.append(3, 1, [record("c", 3)])
    manifest.compact()
    assert holds(paths, [record("a"), record("b", 2), record("c", 3)])
    assert not list(paths.manifest(1).glob("delta-*"))


@pytest.mark.usefixtures("umask_0")
def test_only_the_owner_may_read(
    paths: StatePaths, manifest: Manifest, modes: Callable[[Path], set[tuple[str, str]]]
) -> None:
    for wave in (1, 2):
        manifest.append(1, wave, [record("a")])
        manifest.compact()
    manifest.append(1, 3, [record("a")])
    list(manifest.records())
    assert modes(paths.root) == {("folder", "0o700"), ("file", "0o600")}


WRITE = """
    import sys
    from pathlib import Path
    import pyarrow
    from pipelines.state.manifest import DocumentRecord, Manifest
    from pipelines.state.paths import StatePaths
    manifest, run = Manifest(StatePaths(Path(sys.argv[1])), 1), int(sys.argv[2])
    pyarrow.array(["loads pandas where it is installed, which takes longer than this process may live"])
    print("ready", flush=True)
    for wave in range(1, 10**6):
        names = [str((7 * wave + i) % 23) for i in range(5)]
        rows = [DocumentRecord("t", name, "s", "", "", "", "", (), run, {"main": str(wave)}) for name in names[:4]]
        manifest.append(run, wave, rows, removed=[("t", names[4])])
        print(wave, flush=True)
        if wave % 3 == 0:
            manifest.compact()
"""


def after(model: dict[str, tuple[int, str]], run: int, wave: int) -> dict[str, tuple[int, str]]:
    names = [str((7 * wave + i) % 23) for i in range(5)]
    changed = model | {name: (run, str(wave)) for name in names[:4]}
    return {name: value for name, value in changed.items() if name != names[4]}


def test_a_killed_writer_leaves_whole_waves(paths: StatePaths, start: Start) -> None:
    rng = np.random.default_rng(3)
    model: dict[str, tuple[int, str]] = {}
    seen = 0
    for run in range(1, 6):
        writer = start(WRITE, paths.root, run)
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        time.sleep(float(rng.uniform(0.1, 0.6)))
        writer.kill()
        waves = [int(line) for line in writer.communicate()[0].splitlines()]
        for wave in waves:
            model = after(model, run, wave)
        found = {one.doc_id: (one.revision, one.status["main"]) for one in Manifest(paths, 1).records()}
        one_more = after(model, run, len(waves) + 1)
        assert found in (model, one_more)
        model = found
        seen += len(waves)
    assert seen > 5


def many(count: int) -> Iterator[list[DocumentRecord]]:
    for start in range(0, count, 5000):
        yield [record(f"doc {n}") for n in range(start, min(count, start + 5000))]


def test_forty_thousand_documents_cost_seconds(manifest: Manifest) -> None:
    started = time.process_time()
    for wave, records in enumerate(many(40_000), 1):
        manifest.append(1, wave, records)
    manifest.compact()
    assert manifest.counts().documents == 40_000
    manifest.append(2, 1, [record("doc 7", 2)])
    manifest.compact()
    assert len(manifest.find([("acme", f"doc {n}") for n in range(0, 40_000, 10)])) == 4000
    assert time.process_time() - started < 10


def test_a_full_disk_loses_no_wave(small_disk: Path) -> None:
    paths = StatePaths(small_disk / "handbook")
    manifest = Manifest(paths, 1)
    manifest.append(1, 1, [record("a")])
    noise = [record(f"doc {n}", content_hash=hashlib.sha512(str(n).encode()).hexdigest()) for n in range(5000)]
    with pytest.raises(DiskFullError, match="no space left"):
        manifest.append(1, 2, noise)
    assert holds(paths, [record("a")])
    manifest.append(1, 2, [record("b")])
    manifest.compact()
    assert holds(paths, [record("a"), record("b")])

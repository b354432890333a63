"""A copy of a state in a bucket that others write at the same time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.state import mirror
from pipelines.state.files import create_if_absent, make_folder, remove_files, write_atomic
from pipelines.state.livecopy import LiveCopy, attach_live, copy_of_this_process
from pipelines.state.mirror import fetch, names_in, refresh, size_of
from pipelines.state.paths import StatePaths


@pytest.fixture
def two(tmp_path: Path, state_url: str) -> tuple[StatePaths, StatePaths]:
    """Live copies of one collection on two machines."""
    copies = [tmp_path / name for name in ("a", "b")]
    for root in copies:
        attach_live(root, state_url)
    here, there = (StatePaths.of(root, "notes") for root in copies)
    return here, there


def written(path: Path, data: bytes) -> Path:
    make_folder(path.parent)
    write_atomic(path, data)
    return path


def test_what_others_wrote_replaced_and_removed_is_seen_when_it_is_looked_for(
    two: tuple[StatePaths, StatePaths],
) -> None:
    here, there = (paths.manifest(1) for paths in two)
    for name in ("delta-1.json", "delta-2.json", "other.json"):
        written(there / name, b"one")
    written(there / "data" / "delta-3.json", b"below")
    refresh(here, "delta-*.json")
    assert sorted(path.name for path in here.iterdir()) == ["delta-1.json", "delta-2.json"]
    written(there / "delta-1.json", b"two")
    remove_files([there / "delta-2.json"])
    assert (here / "delta-1.json").read_bytes() == b"one"
    refresh(here, "delta-*.json")
    assert [path.read_bytes() for path in here.iterdir()] == [b"two"]
    written(here / "delta-1.json", b"mine")
    before = (here / "delta-1.json").stat().st_mtime_ns
    refresh(here, "delta-*.json")
    assert (here / "delta-1.json").stat().st_mtime_ns == before, "what it wrote itself is not downloaded"


def test_vectors_come_when_they_are_read_and_the_oldest_make_room(two: tuple[StatePaths, StatePaths]) -> None:
    here, there = (paths.lake("float-1") for paths in two)
    names = [f"{number:064x}.parquet" for number in range(4)]
    for name in names:
        written(there / name, b"x" * 1000)
    mirror.pull(two[0].root)
    assert not here.exists()
    assert names_in(here, "*.parquet") == set(names)
    assert size_of(here / names[0]) == 1000
    with pytest.raises(FileNotFoundError):
        size_of(here / f"{9:064x}.parquet")
    copy = mirror.mirror_of(here / names[0])
    assert isinstance(copy, LiveCopy)
    mirror.register(LiveCopy(copy.root, copy.bucket, lake_bytes=2500))
    for name in names[:3]:
        fetch(here / name)
    assert {path.name for path in here.iterdir()} == set(names[1:3])
    assert size_of(here / names[0]) == 1000, "it is in the bucket as before"
    mirror.complete(two[0].root)
    assert {path.name for path in here.iterdir()} == set(names)


def test_what_a_whole_copy_has_stays_when_it_becomes_a_live_one(
    two: tuple[StatePaths, StatePaths], state_url: str
) -> None:
    here, there = two
    name = f"{1:064x}.parquet"
    written(there.lake("float-1") / name, b"x")
    gone = written(there.manifest(1) / "delta-1.json", b"x")
    root = here.root.parent.parent
    mirror.attach(root, state_url)
    mirror.pull(here.root)
    attach_live(root, state_url)
    remove_files([gone])
    mirror.pull(here.root)
    assert [path.name for path in here.root.rglob("*") if path.is_file()] == [name]
    mirror.attach(root, state_url)
    assert mirror.mirror_of(here.root).pull("notes") == 0, "it is known as what it is"  # type: ignore[union-attr]


def test_what_launcher_and_workers_tell_each_other_is_in_nobody_elses_copy(
    two: tuple[StatePaths, StatePaths], tmp_path: Path, state_url: str
) -> None:
    here, there = (paths.run(1) / "work" / mirror.EXCHANGE for paths in two)
    make_folder(there)
    assert create_if_absent(there / "stop", b"")
    written(there.parent / "keys.parquet", b"of this machine alone")
    fetch(here / "stop")
    fetch(here.parent / "keys.parquet")
    assert [path.name for path in here.parent.rglob("*") if path.is_file()] == ["stop"]
    reader = tmp_path / "reader"
    mirror.attach(reader, state_url)
    mirror.pull(StatePaths.of(reader, "notes").root)
    assert not list(reader.rglob("stop"))


def test_a_process_has_a_copy_of_its_own_and_removes_those_of_dead_ones(
    tmp_path: Path, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "m3-worker-dead"
    written(dead / "state" / "x", b"left")
    (dead / ".lock").touch()
    first, second = copy_of_this_process(state_url), copy_of_this_process(state_url)
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}


def test_threads_that_fetch_the_same_file_do_not_disturb_one_another(
    two: tuple[StatePaths, StatePaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes a file of its own until it has the whole: of one name, one would cut off what the other reads."""
    ours, theirs = two
    make_folder(ours.root)
    write_atomic(ours.root / "unit.bin", b"x" * 1000)
    names: list[str] = []
    opened = os.open

    def noted(path: str | Path, *rest: int) -> int:
        if "-pull" in str(path):
            names.append(str(path))
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", noted)
    copy = mirror.mirror_of(theirs.root / "unit.bin")
    assert copy is not None
    for _ in range(2):
        copy.download(theirs.root / "unit.bin")
    assert len(set(names)) == len(names) == 2
    assert (theirs.root / "unit.bin").read_bytes() == b"x" * 1000
    assert [path.name for path in theirs.root.iterdir() if path.name.startswith(".tmp-")] == []

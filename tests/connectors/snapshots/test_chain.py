"""Chains of snapshots, with real processes: what readers see while writers write, publish and die."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.disk import allocated_bytes
from m3core.errors import DiskFullError, LockedError, StateError, StoreError


@pytest.fixture
def chain(tmp_path: Path) -> SnapshotChain:
    return SnapshotChain(tmp_path / "g00001")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def publish(chain: SnapshotChain, text: str) -> str:
    working = chain.begin(0)
    (working / "a").write_text(text)
    (working / "folder").mkdir(exist_ok=True)
    (working / "folder" / "b").write_text(text)
    return chain.publish()


def read(chain: SnapshotChain) -> str:
    with chain.open_copy() as copy:
        return pair(copy.path)


def pair(folder: Path) -> str:
    first, second = (folder / "a").read_text(), (folder / "folder" / "b").read_text()
    assert first == second
    return first


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A process of its own with the chain's folder as first argument."""
    start = "import sys, time\nfrom pathlib import Path\nfrom connectors.snapshots.chain import SnapshotChain\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_snapshots_follow_each_other_and_only_the_current_one_stays(tmp_path: Path, chain: SnapshotChain) -> None:
    assert chain.current() is None
    assert publish(chain, "one") == chain.current() == "s000001"
    assert read(chain) == "one"
    assert publish(chain, "two") == chain.current() == "s000002"
    assert read(chain) == "two"
    assert (tmp_path / "g00001" / "CURRENT").read_text() == "s000002\n"
    assert names(tmp_path / "g00001") == {"CURRENT", "s000002", "slots", "writer.lock"}


def test_a_working_copy_starts_from_the_current_snapshot_and_can_be_dropped(chain: SnapshotChain) -> None:
    publish(chain, "one")
    working = chain.begin(0)
    assert pair(working) == "one"
    (working / "a").write_text("changed")
    assert read(chain) == "one"
    chain.discard()
    chain.discard()
    assert not working.exists()
    assert chain.current() == "s000001"
    assert publish(chain, "two") == "s000002"


def test_nothing_published_is_an_error_for_readers(chain: SnapshotChain) -> None:
    with pytest.raises(StoreError, match="nothing has been published yet") as caught:
        chain.open_copy()
    assert caught.value.remedy == "run m3 ingest first"
    chain.begin(0)
    with pytest.raises(StoreError, match="nothing has been published yet"):
        chain.open_copy()
    chain.discard()
    with pytest.raises(StoreError, match="publish without begin"):
        chain.publish()


def test_only_one_writer_at_a_time(tmp_path: Path, chain: SnapshotChain) -> None:
    chain.begin(0)
    with pytest.raises(LockedError, match="another process is writing"):
        SnapshotChain(tmp_path / "g00001").begin(0)
    code = """
    try:
        SnapshotChain(Path(sys.argv[1])).begin(0)
    except Exception as error:
        print(type(error).__name__)
    """
    assert run(code, tmp_path / "g00001").communicate()[0] == "LockedError\n"
    chain.discard()
    SnapshotChain(tmp_path / "g00001").begin(0)


def test_everything_is_readable_by_its_owner_only(tmp_path: Path, chain: SnapshotChain) -> None:
    old = os.umask(0)
    try:
        publish(chain, "one")
        publish(chain, "two")
        read(chain)
        chain.begin(0)
    finally:
        os.umask(old)
    paths = [tmp_path / "g00001", *(tmp_path / "g00001").rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert {path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_holes_stay_holes(tmp_path: Path, chain: SnapshotChain) -> None:
    working = chain.begin(0)
    with (working / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * 5000)
        file.truncate(64 << 20)
    (working / "empty").touch()
    (working / "hole").touch()
    os.truncate(working / "hole", 1 << 20)
    original = (working / "sparse").read_bytes()
    chain.publish()
    with chain.open_copy() as copy:
        assert (copy.path / "sparse").read_bytes() == original
        assert (copy.path / "hole").read_bytes() == bytes(1 << 20)
        assert (copy.path / "empty").read_bytes() == b""
        assert allocated_bytes(copy.path) < 1 << 20


def test_a_link_is_refused(tmp_path: Path, chain: SnapshotChain) -> None:
    (chain.begin(0) / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        chain.publish()
    assert chain.current() is None
    chain.discard()


def test_a_free_copy_of_the_current_snapshot_is_used_again(chain: SnapshotChain) -> None:
    publish(chain, "one")
    with chain.open_copy() as copy:
        path, inode = copy.path, (copy.path / "a").stat().st_ino
    with chain.open_copy() as again:
        assert (again.path, (again.path / "a").stat().st_ino) == (path, inode)


def test_two_readers_have_two_copies_and_a_flip_leaves_them_alone(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "one")
    first, second = chain.open_copy(), chain.open_copy()
    assert first.path != second.path
    publish(chain, "two")
    assert pair(first.path) == pair(second.path) == "one"
    with chain.open_copy() as third:
        assert (third.snapshot, pair(third.path)) == ("s000002", "two")
    first.close()
    first.close()
    second.close()
    publish(chain, "three")
    assert len([path for path in (tmp_path / "g00001" / "slots").iterdir() if path.is_dir()]) == 1
    assert read(chain) == "three"


def test_a_reader_that_dies_leaves_its_slot(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "one")
    code = "copy = SnapshotChain(Path(sys.argv[1])).open_copy(); print(copy.path, flush=True); time.sleep(600)"
    reader = run(code, tmp_path / "g00001")
    path = line(reader)
    with chain.open_copy() as copy:
        assert str(copy.path) != path
    kill(reader)
    with chain.open_copy() as copy:
        assert str(copy.path) == path
        assert pair(copy.path) == "one"


def test_a_spoiled_copy_is_made_anew(chain: SnapshotChain) -> None:
    publish(chain, "one")
    with chain.open_copy() as copy:
        (copy.path / "a").write_text("damaged")
        copy.spoil()
    assert read(chain) == "one"


@pytest.mark.parametrize("boot", ["another-boot", None])
def test_a_copy_from_before_a_restart_is_made_anew(
    tmp_path: Path, chain: SnapshotChain, monkeypatch: pytest.MonkeyPatch, boot: str | None
) -> None:
    publish(chain, "one")
    with chain.open_copy() as copy:
        (copy.path / "a").write_text("half of it reached the disk")
    boot_id = tmp_path / "boot_id"
    if boot:
        boot_id.write_text(boot)
    monkeypatch.setattr("connectors.snapshots.slots._BOOT_ID", boot_id)
    assert read(chain) == "one"


def test_a_reader_does_not_wait_longer_than_it_wants_for_others_to_copy(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "one")
    code = """
    from connectors.snapshots.slots import Slots
    with Slots(Path(sys.argv[1])).exclusive():
        print("copying", flush=True)
        time.sleep(600)
    """
    copying = run(code, tmp_path / "g00001")
    assert line(copying) == "copying"
    with pytest.raises(LockedError, match="has been copying a snapshot for 0 s"):
        chain.open_copy(wait=0)
    kill(copying)
    assert read(chain) == "one"


def test_a_publish_while_someone_copies_is_published_and_cleaned_up_later(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "one")
    folder = tmp_path / "g00001"
    (folder / "s000009").mkdir()  # renamed by a run that died before it replaced CURRENT
    (folder / "working").mkdir()
    (folder / "working" / "a").write_text("left by a killed run")
    assert read(chain) == "one"
    working = chain.begin(0)
    assert pair(working) == "one"
    assert names(folder) == {"CURRENT", "s000001", "slots", "working", "writer.lock"}
    chain.discard()


def test_a_writer_killed_anywhere_leaves_the_published_snapshot(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "0")
    code = """
    chain = SnapshotChain(Path(sys.argv[1]))
    number = int(sys.argv[2])
    print("started", flush=True)
    while True:
        number += 1
        working = chain.begin(0)
        (working / "a").write_text(str(number) * 3000)
        (working / "folder" / "b").write_text(str(number) * 3000)
        chain.publish()
        print(number, flush=True)
    """
    last = 0
    for published, delay in ((0, 0.0), (1, 0.0), (1, 0.002), (2, 0.006), (1, 0.013)):
        writer = run(code, tmp_path / "g00001", str(last))
        assert line(writer) == "started"
        for _ in range(published):
            line(writer)
        time.sleep(delay)
        kill(writer)
        found = read(chain)
        reached = int(found[: len(found) // 3000] or 0)
        assert reached >= last + published
        last = reached
    assert publish(chain, "end") == chain.current()
    assert read(chain) == "end"
    assert not (tmp_path / "g00001" / "working").exists()


def test_readers_beside_a_writer_that_flips_always_see_one_whole_snapshot(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "0")
    code = """
    chain = SnapshotChain(Path(sys.argv[1]))
    seen = []
    while not seen or seen[-1] < 25:
        with chain.open_copy() as copy:
            first, second = (copy.path / "a").read_text(), (copy.path / "folder" / "b").read_text()
            assert first == second
            seen.append(int(first))
    assert seen == sorted(seen)
    print("whole", flush=True)
    """
    readers = [run(code, tmp_path / "g00001") for _ in range(2)]
    for number in range(1, 26):
        publish(chain, str(number))
    assert [reader.communicate()[0] for reader in readers] == ["whole\n", "whole\n"]


@pytest.mark.parametrize("text", ["", "s1", "../s000001", "s000001/x", "garbage\udcff"])
def test_a_damaged_current_is_said(tmp_path: Path, chain: SnapshotChain, text: str) -> None:
    publish(chain, "one")
    (tmp_path / "g00001" / "CURRENT").write_bytes(text.encode(errors="surrogateescape"))
    for request in (chain.current, chain.open_copy, lambda: chain.begin(0)):
        with pytest.raises(StateError, match="CURRENT"):
            request()


def test_a_missing_snapshot_is_said(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "one")
    (tmp_path / "g00001" / "CURRENT").write_text("s000007\n")
    with pytest.raises(StoreError, match="s000007 is missing although it is the current snapshot"):
        chain.open_copy()
    with pytest.raises(StateError, match="s000007 is missing although it is the current snapshot"):
        chain.begin(0)


def test_too_little_space_stops_before_anything_is_written(tmp_path: Path, chain: SnapshotChain) -> None:
    with pytest.raises(DiskFullError, match=r"MiB are free and \d+ MiB are needed"):
        chain.begin(1 << 60)
    publish(chain, "one")
    with pytest.raises(DiskFullError):
        chain.begin(1 << 60)
    assert not (tmp_path / "g00001" / "working").exists()
    chain.begin(0)
    chain.discard()
    copy = chain.open_copy()
    with pytest.raises(DiskFullError):
        chain.open_copy(min_free=1 << 60)
    copy.close()
    assert read(chain) == "one"


def test_a_published_snapshot_stands_although_no_reader_copy_fits(tmp_path: Path, chain: SnapshotChain) -> None:
    chain.begin(0)
    assert chain.publish(min_free=1 << 60) == chain.current() == "s000001"
    with chain.open_copy() as copy:
        assert copy.snapshot == "s000001"


def test_a_full_disk_is_an_error_and_loses_nothing(mounted: Path) -> None:
    chain = SnapshotChain(mounted / "g00001")
    publish(chain, "one")
    working = chain.begin(0)
    with pytest.raises(OSError, match="No space left"):
        (working / "large").write_bytes(bytes(4 << 20))
    with pytest.raises(DiskFullError, match="no space left"):
        chain.publish()
    chain.discard()
    assert read(chain) == "one"
    assert publish(chain, "two") == "s000002"
    ballast = mounted / "ballast"
    working = chain.begin(0)
    (working / "large").write_bytes(bytes(900 << 10))
    chain.publish()
    ballast.write_bytes(bytes(100 << 10))
    with pytest.raises(DiskFullError):
        chain.begin(0)
    assert chain.current() == "s000003"


def test_a_dropped_folder_is_gone_and_can_be_dropped_again(tmp_path: Path, chain: SnapshotChain) -> None:
    chain.drop()
    publish(chain, "one")
    with chain.open_copy():
        pass
    chain.drop()
    chain.drop()
    assert not (tmp_path / "g00001").exists()
    assert chain.current() is None
    publish(chain, "anew")
    assert read(chain) == "anew"


def test_what_is_held_is_not_dropped(tmp_path: Path, chain: SnapshotChain) -> None:
    publish(chain, "one")
    with chain.open_copy() as copy:
        publish(chain, "two")
        with pytest.raises(LockedError, match="held by readers"):
            chain.drop()
        assert copy.path.exists()
    assert read(chain) == "two"
    writing = SnapshotChain(tmp_path / "g00001")
    writing.begin(0)
    with pytest.raises(LockedError, match="is writing"):
        chain.drop()
    writing.discard()
    chain.drop()
    assert chain.current() is None


def test_a_sweep_leaves_the_published_snapshot_and_copies_of_it_only(tmp_path: Path, chain: SnapshotChain) -> None:
    assert chain.sweep() == 0
    publish(chain, "one")
    held = chain.open_copy()
    publish(chain, "two")
    folder = tmp_path / "g00001"
    (folder / "s000000").mkdir()
    (folder / "working").mkdir()
    assert chain.sweep() == 1
    assert held.path.exists()
    assert {path.name for path in folder.iterdir() if path.name[0] in "sw" and path.name != "slots"} == {
        "s000002",
        "writer.lock",
    }
    held.close()
    assert chain.sweep() == 0
    assert not held.path.exists()
    assert read(chain) == "two"
    writing = SnapshotChain(folder)
    working = writing.begin(0)
    assert chain.sweep() == 0
    assert working.exists()
    writing.discard()

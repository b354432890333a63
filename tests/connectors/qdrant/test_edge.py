"""Qdrant Edge beyond the conformance suite: snapshots of a run, killed runs, full disks, damage, deadlines."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from connectors.filters.tree import Everything
from connectors.protocol import EmbeddedSink, Patch, StoreOptions, StoreTimeoutError
from connectors.qdrant.edge import searcher as searcher_module
from connectors.qdrant.edge.reader import EdgeReader
from connectors.qdrant.edge.schema import READ_ONLY_FILES
from connectors.qdrant.edge.searcher import EdgeSearcher, _nearest
from connectors.qdrant.edge.sink import EdgeSink
from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.readahead import ReadAhead
from m3core.errors import DiskFullError, LockedError, StoreError
from m3core.types import Signal
from tests.conformance.data import SCHEMA, make_query, make_rows
from tests.conformance.store import Store, quick_folder


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with quick_folder(tmp_path) as folder:
        yield folder / "main"


def sink(store: Store) -> EmbeddedSink:
    opened = store.sink()
    assert isinstance(opened, EmbeddedSink)
    return opened


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(code: str, root: Path) -> subprocess.Popen[str]:
    """A process of its own that has `sink` open on the store in `root`."""
    start = """
    import sys, time
    from pathlib import Path
    from connectors.protocol import StoreOptions
    from connectors.registry import open_sink
    from tests.conformance.data import SCHEMA, make_rows
    sink = open_sink("qdrant-edge", StoreOptions("main", Path(sys.argv[1]), SCHEMA, min_free_bytes=int(sys.argv[2])))
    sink.ensure(SCHEMA)
    """
    command = [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code), str(root), str(16 << 20)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_run_without_changes_copies_nothing(store: Store) -> None:
    store.write(make_rows(3))
    chain = store.root / "g00001"
    before = names(chain)
    opened = sink(store)
    assert not opened.dirty
    assert (opened.count(), len(list(opened.scan()))) == (3, 3)
    opened.write([])
    opened.delete([])
    opened.patch([])
    opened.flush()
    opened.publish()
    assert not opened.dirty
    assert names(chain) == before
    assert (chain / "CURRENT").read_text() == "s000001\n"


def test_the_first_run_publishes_even_without_rows(store: Store) -> None:
    opened = sink(store)
    assert opened.dirty
    opened.publish()
    assert store.count() == 0
    assert store.listed() == []


def test_nothing_is_visible_before_publish_and_everything_after(store: Store) -> None:
    rows = make_rows(8)
    store.write(rows[:3])
    assert store.count() == 3
    opened = sink(store)
    opened.write(rows[3:])
    opened.delete([rows[0].chunk.id])
    opened.flush()
    assert opened.count() == 7
    assert store.count() == 3
    assert store.fetch([rows[0].chunk.id]).keys() == {rows[0].chunk.id}
    opened.publish()
    assert store.count() == 7
    assert store.fetch([rows[0].chunk.id]) == {}


def test_discard_and_close_drop_what_was_not_published(store: Store) -> None:
    rows = make_rows(8)
    store.write(rows[:3])
    opened = sink(store)
    opened.write(rows[3:])
    opened.discard()
    assert not opened.dirty
    assert opened.count() == 3
    opened.write(rows[3:5])
    opened.publish()
    opened.write(rows[5:])
    opened.close()
    opened.close()
    assert len(store.listed()) == store.count() == 5


def test_a_killed_run_leaves_the_old_state_and_the_next_run_ends_like_an_undisturbed_one(store: Store) -> None:
    rows = make_rows(40)
    store.write(rows[:10])
    before = store.listed()
    code = """
    sink.write(make_rows(30))
    sink.delete([make_rows(1)[0].chunk.id])
    sink.flush()
    print("written", flush=True)
    time.sleep(600)
    """
    writer = run(code, store.root)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    with pytest.raises(LockedError, match="another process is writing"):
        sink(store).write(rows[:1])
    assert store.count() == 10  # a search while the other process writes
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert store.listed() == before
    assert store.count() == 10
    store.write(rows)
    assert store.listed() == sorted((row.chunk.id, 1) for row in rows)
    assert names(store.root / "g00001") == {"CURRENT", "s000002", "slots", "writer.lock"}


def test_a_search_follows_what_another_process_publishes(store: Store) -> None:
    store.write(make_rows(5))
    assert store.count() == 5
    assert run("sink.write(make_rows(20)); sink.publish(); sink.close()", store.root).communicate()[0] == ""
    assert store.count() == 20
    assert len(store.search(Signal.MULTI, make_query(0), limit=50)) == 20


def test_a_warm_reader_reads_ahead_in_what_is_published_later_too(store: Store) -> None:
    store.write(make_rows(5))
    reader = EdgeReader(store.options)
    reader.warm()
    first = reader._ahead
    assert first is not None
    store.write(make_rows(9))
    assert reader.shard().count(edge.CountRequest(exact=True)) == 9
    assert reader._ahead not in (None, first)
    assert first._stopped.is_set()
    reader.close()
    reader.close()


def test_warming_waits_until_the_snapshot_is_read_but_not_longer_than_it_may(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    read: list[Path] = []

    def slowly(ahead: ReadAhead, path: Path, buffer: bytearray) -> None:
        go.wait(10)
        read.append(path)

    monkeypatch.setattr(ReadAhead, "_read", slowly)
    store.write(make_rows(5))

    async def warm(timeout: float) -> int:
        searcher = EdgeSearcher(store.options)
        try:
            await searcher.warm(timeout)
            return len(read)
        finally:
            go.set()
            await searcher.aclose()

    assert asyncio.run(warm(1.0)) == 0, "it returns in time, and says nothing of what is still being read"
    read.clear()
    assert asyncio.run(warm(30.0)) >= 10


def test_searchers_of_two_processes_and_of_one_process_do_not_disturb_each_other(store: Store) -> None:
    store.write(make_rows(5))
    others = [Store.of("qdrant-edge", store.root) for _ in range(2)]
    assert [other.count() for other in (*others, store)] == [5, 5, 5]
    store.write(make_rows(9))
    assert [other.count() for other in (*others, store)] == [9, 9, 9]
    for other in others:
        other.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB of its own. ext4: on a tmpfs reading a hole takes space, and Edge's files are full of holes."""
    with quick_folder(tmp_path) as folder:
        image, place = folder / "image", folder / "disk"
        place.mkdir()
        image.touch()
        os.truncate(image, 64 << 20)
        for command in (["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
            if shutil.which(command[0]) is None:
                pytest.skip(f"{command[0]} is not here")
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"a small disk is not permitted here: {done.stderr.strip()}")
        yield place
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_ours_and_loses_nothing(small_disk: Path) -> None:
    store = Store.of("qdrant-edge", small_disk / "main")
    store.write(make_rows(50))
    code = """
    from dataclasses import replace
    import numpy as np
    from m3core.errors import DiskFullError
    try:
        for first in range(100, 1000, 10):
            rows = make_rows(10, first=first)
            large = np.ones((2000, 64), np.float16) / 8
            sink.write([replace(row, vectors=replace(row.vectors, multi=large)) for row in rows])
    except DiskFullError as error:
        print(first > 100, error.code, error.remedy, flush=True)
    sink.close()
    """
    writer = run(code, store.root)
    assert writer.communicate()[0] == (
        f"True disk-full free space on the file system of {store.root}, or move storage.path to a larger one, "
        "and run again; everything committed is safe\n"
    )
    assert writer.returncode == 0
    assert store.count() == len(store.listed()) == 50
    store.write(make_rows(60))
    assert store.count() == 60
    store.close()


def test_too_little_space_stops_before_a_batch_is_written(store: Store) -> None:
    store.write(make_rows(2))
    careful = EdgeSink(replace(store.options, min_free_bytes=1 << 60))
    for change in (
        lambda: careful.write(make_rows(3)),
        lambda: careful.delete([make_rows(1)[0].chunk.id]),
    ):
        with pytest.raises(DiskFullError, match="MiB are needed"):
            change()
    assert not careful.dirty
    assert store.count() == 2


def test_a_damaged_private_copy_is_made_anew(store: Store) -> None:
    store.write(make_rows(5))
    for path in (store.root / "g00001" / "slots" / "1" / "data" / "shard").rglob("*.json"):
        path.write_text("damaged")
    with pytest.raises(StoreError, match="qdrant-edge: "):
        store.count()
    assert store.count() == 5


@pytest.mark.parametrize(
    ("key", "value", "message", "remedy"),
    [
        ("edge", "0.8", 'has edge "0.8", not "0.9"', "from the lake: m3 load"),
        ("format", 1, "has format 1, not 2", "from the lake: m3 load"),
        ("encoder_fingerprint", "float-1", 'has encoder_fingerprint "float-1"', "build a new generation"),
    ],
)
def test_a_folder_of_another_make_is_refused(store: Store, key: str, value: object, message: str, remedy: str) -> None:
    store.write(make_rows(1))
    for path in store.root.rglob("schema.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    for request in (store.sink, store.count):
        with pytest.raises(StoreError, match=message) as caught:
            request()
        assert remedy in caught.value.remedy


def hashed(folder: Path) -> dict[str, str]:
    """The shared files below `folder` by their content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in READ_ONLY_FILES
        for path in folder.rglob(pattern)
    }


def test_reading_changes_no_file_that_readers_share(store: Store) -> None:
    """Edge opens shared files for writing too: the published snapshot is safe only as long as it leaves them alone."""
    rows = make_rows(300)
    for start in range(0, 300, 100):
        store.write(rows[start : start + 100])
    store.change(lambda sink: sink.delete([row.chunk.id for row in rows[:40]]))
    patch = Patch(rows[50].chunk.id, rows[50].chunk.metadata, ("someone",), 2)
    store.change(lambda sink: sink.patch([patch]))
    published = SnapshotChain(store.options.folder).current_folder()
    assert published is not None
    before = hashed(published)
    assert {Path(name).name for name in before} >= {"chunk_0.mmap", "page_0.dat"}
    ids = [row.chunk.id for row in rows[30:200]]
    for turn in range(3):
        for signal_ in Signal:
            assert store.search(signal_, make_query(turn), limit=200)
            assert store.score(signal_, make_query(turn), ids)
        assert len(store.fetch(ids)) == 160
        assert (store.count(), len(store.listed())) == (260, 260)
    copies = [slot / "data" for slot in (store.options.folder / "slots").iterdir() if (slot / "SNAPSHOT").is_file()]
    assert all((copy / name).samefile(published / name) for copy in copies for name in before)
    assert copies
    store.close()
    assert hashed(published) == before


def test_before_the_first_run_a_search_says_what_to_do(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing has been published yet") as caught:
        store.count()
    assert caught.value.remedy == "run m3 ingest first"


def test_a_sink_ensures_only_the_schema_it_was_opened_with(store: Store) -> None:
    with pytest.raises(StoreError, match="opened for another schema"):
        EdgeSink(store.options).ensure(replace(SCHEMA, generation=2))


def test_many_requests_at_once_are_answered_one_after_the_other(store: Store) -> None:
    store.write(make_rows(30))

    async def ask() -> list[int]:
        searcher = EdgeSearcher(store.options)
        try:
            requests = [searcher.search(Signal.DENSE, make_query(n), Everything(), 7, 300.0) for n in range(20)]
            return [len(hits) for hits in await asyncio.gather(*requests)]
        finally:
            await searcher.aclose()
            await searcher.aclose()

    assert asyncio.run(ask()) == [7] * 20


def test_a_request_that_waits_behind_another_past_its_deadline_is_not_run(store: Store) -> None:
    store.write(make_rows(30))

    async def ask() -> tuple[object, object]:
        searcher = EdgeSearcher(store.options)
        try:
            slow = searcher.search(Signal.MULTI, make_query(0, tokens=80), Everything(), 7, 300.0)
            late = searcher.count(Everything(), 1e-6)
            return await asyncio.gather(slow, late, return_exceptions=True)
        finally:
            await searcher.aclose()

    hits, late = asyncio.run(ask())
    assert isinstance(hits, list)
    assert isinstance(late, StoreTimeoutError)


def test_an_exhaustive_multi_vector_search_stops_at_its_deadline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def counted(*arguments: Any) -> Any:
        steps.append(1)
        time.sleep(0.01)
        return _nearest(*arguments)

    monkeypatch.setattr(searcher_module, "_MULTI_IDS", 1)
    monkeypatch.setattr(searcher_module, "_nearest", counted)
    store.write(make_rows(200))
    assert len(store.search(Signal.MULTI, make_query(0), limit=300)) == len(steps) == 200
    steps.clear()
    with pytest.raises(StoreTimeoutError, match=r"did not answer within 0\.1 s"):
        store.ask(lambda searcher: searcher.search(Signal.MULTI, make_query(0), Everything(), 300, 0.1))
    store.close()  # waits for the store's thread
    assert len(steps) < 200


def test_options_name_the_folder_of_one_generation(root: Path) -> None:
    opened = EdgeSink(StoreOptions("main", root, replace(SCHEMA, generation=12), min_free_bytes=0))
    opened.ensure(replace(SCHEMA, generation=12))
    opened.publish()
    assert names(root) == {"g00012"}
    assert names(root / "g00012") == {"CURRENT", "s000001", "slots", "writer.lock"}
    assert names(root / "g00012" / "s000001") == {"schema.json", "shard"}

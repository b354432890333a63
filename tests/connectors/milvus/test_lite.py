"""Milvus Lite in process beyond the conformance suite: snapshots of a run, killed runs, readers, full disks, damage."""

from __future__ import annotations

import os
import signal as signals
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.milvus.lite.server import LiteServer
from connectors.milvus.lite.sink import LiteSink
from connectors.protocol import EmbeddedSink
from m3core.errors import DiskFullError, LockedError, StoreError
from m3core.types import Signal
from tests.conformance.data import make_query, make_rows
from tests.conformance.store import Store, quick_store

pytestmark = pytest.mark.xdist_group("milvus")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with quick_store("milvus-lite", tmp_path) as opened:
        yield opened


def sink(store: Store) -> EmbeddedSink:
    opened = store.sink()
    assert isinstance(opened, EmbeddedSink)
    return opened


def chain(store: Store) -> Path:
    return store.root / "g00001"


def test_a_run_without_changes_copies_nothing(store: Store) -> None:
    store.write(make_rows(3))
    before = {path.name for path in chain(store).iterdir()}
    opened = sink(store)
    assert not opened.dirty
    opened.write([])
    opened.delete([])
    opened.patch([])
    opened.flush()
    opened.publish()
    assert not opened.dirty
    assert {path.name for path in chain(store).iterdir()} == before
    assert (chain(store) / "CURRENT").read_text() == "s000001\n"


def test_nothing_is_visible_before_publish_and_everything_after(store: Store) -> None:
    rows = make_rows(8)
    store.write(rows[:3])
    assert store.count() == 3
    opened = sink(store)
    opened.write(rows[3:])
    opened.delete([rows[0].chunk.id])
    assert opened.count() == 7
    assert store.count() == 3
    assert store.fetch([rows[0].chunk.id]).keys() == {rows[0].chunk.id}
    opened.publish()
    assert store.count() == 7
    assert store.fetch([rows[0].chunk.id]) == {}
    assert len(store.search(Signal.MULTI, make_query(0), limit=20)) == 7


def test_discard_and_close_drop_what_was_not_published(store: Store) -> None:
    rows = make_rows(6)
    store.write(rows[:3])
    opened = sink(store)
    opened.write(rows[3:])
    opened.discard()
    assert not opened.dirty
    assert opened.count() == 3
    opened.write(rows[3:4])
    opened.close()
    assert store.listed() == sorted((row.chunk.id, 1) for row in rows[:3])


def test_a_killed_run_leaves_nothing_behind(store: Store) -> None:
    rows = make_rows(6)
    store.write(rows[:2])
    code = """
    import sys, time
    from dataclasses import replace
    from pathlib import Path
    from tests.conformance.data import make_rows
    from tests.conformance.store import Store
    sink = Store.of("milvus-lite", Path(sys.argv[1])).sink()
    sink.write(make_rows(6))
    print("written", flush=True)
    time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        with pytest.raises(LockedError, match="another process is writing"):
            sink(store).write(rows)
        assert store.count() == 2
        os.kill(process.pid, signals.SIGKILL)
    assert store.listed() == sorted((row.chunk.id, 1) for row in rows[:2])
    store.write(rows[2:3])
    assert store.count() == 3
    assert not (chain(store) / "working").exists()


def test_two_readers_and_a_run_work_side_by_side(store: Store) -> None:
    rows = make_rows(5)
    store.write(rows[:2])
    other = Store.of("milvus-lite", store.root)
    opened = sink(store)
    opened.write(rows[2:])
    assert store.count() == other.count() == 2
    opened.publish()
    assert store.count() == other.count() == 5
    other.close()


def test_the_socket_is_in_a_private_folder_and_gone_afterwards(tmp_path: Path) -> None:
    server = LiteServer(tmp_path / "data", "main")
    socket = Path(server.url.removeprefix("unix:"))
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    with pytest.raises(StoreError, match="store 'main': Milvus Lite cannot open its folder"):
        LiteServer(tmp_path / "data", "main")
    server.stop()
    assert not socket.parent.exists()
    LiteServer(tmp_path / "data", "main").stop()


def test_too_little_space_is_an_error_before_anything_is_written(store: Store) -> None:
    store.write(make_rows(2))
    full = LiteSink(replace(store.options, min_free_bytes=1 << 60))
    with pytest.raises(DiskFullError):
        full.write(make_rows(4))
    full.close()
    assert store.count() == 2


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0}'])
def test_a_folder_of_something_else_is_refused(store: Store, text: str) -> None:
    store.write(make_rows(1))
    store.close()
    (chain(store) / "s000001" / "schema.json").write_text(text)
    with pytest.raises(StoreError, match=r"was not made by threefold|has collection null|has format 0"):
        store.sink()


def test_before_the_first_run_a_search_says_what_to_do(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing has been published yet") as caught:
        store.count()
    assert caught.value.remedy == "run m3 ingest first"

"""Loading while the server is killed, frozen and started again: afterwards every row is there once, as written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from connectors.bulk.items import Budget
from connectors.milvus import bulk as bulk_module
from connectors.milvus import sink as sink_module
from connectors.milvus.sink import MilvusSink
from connectors.protocol import Connection, Patch, StoreOptions
from connectors.queries import payload_of
from m3core.errors import StoreError
from m3core.types import Row, Signal
from tests.conformance.data import make_query, make_rows, with_chunk
from tests.conformance.store import Store
from tests.servers.milvus import MilvusServer, start_milvus
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = [pytest.mark.xdist_group("milvus"), pytest.mark.slow]


@dataclass
class Unreliable:
    """A server that is killed or frozen as the n-th change begins, or shortly after, and comes back on its port."""

    folder: Path
    server: MilvusServer
    kills: dict[int, float] = field(default_factory=dict)
    freezes: dict[int, float] = field(default_factory=dict)
    changes: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def before_request(self) -> None:
        self.changes += 1
        if (delay := self.kills.get(self.changes)) is not None:
            self._later(delay, self._kill)
        if (seconds := self.freezes.get(self.changes)) is not None:
            self._later(0.0, lambda: self._freeze(seconds))

    def settle(self) -> None:
        """Wait until it runs again."""
        for thread in self.threads:
            thread.join()

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        def run() -> None:
            time.sleep(delay)
            act()

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()

    def _kill(self) -> None:
        self.server.process.kill()
        time.sleep(0.3)
        self.server = start_milvus(self.folder, int(self.server.url.rpartition(":")[2]))

    def _freeze(self, seconds: float) -> None:
        with self.server.process.frozen():
            time.sleep(seconds)


class Loaded(Store):
    """A store on the unreliable server."""

    def __init__(self, root: Path, unreliable: Unreliable) -> None:
        super().__init__("milvus", root, Store.of("milvus", root).schema)
        self.unreliable = unreliable

    @property
    def options(self) -> StoreOptions:
        return replace(super().options, connection=Connection(self.unreliable.server.url))


@pytest.fixture
def unreliable(tmp_path: Path) -> Iterator[Unreliable]:
    folder = tmp_path / "server"
    try:
        made = Unreliable(folder, start_milvus(folder))
    except MissingPartError as missing:
        skip_or_fail(missing)
    yield made
    made.settle()
    made.server.process.stop()


@pytest.fixture
def store(unreliable: Unreliable, tmp_path: Path) -> Iterator[Loaded]:
    opened = Loaded(tmp_path / "store", unreliable)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests from few rows; a change waits 3 s, because a frozen server is to be noticed."""
    monkeypatch.setattr(sink_module, "BUDGET", Budget(bytes=1 << 20, rows=10))
    monkeypatch.setattr(bulk_module, "REQUEST_SECONDS", 3.0)
    monkeypatch.setattr(sink_module, "PATIENCE_SECONDS", 900.0)


def is_whole(store: Store, rows: list[Row]) -> None:
    """Every row is there once, as it was written, with all its vectors."""
    ids = [row.chunk.id for row in rows]
    assert store.listed() == sorted((row.chunk.id, row.revision) for row in rows)
    assert store.fetch(ids) == {row.chunk.id: payload_of(row) for row in rows}
    oracle = Store.of("memory", store.root / "oracle")
    oracle.write(rows)
    for signal in Signal:
        expected = oracle.score(signal, make_query(1, tokens=40), ids)
        assert store.score(signal, make_query(1, tokens=40), ids) == pytest.approx(expected, abs=1e-6)
    oracle.close()


def load(store: Loaded, rows: list[Row]) -> None:
    """Load, patch and delete, with a sink whose requests meet what the server is going to do."""
    store.write([replace(with_chunk(row, text="old"), revision=1) for row in rows[::3]])
    sink = MilvusSink(replace(store.options, before_request=store.unreliable.before_request))
    wanted = [replace(row, revision=2) for row in rows]
    result = sink.write(wanted)
    assert (result.acknowledged, result.failures) == (len(rows), ())
    store.unreliable.settle()
    sink.patch([Patch(row.chunk.id, {"kind": "patched"}, ("staff",), 3) for row in rows[:20]])
    sink.delete([row.chunk.id for row in rows[-15:]])
    sink.close()
    patched = [replace(with_chunk(row, metadata={"kind": "patched"}, acl=("staff",)), revision=3) for row in rows[:20]]
    is_whole(store, [*patched, *wanted[20:-15]])


def test_a_server_that_is_killed_during_a_load_loses_and_doubles_nothing(store: Loaded) -> None:
    # Before a request, in the middle of one, and among the parts as well as among the rows.
    store.unreliable.kills = {4: 0.0, 15: 0.01, 33: 0.002}
    load(store, make_rows(200))
    assert store.unreliable.changes > 33


def test_a_server_that_freezes_during_a_load_loses_and_doubles_nothing(store: Loaded) -> None:
    store.unreliable.freezes = {3: 5.0, 20: 4.0}
    load(store, make_rows(120))


def test_a_server_that_stays_down_ends_in_an_error_and_the_next_run_goes_on(
    store: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "PATIENCE_SECONDS", 2.0)
    rows = make_rows(30)
    store.write(rows[:5])
    sink = MilvusSink(store.options)
    sink.ensure(store.schema)
    store.unreliable.server.process.kill()
    with pytest.raises(StoreError, match=r"store 'main' took no row for \d s \(unreachable\); \d+ wait"):
        sink.write(rows)
    sink.close()
    url = store.unreliable.server.url
    store.unreliable.server = start_milvus(store.unreliable.folder, int(url.rpartition(":")[2]))
    store.write(rows)
    is_whole(store, rows)

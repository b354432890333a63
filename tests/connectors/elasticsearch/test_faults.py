"""Loading through a proxy that fails by a seed: afterwards every row is there once, and the report is exact."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from elasticsearch import Elasticsearch

from connectors.bulk.items import Budget, Item, Outcome
from connectors.elasticsearch import sink as sink_module
from connectors.elasticsearch.bulk import send_bulk
from connectors.elasticsearch.sink import ElasticsearchSink
from connectors.protocol import Connection, Patch, StoreOptions
from connectors.queries import payload_of
from m3core.errors import StoreError
from m3core.types import Row, Signal
from tests.conformance.data import make_query, make_rows, with_chunk
from tests.conformance.store import Store
from tests.servers.elasticsearch import start_elasticsearch
from tests.servers.faults import Answer, Choose, Fault, FaultProxy, Freeze, Partly, Reset, fault_proxy, no_fault
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = [pytest.mark.xdist_group("elasticsearch"), pytest.mark.slow]

FAULTS: tuple[Fault, ...] = (
    Answer(429),
    Answer(429, retry_after=1),
    Answer(503, type="unavailable_shards_exception"),
    Answer(502, type="proxy"),
    Reset("before"),
    Reset("after"),
    Reset("middle"),
    Freeze(4.0, forward=True),
    Freeze(4.0, forward=False),
    Partly(429, whole=False),
    Partly(503, whole=True),
    Partly(500, whole=False),
)


def seeded(seed: int, often: float) -> Choose:
    """Faults of bulk requests, each kind at least once, then by chance."""
    random = Random(seed)
    first = random.sample(FAULTS, len(FAULTS))

    def choose(method: str, path: str) -> Fault | None:
        if not path.endswith("/_bulk"):
            return None
        if random.random() < often:
            return first.pop() if first else random.choice(FAULTS)
        return None

    return choose


@pytest.fixture(autouse=True)
def _small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests from few rows. A bulk request waits 3 s, the others as long as ever: the machine may be busy."""

    def impatient(client: Elasticsearch, options: StoreOptions, items: Sequence[Item]) -> list[Outcome]:
        return send_bulk(client.options(request_timeout=3.0), options, items)

    monkeypatch.setattr(sink_module, "BUDGET", Budget(bytes=48_000, rows=16))
    monkeypatch.setattr(sink_module, "send_bulk", impatient)
    monkeypatch.setattr(sink_module, "PATIENCE_SECONDS", 900.0)


@pytest.fixture
def through(store: Store, server: str) -> Iterator[object]:
    """A sink whose requests go through a proxy, made by a function of the faults."""
    opened: list[object] = []

    def make(choose: Choose, **changes: object) -> tuple[ElasticsearchSink, FaultProxy]:
        context = fault_proxy(server, choose)
        proxy = context.__enter__()
        options: StoreOptions = replace(
            store.options, connection=replace(store.options.connection, url=proxy.url), **changes
        )
        sink = ElasticsearchSink(options)
        opened.extend((sink.close, lambda: context.__exit__(None, None, None)))
        return sink, proxy

    yield make
    for close in opened:
        close()  # type: ignore[operator]


def is_whole(store: Store, rows: list[Row]) -> None:
    """Every row is there once, as it was written, and is found by its tokens."""
    assert store.listed() == sorted((row.chunk.id, row.revision) for row in rows)
    assert store.fetch([row.chunk.id for row in rows]) == {row.chunk.id: payload_of(row) for row in rows}
    assert {hit.id for hit in store.search(Signal.LEXICAL, make_query(0, tokens=80), limit=5000)} == {
        row.chunk.id for row in rows
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_no_row_is_lost_doubled_or_old_whatever_fails(store: Store, through: object, seed: int) -> None:
    rows = make_rows(400, seed)
    sink, proxy = through(seeded(seed, 0.45))  # type: ignore[operator]
    store.write([replace(with_chunk(row, text="old"), revision=1) for row in rows[::3]])
    wanted = [replace(row, revision=2) for row in rows]
    result = sink.write(wanted)
    assert (result.acknowledged, result.failures) == (len(rows), ())
    sink.patch([Patch(row.chunk.id, {"kind": "patched"}, ("staff",), 3) for row in rows[:60]])
    sink.delete([row.chunk.id for row in rows[350:]])
    sink.flush()
    patched = [replace(with_chunk(row, metadata={"kind": "patched"}, acl=("staff",)), revision=3) for row in rows[:60]]
    is_whole(store, [*patched, *wanted[60:350]])
    met = Counter(type(fault).__name__ for _, _, fault in proxy.requests if fault)
    assert met.keys() == {"Answer", "Reset", "Freeze", "Partly"}


def test_a_poison_row_among_faults_is_the_only_one_named(store: Store, through: object) -> None:
    rows = make_rows(120)
    store.write([])
    wider = replace(store.schema, fields={**store.schema.fields, "newer": store.schema.fields["kind"]})
    sink, _ = through(seeded(3, 0.3), schema=wider)  # type: ignore[operator]
    poison = with_chunk(rows[55], metadata={"newer": "x"})
    result = sink.write([*rows[:55], poison, *rows[56:]])
    assert result.acknowledged == 119
    assert [(failure.id, failure.kind) for failure in result.failures] == [(poison.chunk.id, "permanent")]
    is_whole(store, [*rows[:55], *rows[56:]])


def test_a_row_too_large_for_the_server_is_named_and_the_others_go_in(store: Store, through: object) -> None:
    """A proxy that takes no more than 16 KB, as gateways do."""
    rows = make_rows(12)
    large = with_chunk(rows[5], text="x" * 40_000)
    store.write([])
    sink, proxy = through(no_fault)  # type: ignore[operator]
    proxy.most_bytes = 16_000
    result = sink.write([*rows[:5], large, *rows[6:]])
    assert result.acknowledged == 11
    assert [(failure.id, failure.kind) for failure in result.failures] == [(large.chunk.id, "too-large")]
    is_whole(store, [*rows[:5], *rows[6:]])


def test_a_server_that_stays_down_ends_in_an_error_and_nothing_is_reported_as_written(
    store: Store, through: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "PATIENCE_SECONDS", 2.0)
    store.write([])
    sink, proxy = through(lambda method, path: Reset("before"))  # type: ignore[operator]
    with pytest.raises(StoreError, match=r"store 'main' took no row for \d s \(ConnectionError\); 30 wait"):
        sink.write(make_rows(30))
    assert store.count() == 0
    proxy.choose = no_fault
    assert sink.write(make_rows(30)).acknowledged == 30
    is_whole(store, make_rows(30))


def test_the_documents_never_show_in_what_goes_wrong(store: Store, through: object) -> None:
    canary = "canary word 4711"
    rows = [with_chunk(row, text=canary, title=canary, metadata={"kind": canary}) for row in make_rows(3)]
    store.write([])
    narrow = {name: kind for name, kind in store.schema.fields.items() if name != "größe"}
    sink, _ = through(no_fault, schema=replace(store.schema, fields={**narrow, "x": "string"}))  # type: ignore[operator]
    result = sink.write([with_chunk(rows[0], metadata={"x": canary}), *rows[1:]])
    assert len(result.failures) == 1
    assert canary not in json.dumps([failure.reason for failure in result.failures])


def load_while_it_is_killed(folder: Path, count: int, kills: int) -> None:
    """Write and rewrite rows in batches as a run does, while the node is killed and started again at seeded moments."""
    random = Random(count)
    try:
        first = start_elasticsearch(folder / "node")
    except MissingPartError as missing:
        skip_or_fail(missing)
    port = int(first.url.rpartition(":")[2])
    node = [first]
    rows = [replace(row, revision=2) for row in make_rows(count)]
    batches = [rows[start : start + 256] for start in range(0, count, 256)]
    threads: list[threading.Thread] = []

    def restart(delay: float) -> None:
        time.sleep(delay)
        node[0].process.kill()
        node[0] = start_elasticsearch(folder / "node", port)

    store = Own(folder / "store", first.url)
    try:
        store.write([replace(with_chunk(row, text="old"), revision=1) for row in rows[::7]])
        sink = ElasticsearchSink(replace(store.options, revision=2))
        sink.ensure(store.schema)
        deadly = set(random.sample(range(len(batches)), kills))
        acknowledged, failures = 0, 0
        for place, batch in enumerate(batches):
            if place in deadly:
                threads.append(threading.Thread(target=restart, args=(random.random() / 4,)))
                threads[-1].start()
            result = sink.write(batch)
            acknowledged, failures = acknowledged + result.acknowledged, failures + len(result.failures)
            if place in deadly:
                threads[-1].join()
        assert (acknowledged, failures) == (count, 0)
        sink.flush()
        sink.close()
        assert store.listed() == sorted((row.chunk.id, 2) for row in rows)
        for batch in batches:
            assert store.fetch([row.chunk.id for row in batch]) == {row.chunk.id: payload_of(row) for row in batch}
    finally:
        for thread in threads:
            thread.join()
        store.close()
        node[0].process.stop()


class Own(Store):
    """A store on a node of the test's own."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__("elasticsearch", root, Store.of("elasticsearch", root).schema)
        self._url = url

    @property
    def options(self) -> StoreOptions:
        return replace(super().options, connection=Connection(self._url))


@pytest.mark.nightly
@pytest.mark.parametrize(("count", "kills"), [(1200, 1), (20_000, 4)])
def test_a_node_that_is_killed_during_a_load_loses_and_doubles_nothing(tmp_path: Path, count: int, kills: int) -> None:
    load_while_it_is_killed(tmp_path, count, kills)

"""A store in a process of its own: the same answers, and what happens when it hangs, dies or refuses."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from connectors.filters.tree import Everything, Exists
from connectors.protocol import CollectionSchema, FieldType, Searcher, StoreOptions, StoreTimeoutError
from connectors.registry import open_searcher, open_sink
from m3core.config.model import Config
from m3core.errors import ConfigError, DiskFullError, StoreError
from m3core.types import QueryVectors, Signal
from pipelines.query.live import LiveGeneration
from pipelines.query.service.apart import ApartSearcher, _Place, open_apart
from pipelines.state.collection import CollectionState, StoreBinding, swap_collection
from pipelines.state.paths import StatePaths
from pipelines.state.stores import schema_of, store_options
from tests.servers.process import freeze

T = TypeVar("T")


@pytest.fixture
def options(kit: Any, tmp_path: Path) -> StoreOptions:
    """An Edge folder with random rows."""
    schema = CollectionSchema(
        "handbook", 1, frozenset(Signal), 8, 4, {"year": FieldType.INTEGER, "topic": FieldType.STRING}, True, "f"
    )
    options = StoreOptions("main", tmp_path / "main", schema)
    rng = np.random.default_rng(3)
    sink: Any = open_sink("qdrant-edge", options)
    sink.ensure(schema)
    assert not sink.write([kit.row(kit.facts(n), kit.vectors(rng)) for n in range(50)]).failures
    sink.publish()
    sink.close()
    return options


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def apart(options: StoreOptions, loop: asyncio.Runner) -> Iterator[ApartSearcher]:
    searcher = ApartSearcher("qdrant-edge", options, processes=1)
    yield searcher
    loop.run(searcher.aclose())


def child_of(searcher: ApartSearcher, place: int = 0) -> int:
    child = searcher._places[place]._child
    assert child is not None
    assert child._process.pid is not None
    return child._process.pid


async def everything(searcher: Searcher, query: QueryVectors) -> list[Any]:
    found = [await searcher.search(signal, query, Everything(), 20, 30) for signal in Signal]
    ids = [each.id for each in found[0]]
    scores = [await searcher.score(signal, query, ids, Everything(), 30) for signal in Signal]
    payloads = await searcher.fetch(ids, Everything(), 30)
    return [found, scores, payloads, await searcher.count(Everything(), 30), searcher.capabilities]


def test_says_what_the_store_says(kit: Any, options: StoreOptions, apart: ApartSearcher, loop: asyncio.Runner) -> None:
    query = kit.query(np.random.default_rng(9))
    inside = open_searcher("qdrant-edge", options)
    try:
        assert loop.run(everything(apart, query)) == loop.run(everything(inside, query))
    finally:
        loop.run(inside.aclose())


def test_it_is_warmed_in_its_own_process_and_answers_as_before(apart: ApartSearcher, loop: asyncio.Runner) -> None:
    for _ in range(2):
        loop.run(apart.warm(30))
    assert loop.run(apart.count(Everything(), 30)) == 50


def test_a_store_that_has_nothing_to_warm_is_left_alone(options: StoreOptions, loop: asyncio.Runner) -> None:
    apart = ApartSearcher("memory", replace(options, root=options.root.parent / "memory"))
    loop.run(apart.warm(30))
    loop.run(apart.aclose())


def test_errors_come_through_as_they_are(apart: ApartSearcher, loop: asyncio.Runner) -> None:
    with pytest.raises(Exception, match="nowhere"):
        loop.run(apart.count(Exists("nowhere"), 30))
    assert loop.run(apart.count(Everything(), 30)) == 50


def test_what_cannot_be_opened_says_why(options: StoreOptions) -> None:
    with pytest.raises(ConfigError, match="no store is of kind"):
        ApartSearcher("chroma", options)


def frozen(searcher: ApartSearcher, act: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.Runner) -> T:
    freeze(child_of(searcher))
    try:
        return loop.run(act())
    finally:
        os.kill(child_of(searcher), signal.SIGCONT)


def test_a_store_that_hangs_is_late_and_the_loop_goes_on(apart: ApartSearcher, loop: asyncio.Runner) -> None:
    async def act() -> float:
        worst, asked = 0.0, asyncio.ensure_future(apart.count(Everything(), 0.6))
        while not asked.done():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - before)
        with pytest.raises(StoreTimeoutError):
            await asked
        return worst

    assert frozen(apart, act, loop) < 0.5
    assert loop.run(apart.count(Everything(), 30)) == 50


def test_a_request_whose_time_ran_out_while_it_waited_is_not_sent(apart: ApartSearcher, loop: asyncio.Runner) -> None:
    async def act() -> None:
        first = asyncio.ensure_future(apart.count(Everything(), 0.3))
        with pytest.raises(StoreTimeoutError):
            await apart.count(Everything(), 0.1)
        with pytest.raises(StoreTimeoutError):
            await first

    frozen(apart, act, loop)
    assert loop.run(apart.count(Everything(), 30)) == 50


def test_a_store_that_dies_fails_once_and_is_opened_again(apart: ApartSearcher, loop: asyncio.Runner) -> None:
    first = child_of(apart)
    os.kill(first, signal.SIGBUS)
    with pytest.raises(StoreError, match="ended while it was asked"):
        loop.run(apart.count(Everything(), 30))
    assert loop.run(apart.count(Everything(), 30)) == 50
    assert child_of(apart) != first


def test_a_service_managers_signals_do_not_end_it(apart: ApartSearcher, loop: asyncio.Runner) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child_of(apart), number)
    assert loop.run(apart.count(Everything(), 30)) == 50


def test_closing_ends_the_process_also_while_it_hangs(options: StoreOptions, loop: asyncio.Runner) -> None:
    for hang in (False, True):
        searcher = ApartSearcher("qdrant-edge", options, processes=1)
        child = child_of(searcher)
        if hang:
            freeze(child)
        loop.run(searcher.aclose())
        loop.run(searcher.aclose())
        with pytest.raises(StoreError):
            loop.run(searcher.count(Everything(), 1))
        for _ in range(300):
            if not Path(f"/proc/{child}").exists():
                break
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()


@pytest.fixture
def two(options: StoreOptions, loop: asyncio.Runner) -> Iterator[ApartSearcher]:
    """A store with both of its children at work."""
    searcher = ApartSearcher("qdrant-edge", options, processes=2)
    wait(searcher._adding)
    assert len(searcher._places) == 2
    yield searcher
    loop.run(searcher.aclose())


def test_two_processes_say_what_one_says(
    kit: Any, options: StoreOptions, two: ApartSearcher, loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small enough that 20 ids go to both.
    monkeypatch.setattr("pipelines.query.service.apart._SHARED_IDS", 4)
    query = kit.query(np.random.default_rng(9))
    inside = open_searcher("qdrant-edge", options)
    try:
        for _ in range(3):
            assert loop.run(everything(two, query)) == loop.run(everything(inside, query))
        assert loop.run(two.score(Signal.MULTI, query, [], Everything(), 30)) == {}
    finally:
        loop.run(inside.aclose())


def test_while_one_process_hangs_the_other_answers(two: ApartSearcher, loop: asyncio.Runner) -> None:
    async def act() -> int:
        asked = [two.count(Everything(), 1.0) for _ in range(6)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(answer, StoreTimeoutError) for answer in answers) == 1
        return sum(answer == 50 for answer in answers)

    freeze(child_of(two, 1))
    try:
        assert loop.run(act()) == 5
    finally:
        os.kill(child_of(two, 1), signal.SIGCONT)
    for _ in range(4):
        assert loop.run(two.count(Everything(), 30)) == 50


def test_one_of_two_that_dies_fails_once_and_is_opened_again(two: ApartSearcher, loop: asyncio.Runner) -> None:
    first, second = (child_of(two, place) for place in (0, 1))
    os.kill(second, signal.SIGKILL)
    failed = 0
    for _ in range(6):
        try:
            assert loop.run(two.count(Everything(), 30)) == 50
        except StoreError:
            failed += 1
    assert failed == 1
    assert child_of(two, 0) == first
    assert child_of(two, 1) != second


def test_both_follow_a_new_snapshot_at_once(
    kit: Any, options: StoreOptions, two: ApartSearcher, loop: asyncio.Runner
) -> None:
    """What a run took away is gone from the first request behind its end, whichever process answers."""
    rng = np.random.default_rng(3)
    rows = [kit.row(kit.facts(n), kit.vectors(rng)) for n in range(50)]

    async def act() -> list[int]:
        return list(await asyncio.gather(*(two.count(Everything(), 30) for _ in range(4))))

    for left in range(49, 44, -1):
        sink: Any = open_sink("qdrant-edge", options)
        sink.ensure(options.schema)
        sink.delete([rows[left].chunk.id])
        sink.publish()
        sink.close()
        assert loop.run(act()) == [left] * 4


def test_a_second_process_that_cannot_open_the_store_is_done_without(
    options: StoreOptions, loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = _Place.call

    def full(self: _Place, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "count" and arguments[-1] == 120.0:
            raise DiskFullError("the disk is full", "free some space")
        return plain(self, method, arguments)

    monkeypatch.setattr(_Place, "call", full)
    searcher = ApartSearcher("qdrant-edge", options, processes=2)
    wait(searcher._adding)
    assert "store 'main' is read by fewer processes: the disk is full" in caplog.text
    for _ in range(3):
        assert loop.run(searcher.count(Everything(), 30)) == 50
    began = time.monotonic()
    loop.run(searcher.aclose())
    assert time.monotonic() - began < 4


def test_closing_while_the_second_process_starts_leaves_none(options: StoreOptions, loop: asyncio.Runner) -> None:
    searcher = ApartSearcher("qdrant-edge", options, processes=2)
    loop.run(searcher.aclose())
    assert all(place._child is None for place in searcher._places)
    assert [child.name for child in multiprocessing.active_children() if child.name == "m3-main"] == []


def test_a_store_that_shares_no_files_has_one_process(options: StoreOptions, loop: asyncio.Runner) -> None:
    searcher = ApartSearcher("memory", replace(options, root=options.root.parent / "memory"), processes=2)
    assert len(searcher._places) == 1
    loop.run(searcher.aclose())


def test_a_promoted_generation_is_picked_up_and_the_old_ones_process_ends(
    kit: Any, tmp_path: Path, loop: asyncio.Runner
) -> None:
    source = {"kind": "folder", "path": "docs"}
    config = Config.model_validate(
        {"collection": {"name": "handbook"}, "storage": {"path": str(tmp_path)}, "sources": {"docs": source}}
    )
    binding = StoreBinding("main", "qdrant-edge", ("dense", "lexical", "multi"), True)
    first = replace(kit.generation((binding,)), number=1)
    second = replace(first, number=2, created="2026-02-01T00:00:00Z")
    rng = np.random.default_rng(3)
    for generation, rows in ((first, 5), (second, 7)):
        sink: Any = open_sink(binding.kind, store_options(generation, binding, config, base=tmp_path, storage=tmp_path))
        sink.ensure(schema_of(generation, binding, "handbook"))
        sink.write([kit.row(kit.facts(n), kit.vectors(rng)) for n in range(rows)])
        sink.publish()
        sink.close()
    paths = StatePaths.of(tmp_path, "handbook")
    before = CollectionState(1, "handbook", 1, 1, (first, replace(second, status="building")))
    swap_collection(paths, None, before)
    stores = LiveGeneration(config, tmp_path, open_apart)

    async def count() -> tuple[int, int]:
        async with stores.pin() as pinned:
            searcher: Any = pinned.searchers["main"]
            assert isinstance(searcher, ApartSearcher)
            return await searcher.count(Everything(), 30), child_of(searcher)

    rows, old = loop.run(count())
    assert rows == 5
    swap_collection(paths, before, replace(before, live=2, generations=(replace(first, status="retired"), second)))
    rows, new = loop.run(count())
    assert rows == 7
    assert not Path(f"/proc/{old}").exists()
    loop.run(stores.aclose())
    assert not Path(f"/proc/{new}").exists()

"""Queries in one pass: who goes together, who is encoded once or not at all, and who gets which error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.types import QueryVectors
from pipelines.query.batching import Outcome, QueryBatcher
from pipelines.query.caching import QueryCache


def vectors_of(query: str, size: int = 2) -> QueryVectors:
    return QueryVectors(np.full(size, float(len(query)), dtype=np.float32), None, None, None)


class Model:
    """Records its batches; waits at a gate if there is one."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, queries: Sequence[str]) -> Sequence[Outcome]:
        self.batches.append(list(queries))
        if self.gate is not None:
            await self.gate.wait()
        return [ValueError(f"no {each}") if each == "bad" else vectors_of(each) for each in queries]


def test_what_arrives_while_the_model_is_busy_goes_together() -> None:
    async def scene() -> None:
        model = Model()
        model.gate = asyncio.Event()
        batcher = QueryBatcher(model, most=3)
        tasks = [asyncio.create_task(batcher.vectors("a"))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(batcher.vectors(query)) for query in ("bb", "ccc", "bb", "dddd", "eeeee", "a")]
        await asyncio.sleep(0.01)
        model.gate.set()
        found = await asyncio.gather(*tasks)
        assert model.batches == [["a"], ["bb", "ccc", "dddd"], ["eeeee"]]
        assert [int(each.dense[0]) for each in found if each.dense is not None] == [1, 2, 3, 2, 4, 5, 1]

    asyncio.run(scene())


def test_a_query_that_nobody_waits_for_is_not_encoded() -> None:
    async def scene() -> None:
        model = Model()
        model.gate = asyncio.Event()
        batcher = QueryBatcher(model)
        first = asyncio.create_task(batcher.vectors("first"))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(batcher.vectors("gone"))
        shared = [asyncio.create_task(batcher.vectors("shared")) for _ in range(2)]
        await asyncio.sleep(0.01)
        gone.cancel()
        shared[0].cancel()
        await asyncio.gather(gone, shared[0], return_exceptions=True)
        model.gate.set()
        await asyncio.gather(first, shared[1])
        assert model.batches == [["first"], ["shared"]]

    asyncio.run(scene())


def test_an_error_of_one_query_is_its_own_and_one_of_the_pass_is_everybodys() -> None:
    async def scene() -> None:
        batcher = QueryBatcher(Model())
        good, bad = await asyncio.gather(batcher.vectors("good"), batcher.vectors("bad"), return_exceptions=True)
        assert isinstance(good, QueryVectors)
        assert isinstance(bad, ValueError)

        async def broken(queries: Sequence[str]) -> Sequence[Outcome]:
            raise RuntimeError("no memory")

        batcher = QueryBatcher(broken)
        errors = await asyncio.gather(batcher.vectors("a"), batcher.vectors("b"), return_exceptions=True)
        assert [str(error) for error in errors] == ["no memory", "no memory"]
        batcher.encode = Model()
        assert isinstance(await batcher.vectors("a"), QueryVectors)

    asyncio.run(scene())


def test_a_batcher_outlives_its_loop() -> None:
    batcher = QueryBatcher(Model())
    for _ in range(2):
        assert asyncio.run(batcher.vectors("abc")).dense is not None


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60)), max_size=60), st.integers(0, 400))
def test_the_cache_gives_back_the_last_that_was_put_and_keeps_its_bound(
    puts: list[tuple[str, int]], bound: int
) -> None:
    cache, last = QueryCache(bound), {}
    for query, size in puts:
        last[query] = vectors_of(query, size)
        cache.put("f", query, last[query])
        assert cache.bytes <= bound
        fits = 4 * size + 4 <= bound
        assert (cache.get("f", query) is last[query]) is fits
        assert cache.get("g", query) is None
    kept = [found for query in last if (found := cache.get("f", query)) is not None]
    assert all(any(found is each for each in last.values()) for found in kept)
    assert cache.bytes == sum(4 + found.dense.nbytes for found in kept if found.dense is not None)
    assert len(cache) == len(kept)


def test_the_least_recently_used_goes_first() -> None:
    cache = QueryCache(3 * (4 + 40))
    for query in "abc":
        cache.put("f", query, vectors_of(query, 10))
    cache.get("f", "a")
    cache.put("f", "d", vectors_of("d", 10))
    assert [query for query in "abcd" if cache.get("f", query) is None] == ["b"]


def test_there_are_never_more_than_so_many() -> None:
    cache = QueryCache(most=2)
    for query in "abc":
        cache.put("f", query, vectors_of(query))
    assert [query for query in "abc" if cache.get("f", query) is not None] == ["b", "c"]
    assert cache.bytes == 2 * (4 + 8)


@pytest.mark.parametrize("size", [11, 1000])
def test_what_is_larger_than_the_cache_is_not_kept_and_throws_nothing_out(size: int) -> None:
    cache = QueryCache(4 + 40)
    cache.put("f", "a", vectors_of("a", 10))
    cache.put("f", "b", vectors_of("b", size))
    assert cache.get("f", "a") is not None
    assert cache.get("f", "b") is None


def test_batches_shrink_where_the_model_is_slow_and_grow_again() -> None:
    now = 0.0
    per_query = 1.0
    sizes: list[int] = []

    async def encode(queries: Sequence[str]) -> list[QueryVectors]:
        nonlocal now
        sizes.append(len(queries))
        now += per_query * len(queries)
        await asyncio.sleep(0)
        return [QueryVectors(None, None, None, None) for _ in queries]

    async def ask(batcher: QueryBatcher, names: str) -> None:
        await asyncio.gather(*(batcher.vectors(f"{names} {number}") for number in range(12)))

    async def run() -> None:
        nonlocal per_query
        batcher = QueryBatcher(encode, most=8, batch_seconds=2.5, clock=lambda: now)
        await ask(batcher, "unknown")
        # Nothing was known of the first batch; of the others, that two are done in two and a half seconds.
        assert sizes == [8, 2, 2]
        sizes.clear()
        per_query = 10.0
        await ask(batcher, "slow")
        assert sizes[-1] == 1
        sizes.clear()
        per_query = 0.01
        for turn in range(4):
            await ask(batcher, f"quick {turn}")
        assert sizes[-2:] == [8, 4]

    asyncio.run(run())

"""Documents out of chunks: chunks inside, texts once, phrases, the least score, offsets, and going deeper for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.protocol import Payload
from m3core.config.model import SearchSection
from m3core.errors import StoreError
from m3core.fusion import BUILT_IN_PRESETS
from m3core.types import Identity, Row, Signal
from pipelines.query.page import Grouping
from pipelines.query.plan import make_plan
from pipelines.query.request import Fusion, SearchRequest
from pipelines.query.router import Router
from pipelines.state.collection import Generation, StoreBinding

STAFF = Identity("acme", ("staff",))
ALL_ROWS = SearchSection(candidates=1000, rerank_cap=1000)


def rows_of(kit: Any, seed: int, documents: Sequence[str], texts: Sequence[str] = ()) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        kit.row(kit.facts(number, doc_id=document, text=texts[number] if texts else ""), kit.vectors(rng))
        for number, document in enumerate(documents)
    ]


def world_of(kit: Any, rows: list[Row], search: SearchSection = ALL_ROWS, seed: int = 5) -> Any:
    return kit.world(rows, kit.query(np.random.default_rng(seed)), kit.three_stores, search)


@st.composite
def ranked_chunks(draw: st.DrawFn) -> list[Payload]:
    """Chunks in an order; few documents and few texts, so that both meet."""
    pairs = draw(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), max_size=25))
    return [
        Payload(f"{n}", "acme", document, n, (0, 1), "", "", text, "", {}, ("staff",), 1)
        for n, (document, text) in enumerate(pairs)
    ]


@given(ranked_chunks(), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_grouping_by_its_rules(chunks: list[Payload], limit: int, inside: int, once: bool) -> None:
    generation = _generation()
    request = SearchRequest("x", STAFF, limit=limit, chunks=inside, once=once)
    grouping = Grouping(make_plan(request, generation, BUILT_IN_PRESETS, SearchSection()))
    for place, chunk in enumerate(chunks):
        grouping.add(chunk, -float(place))
    places = grouping.places()
    bests = {document: next(c for c in chunks if c.doc_id == document) for document in {c.doc_id for c in chunks}}
    assert len(places) <= limit
    # Best chunks, in order, one per document; without copies each text once.
    assert [place.payload for place in places] == sorted((p.payload for p in places), key=lambda c: c.ordinal)
    assert all(bests[place.payload.doc_id] is place.payload for place in places)
    texts = [place.payload.text for place in places]
    if once:
        assert len(set(texts)) == len(texts)
    shown = {place.payload.doc_id for place in places}
    copied = {copy.doc_id: place for place in places for copy in place.copies}
    assert not shown & set(copied)
    assert once or not copied
    if len(places) < limit:
        assert shown | set(copied) == set(bests)
    for document, place in copied.items():
        assert bests[document].text == place.payload.text
    for place in places:
        mine = [c for c in chunks if c.doc_id == place.payload.doc_id]
        assert place.further_chunks == len(mine) - 1
        seen = [place.payload, *(chunk for chunk, _ in place.others)]
        assert len({chunk.text for chunk in seen}) == len(seen) <= inside
        distinct = list(dict.fromkeys(chunk.text for chunk in mine))
        assert [chunk.text for chunk in seen] == distinct[:inside]


def _generation() -> Generation:
    stores = (StoreBinding("main", "memory", ("dense", "lexical", "multi"), True),)
    return Generation(3, "c", "float-0", "tiny", 8, 4, {}, stores, "live", "2026-01-01T00:00:00Z")


def test_the_best_chunks_are_inside_with_scores_that_add_up(kit: Any) -> None:
    world = world_of(kit, rows_of(kit, 8, [f"doc-{n % 6}" for n in range(48)]))
    answer = world.ask(SearchRequest("x", STAFF, chunks=3, explain=True))
    alone = world.ask(SearchRequest("x", STAFF))
    assert [hit.id for hit in answer.hits] == [hit.id for hit in alone.hits]
    assert all(hit.chunks == () for hit in alone.hits)
    for hit in answer.hits:
        assert len(hit.chunks) == 2
        assert hit.score >= hit.chunks[0].score >= hit.chunks[1].score
        for chunk in hit.chunks:
            assert sum(part.contribution for part in chunk.signals.values()) == pytest.approx(chunk.score, abs=1e-6)
    value = answer.as_json()["hits"][0]["chunks"][0]
    assert list(value) == ["id", "ordinal", "context", "text", "span", "score", "signals"]


def test_the_same_text_is_one_hit_unless_all_are_asked_for(kit: Any) -> None:
    rows = rows_of(kit, 3, [f"d{n}" for n in range(12)], [f"text {n // 3}" for n in range(12)])
    world = world_of(kit, rows)
    answer = world.ask(SearchRequest("x", STAFF, limit=12))
    every = world.ask(SearchRequest("x", STAFF, limit=12, once=False))
    assert len(every.hits) == 12
    assert all(hit.same_text == () for hit in every.hits)
    first: dict[str, list[str]] = {}
    for hit in every.hits:
        first.setdefault(hit.text, []).append(hit.doc_id)
    assert [[hit.doc_id, *hit.same_text] for hit in answer.hits] == list(first.values())


def test_copies_that_the_caller_may_not_see_are_not_named(kit: Any) -> None:
    rng = np.random.default_rng(1)
    acls = [("staff",), ("board",), ("staff",), ("board",)]
    rows = [kit.row(kit.facts(n, acl=acl, text="the same"), kit.vectors(rng)) for n, acl in enumerate(acls)]
    (hit,) = world_of(kit, rows).ask(SearchRequest("x", STAFF)).hits
    assert {hit.doc_id, *hit.same_text} == {"doc-0", "doc-2"}


def test_min_score_cuts_the_order_and_says_so(kit: Any) -> None:
    world = kit.random_world(3, 40, kit.three_stores, ALL_ROWS)
    whole = world.ask(SearchRequest("x", STAFF, limit=40)).hits
    bound = whole[7].score
    assert world.ask(SearchRequest("x", STAFF, limit=40, min_score=bound)).hits == whole[:8]
    nothing = world.ask(SearchRequest("x", STAFF, min_score=whole[0].score + 0.001))
    assert nothing.hits == ()
    assert nothing.empty is not None
    assert nothing.empty.reason.startswith("none of 40 candidates reaches the score ")


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_offsets_leaf_through_the_same_order(kit: Any, limit: int) -> None:
    world = world_of(kit, rows_of(kit, 8, [f"doc-{n % 20}" for n in range(48)]))
    whole = world.ask(SearchRequest("x", STAFF, limit=20)).hits
    leafed = [world.ask(SearchRequest("x", STAFF, limit=limit, offset=offset)).hits for offset in range(0, 20, limit)]
    assert tuple(itertools.chain(*leafed)) == whole
    beyond = world.ask(SearchRequest("x", STAFF, offset=20))
    assert beyond.empty is not None
    assert beyond.empty.reason == "there are 20 documents; the page begins after 20"


def test_phrases_are_looked_for_in_the_texts(kit: Any) -> None:
    texts = [f"The {'Night train' if n % 4 == 0 else 'train at night'} number {n}" for n in range(40)]
    world = world_of(kit, rows_of(kit, 3, [f"d{n}" for n in range(40)], texts))
    answer = world.ask(SearchRequest('"night train" to Rome', STAFF, limit=40, explain=True))
    assert {hit.doc_id for hit in answer.hits} == {f"d{n}" for n in range(0, 40, 4)}
    assert answer.plan is not None
    assert (answer.plan["phrases"], answer.plan["phrases_checked_in"]) == (["night train"], "candidates")
    assert answer.query == '"night train" to Rome'
    every = world.ask(SearchRequest('"night train" to Rome', STAFF, limit=40, quotes=False))
    assert len(every.hits) == 40
    nothing = world.ask(SearchRequest('"night bus"', STAFF))
    assert nothing.empty is not None
    assert nothing.empty.reason == 'none of the best 40 candidates has "night bus" in its text'


def test_the_query_is_encoded_without_the_quotes_of_its_phrases(kit: Any) -> None:
    world = kit.random_world(3, 5)
    router: Router = world.router()
    asked: list[str] = []
    encode = router.encoder.encode_query

    async def record(query: str) -> Any:
        asked.append(query)
        return await encode(query)

    router.encoder.encode_query = record  # type: ignore[method-assign]
    asyncio.run(router.search(SearchRequest('the "night train"', STAFF)))
    asyncio.run(router.search(SearchRequest('the "night train"', STAFF, quotes=False)))
    assert asked == ["the night train", 'the "night train"']


def big_and_small(kit: Any) -> list[Row]:
    """One document of 60 chunks that are nearest to the query, and 30 small ones."""
    rows = rows_of(kit, 2, ["big"] * 60 + [f"small-{n}" for n in range(30)])
    query = kit.query(np.random.default_rng(5))
    noise = np.random.default_rng(6)
    for row in rows[:60]:
        near = query.dense + noise.normal(scale=0.01, size=len(query.dense))
        row.vectors.dense[:] = near / np.linalg.norm(near)
    return rows


DENSE = {"signals": (Signal.DENSE,)}


def test_depth_is_doubled_where_one_document_takes_all_candidates(kit: Any) -> None:
    world = world_of(kit, big_and_small(kit), SearchSection(candidates=20, limit=10))
    answer = world.ask(SearchRequest("x", STAFF, **DENSE))
    assert answer.rounds == 3
    assert len(answer.hits) == 10
    assert answer.hits[0].doc_id == "big"
    deep = world_of(kit, big_and_small(kit), SearchSection(candidates=80, limit=10)).ask(
        SearchRequest("x", STAFF, **DENSE)
    )
    assert answer.hits[1:] == deep.hits[1:]
    assert answer.candidates == deep.candidates == 80
    assert deep.rounds == 1


def test_depth_stops_at_the_cap_and_is_not_doubled_where_the_stores_have_no_more(kit: Any) -> None:
    world = world_of(kit, big_and_small(kit), SearchSection(candidates=5, limit=5))
    answer = world.ask(SearchRequest("x", STAFF, **DENSE))
    assert (answer.rounds, answer.candidates, len(answer.hits)) == (4, 40, 1)
    few = world_of(kit, rows_of(kit, 2, ["one"] * 15), SearchSection(candidates=20, limit=5))
    assert few.ask(SearchRequest("x", STAFF, **DENSE)).rounds == 1


def test_phrases_are_worth_going_deeper_for(kit: Any) -> None:
    texts = ["a night train" if n >= 60 else "a train" for n in range(90)]
    rows = rows_of(kit, 2, [f"d{n}" for n in range(90)], texts)
    for row, like in zip(rows, big_and_small(kit), strict=True):
        row.vectors.dense[:] = like.vectors.dense
    world = world_of(kit, rows, SearchSection(candidates=20, limit=10))
    answer = world.ask(SearchRequest('"night train"', STAFF, once=False, **DENSE))
    assert answer.rounds == 3
    assert len(answer.hits) == 10


def test_a_search_that_went_deeper_can_be_leafed_through(kit: Any) -> None:
    world = world_of(kit, big_and_small(kit), SearchSection(candidates=20, limit=10))
    router, request = world.router(), SearchRequest("x", STAFF, paged=True, explain=True, **DENSE)
    first = asyncio.run(router.search(request))
    assert first.plan is not None
    assert (first.rounds, first.plan["signals"][0]["candidates"]) == (3, 80)
    second = asyncio.run(router.search(replace(request, cursor=first.cursor)))
    assert second.offset == 10
    assert not {hit.doc_id for hit in first.hits} & {hit.doc_id for hit in second.hits}
    assert second.hits


class Tired:
    """Answers one method once; from then on it fails."""

    def __init__(self, inner: Any, method: str) -> None:
        self.inner, self.method, self.asked = inner, method, 0

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self.inner, name)

        async def once(*args: Any) -> Any:
            self.asked += 1
            if self.asked > 1:
                raise StoreError("tired")
            return await ask(*args)

        return once if name == self.method else ask


@pytest.mark.parametrize(("store", "method"), [("vectors", "search"), ("vectors", "fetch"), ("tokens", "score")])
def test_a_store_that_fails_while_going_deeper_leaves_the_first_answer(kit: Any, store: str, method: str) -> None:
    world = world_of(kit, big_and_small(kit), SearchSection(candidates=20, limit=10))
    request = SearchRequest("x", STAFF, signals=(Signal.DENSE, Signal.MULTI))
    assert world.ask(request).rounds > 1
    first = world.ask(replace(request, limit=1))
    world.searchers[store] = tired = Tired(world.searchers[store], method)
    answer = world.ask(request)
    assert tired.asked == 2
    assert not answer.degraded
    assert answer.rounds == 1
    assert answer.hits == first.hits


def test_reciprocal_rank_fusion_through_the_router(kit: Any) -> None:
    world = kit.random_world(3, 40, kit.three_stores, ALL_ROWS)
    answer = world.ask(SearchRequest("x", STAFF, limit=40, fusion=Fusion.RECIPROCAL_RANK, explain=True))
    assert answer.plan is not None
    assert answer.plan["fusion"] == "reciprocal-rank"
    for hit in answer.hits:
        assert sum(part.contribution for part in hit.signals.values()) == pytest.approx(hit.score, abs=1e-9)
        for signal, part in hit.signals.items():
            found = part.raw is not None and part.rank is not None and (signal is not Signal.LEXICAL or part.raw > 0)
            assert part.contribution == pytest.approx(part.weight / (60 + (part.rank or 0)) if found else 0.0)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)

"""Pages of a cursor: the order of the first answer, nothing twice, nothing skipped, gaps where a document is gone."""

from __future__ import annotations

import asyncio
import base64
import zlib
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.protocol import Patch
from m3core.config.model import SearchSection
from m3core.errors import StoreError, UsageError
from m3core.types import Identity, Row, Signal
from pipelines.query.answer import Answer
from pipelines.query.cursor import Cursors
from pipelines.query.errors import CursorError
from pipelines.query.request import MAX_CURSOR_CHARS, SearchRequest
from pipelines.query.router import Router

STAFF = Identity("acme", ("staff",))
PAGED = SearchRequest("x", STAFF, limit=7, paged=True)
ROOMY = SearchSection(candidates=60, rerank_cap=200)


@dataclass
class FakeClock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def grouped_rows(kit: Any, seed: int, count: int = 60, documents: int = 25) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        kit.row(kit.facts(number, doc_id=f"doc-{rng.integers(documents)}"), kit.vectors(rng)) for number in range(count)
    ]


def ask(router: Router, request: SearchRequest) -> Answer:
    return asyncio.run(router.search(request))


def following(router: Router, request: SearchRequest, answer: Answer, limit: int | None = None) -> Answer:
    return ask(router, replace(request, cursor=answer.cursor, limit=limit or request.limit))


def leaf(router: Router, request: SearchRequest) -> list[Answer]:
    pages = [ask(router, request)]
    while pages[-1].cursor is not None:
        pages.append(following(router, request, pages[-1]))
    return pages


@pytest.mark.parametrize("limit", [1, 7, 25, 60])
@pytest.mark.parametrize("chunks", [1, 3])
def test_pages_are_the_whole_answer_cut(kit: Any, limit: int, chunks: int) -> None:
    world = kit.world(grouped_rows(kit, 0), kit.query(np.random.default_rng(1)), kit.three_stores, ROOMY)
    router = world.router()
    request = replace(PAGED, limit=limit, chunks=chunks)
    whole = ask(router, replace(request, limit=60, paged=False))
    pages = leaf(router, request)
    assert tuple(hit for page in pages for hit in page.hits) == whole.hits
    assert [page.offset for page in pages] == list(range(0, len(whole.hits), limit))
    assert all(page.gaps == () for page in pages)
    assert all((page.coverage, page.weights, page.generation) == (whole.coverage, whole.weights, 3) for page in pages)
    for hit in (hit for page in pages for hit in page.hits):
        assert sum(part.contribution for part in hit.signals.values()) == pytest.approx(hit.score, abs=1e-6)


def test_no_cursor_unless_asked_for_and_none_at_the_end(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 0), kit.query(np.random.default_rng(1)), search=ROOMY)
    assert ask(world.router(), replace(PAGED, paged=False)).cursor is None
    assert ask(world.router(), replace(PAGED, limit=60)).cursor is None
    router = world.router()
    after = ask(router, replace(PAGED, offset=7))
    assert after.hits == following(router, PAGED, ask(router, PAGED)).hits
    assert following(router, PAGED, after).offset == 14


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 9), st.booleans())
def test_pages_neither_repeat_nor_skip_while_documents_come_and_go(kit: Any, seed: int, limit: int, acl: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = grouped_rows(kit, seed)
    world = kit.world(rows[:45], kit.query(rng), kit.three_stores, ROOMY)
    router, request = world.router(), replace(PAGED, limit=limit)
    order = [hit.id for hit in ask(router, replace(request, limit=60)).hits]
    sinks = [world.sink(store) for store in ("vectors", "words", "tokens")]
    page = ask(router, request)
    seen, gone = [hit.id for hit in page.hits], set[str]()
    new = iter(rows[45:])
    while page.cursor is not None:
        victims = [str(each) for each in rng.choice([row.chunk.id for row in rows[:45]], size=2)]
        gone |= set(victims)
        arriving = next(new, None)
        for sink in sinks:
            if acl:
                sink.patch([Patch(victim, {}, ("board",), 2) for victim in victims])
            else:
                sink.delete(victims)
            if arriving is not None:
                sink.write([arriving])
        first = page.offset + limit
        page = following(router, request, page)
        expected = order[first : first + limit]
        assert [hit.id for hit in page.hits] == [each for each in expected if each not in gone]
        assert page.gaps == tuple(first + place for place, each in enumerate(expected) if each in gone)
        seen += [hit.id for hit in page.hits]
    assert len(set(seen)) == len(seen)
    assert set(order) - set(seen) <= gone


def test_a_page_can_be_asked_for_again_and_with_another_size(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), search=ROOMY)
    router = world.router()
    first = ask(router, PAGED)
    one, again = following(router, PAGED, first), following(router, PAGED, first)
    assert one.hits == again.hits
    assert following(router, PAGED, first, limit=3).hits == one.hits[:3]
    explained = following(router, replace(PAGED, explain=True), first)
    assert explained.plan is not None
    assert all(hit.explanation is not None for hit in explained.hits)


def test_a_cursor_is_of_its_caller_and_its_request(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), search=ROOMY)
    router = world.router()
    first = ask(router, PAGED)
    for other in (
        replace(PAGED, identity=Identity("other", ("staff",))),
        replace(PAGED, identity=Identity("acme", ("staff", "board"))),
        replace(PAGED, query="y"),
        replace(PAGED, signals=(Signal.DENSE,)),
    ):
        with pytest.raises(CursorError, match="of another caller or another request"):
            following(router, other, first)
    with pytest.raises(CursorError, match="not made here"):
        following(world.router(), PAGED, first)
    with pytest.raises(UsageError, match="offset and cursor are both given"):
        replace(PAGED, cursor=first.cursor, offset=3)


def test_routers_with_one_key_take_each_others_cursors_until_they_expire(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), search=ROOMY)
    clock = FakeClock()
    one, other = (replace(world.router(), cursors=Cursors(b"k" * 32, clock=clock)) for _ in range(2))
    first = ask(one, PAGED)
    assert following(other, PAGED, first).hits == following(one, PAGED, first).hits
    clock.now += 900
    with pytest.raises(CursorError, match="expired"):
        following(one, PAGED, first)


def test_a_generation_that_is_gone_ends_the_cursor(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), search=ROOMY)
    router = world.router()
    first = ask(router, PAGED)
    pinned = router.stores.pinned  # type: ignore[attr-defined]
    router.stores.pinned = replace(pinned, generation=replace(pinned.generation, created="2027"))  # type: ignore[attr-defined]
    with pytest.raises(CursorError, match="generation 3 of this cursor is gone"):
        following(router, PAGED, first)


def test_a_page_needs_the_text_store_only_and_is_an_error_without_it(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), kit.three_stores, ROOMY)
    gone = StoreError("gone")
    faults: dict[str, Any] = {"vectors": {}, "words": {}, "tokens": {}}
    router = world.router(faults)
    first = ask(router, PAGED)
    faults["words"] |= {"search lexical": gone, "score lexical": gone}
    faults["tokens"] |= {"score multi": gone}
    assert not following(router, PAGED, first).degraded
    faults["vectors"]["fetch"] = gone
    with pytest.raises(StoreError, match="the hits could not be checked and are not shown: gone"):
        following(router, PAGED, first)


def test_a_degraded_first_page_stays_what_it_was(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), kit.three_stores, ROOMY)
    faults: dict[str, Any] = {"words": {"search lexical": StoreError("gone")}}
    router = world.router(faults)
    first = ask(router, PAGED)
    faults["words"].clear()
    page = following(router, PAGED, first)
    assert page.degraded
    assert (page.coverage, page.weights) == (first.coverage, first.weights)
    assert page.why == {Signal.LEXICAL: "did not answer when the search was first asked"}


def test_who_reads_a_cursor_learns_no_words_of_a_store(kit: Any) -> None:
    world = kit.world(grouped_rows(kit, 4), kit.query(np.random.default_rng(1)), kit.three_stores, ROOMY)
    router = world.router({"words": {"search lexical": StoreError("10.1.2.3 refused")}})
    first = ask(router, PAGED)
    assert "10.1.2.3" in first.why[Signal.LEXICAL]
    assert first.cursor is not None
    signed = base64.urlsafe_b64decode(first.cursor + "=" * (-len(first.cursor) % 4))
    body = next(part for part in map(_inflated, range(64), repeat(signed)) if part)
    assert b'"failed"' in body
    assert b"10.1.2.3" not in body


def _inflated(start: int, signed: bytes) -> bytes:
    """What is compressed behind `start` bytes of a signature; empty if nothing is."""
    try:
        return zlib.decompress(signed[start:])
    except zlib.error:
        return b""


@pytest.mark.parametrize("chunks", [1, 10])
def test_the_largest_cursor_fits_into_a_request(kit: Any, monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """A tenth of the rows, a tenth of the size."""
    monkeypatch.setattr("pipelines.query.composing.MAX_FROZEN_ROWS", 200)
    rng = np.random.default_rng(1)
    rows = [kit.row(kit.facts(number, doc_id=f"d{number // 3}"), kit.vectors(rng)) for number in range(900)]
    world = kit.world(rows, kit.query(rng), search=SearchSection(candidates=1000, rerank_cap=1000))
    router, request = world.router(), replace(PAGED, chunks=chunks, limit=40)
    pages = leaf(router, request)
    assert pages[0].cursor is not None
    assert 8_000 < len(pages[0].cursor) < MAX_CURSOR_CHARS / 10
    # 3 chunks a document: 66 of them have 198 rows.
    assert sum(len(page.hits) for page in pages) == 40 + (200 if chunks == 1 else 66)

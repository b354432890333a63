"""The same plan over real stores and over the oracle: the same documents, scores and pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from m3core.config.model import SearchSection
from m3core.fusion import BUILT_IN_PRESETS
from m3core.types import Identity, Row, Signal
from pipelines.query.answer import Answer
from pipelines.query.request import Fusion, SearchRequest
from pipelines.query.router import SyncRouter
from pipelines.state.collection import StoreBinding
from tests.servers.running import Servers

STAFF = Identity("acme", ("staff",))
ALL = ("dense", "lexical", "multi")
LAYOUTS = {
    "edge": (StoreBinding("main", "qdrant-edge", ALL, True),),
    "edge-and-elasticsearch": (
        StoreBinding("vectors", "qdrant-edge", ("dense", "multi"), False),
        StoreBinding("words", "elasticsearch", ("lexical",), True),
    ),
    "three": (
        StoreBinding("vectors", "qdrant", ("dense",), False),
        StoreBinding("words", "elasticsearch", ("lexical",), True),
        StoreBinding("tokens", "milvus", ("multi",), False),
    ),
}
# Dense vectors in half precision; the embedded store's multi-vectors in 8 bits, which here have 4 dimensions only.
RAW_TOLERANCE = {Signal.DENSE: 2e-3, Signal.LEXICAL: 1e-5, Signal.MULTI: 1e-2}
TOLERANCE = 5e-3


def rows_of(kit: Any, count: int) -> list[Row]:
    """Rows of three tenants, 40 documents each, with years, topics and some texts twice."""
    rng = np.random.default_rng(11)
    return [
        kit.row(
            kit.facts(
                number,
                doc_id=f"doc-{rng.integers(40)}",
                tenant=f"{['acme', 'acme', 'other'][number % 3]}",
                acl=("staff",) if number % 5 else ("board", "staff") if number % 2 else ("board",),
                metadata={"year": int(rng.integers(2018, 2026)), "topic": "lab" if number % 4 else "travel"},
                text=f"night train {number // 2}" if number % 7 else f"trains of the night {number}",
            ),
            kit.vectors(rng),
        )
        for number in range(count)
    ]


@pytest.fixture(
    params=[
        name if name == "edge" else pytest.param(name, marks=pytest.mark.xdist_group("elasticsearch"))
        for name in LAYOUTS
    ]
)
def stores(request: pytest.FixtureRequest, servers: Servers) -> tuple[StoreBinding, ...]:
    layout = LAYOUTS[request.param]
    for binding in layout:
        servers.need(binding.kind)
    return layout


def requests() -> list[SearchRequest]:
    """Every preset and what else a request may ask for."""
    return [
        *(SearchRequest("x", STAFF, preset=preset, limit=15) for preset in BUILT_IN_PRESETS),
        SearchRequest("x", STAFF, filter='year >= 2021 and topic = "lab"', limit=30),
        SearchRequest("x", Identity("other", ("board",)), limit=30),
        SearchRequest("x", Identity("acme", ()), limit=30),
        SearchRequest('"night train"', STAFF, limit=30),
        SearchRequest("x", STAFF, chunks=4, once=False),
        SearchRequest("x", STAFF, fusion=Fusion.RECIPROCAL_RANK, min_score=0.001),
    ]


def assert_agree(one: Answer, other: Answer) -> None:
    """The same documents and scores; an order that both allow within the tolerance."""
    assert not one.degraded
    assert (one.coverage, one.weights, one.rounds) == (other.coverage, other.weights, other.rounds)
    assert len(one.hits) == len(other.hits)
    for mine, theirs in zip(one.hits, other.hits, strict=True):
        assert mine.score == pytest.approx(theirs.score, abs=TOLERANCE)
    theirs_by_id = {hit.id: hit for hit in other.hits}
    # At the end of the page a tie may let another in.
    last = other.hits[-1].score if other.hits else 0.0
    for hit in one.hits:
        if hit.id not in theirs_by_id:
            assert hit.score == pytest.approx(last, abs=TOLERANCE)
            continue
        same = theirs_by_id[hit.id]
        assert (hit.doc_id, hit.text, hit.metadata, hit.span) == (same.doc_id, same.text, same.metadata, same.span)
        for signal, part in hit.signals.items():
            assert part.raw == pytest.approx(same.signals[signal].raw, abs=RAW_TOLERANCE[signal])


@pytest.mark.slow
def test_the_router_over_these_stores_agrees_with_the_oracle(kit: Any, stores: tuple[StoreBinding, ...]) -> None:
    rows, query = rows_of(kit, 160), kit.query(np.random.default_rng(3))
    deep = SearchSection(candidates=400, rerank_cap=400, timeout=120.0)
    with (
        SyncRouter(kit.world(rows, query, stores, deep).router()) as real,
        SyncRouter(kit.world(rows, query, search=deep).router()) as oracle,
    ):
        for request in requests():
            assert_agree(real.search(request), oracle.search(request))
        paged = SearchRequest("x", STAFF, limit=6, paged=True)
        page, whole = real.search(paged), oracle.search(SearchRequest("x", STAFF, limit=60))
        hits = list(page.hits)
        while page.cursor is not None:
            page = real.search(SearchRequest("x", STAFF, limit=6, cursor=page.cursor))
            hits += page.hits
        assert sorted(hit.doc_id for hit in hits) == sorted(hit.doc_id for hit in whole.hits)
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in whole.hits], abs=TOLERANCE)

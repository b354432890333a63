"""The router against brute force, and what it does when stores are late, broken, lagging or not allowed to tell."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from connectors.protocol import Patch
from m3core.config.model import SearchSection
from m3core.errors import ModelError, StoreError
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.types import Identity, QueryVectors, Row, Signal
from pipelines.query.admission import Admission, AdmissionRules
from pipelines.query.answer import Answer, Coverage, Explanation, Origin
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router, SyncRouter
from pipelines.state.collection import StoreBinding

STAFF = Identity("acme", ("staff",))
THREE = (
    StoreBinding("vectors", "memory", ("dense",), True),
    StoreBinding("words", "memory", ("lexical",), False),
    StoreBinding("tokens", "memory", ("multi",), False),
)
ALL_ROWS = SearchSection(candidates=1000, rerank_cap=1000, limit=1000)
STORE_OF = {Signal.DENSE: "vectors", Signal.LEXICAL: "words", Signal.MULTI: "tokens"}


def naive_scores(query: QueryVectors, row: Row) -> dict[Signal, float]:
    """The three formulas once more, one number at a time."""
    assert query.dense is not None
    assert query.lexical_ids is not None
    assert query.lexical_weights is not None
    assert query.multi is not None
    vectors = row.vectors
    dense = sum(float(a) * float(b) for a, b in zip(query.dense, vectors.dense, strict=True))
    stored = dict(zip(map(int, vectors.lexical_ids), map(float, vectors.lexical_weights), strict=True))
    asked = zip(map(int, query.lexical_ids), map(float, query.lexical_weights), strict=True)
    lexical = sum(weight * stored.get(token, 0.0) for token, weight in asked)
    best = [
        max(sum(float(a) * float(b) for a, b in zip(q, p, strict=True)) for p in vectors.multi) for q in query.multi
    ]
    return {Signal.DENSE: dense, Signal.LEXICAL: lexical, Signal.MULTI: sum(best) / len(best)}


def brute_force(world: Any, weights: Weights, signals: tuple[Signal, ...] = tuple(Signal)) -> dict[str, float]:
    """Weighted sum over every row there is."""
    total = sum(weights.of(signal) for signal in signals)
    return {
        row.chunk.id: sum(weights.of(signal) * naive_scores(world.query, row)[signal] for signal in signals) / total
        for row in world.rows
    }


def assert_same_ranking(answer: Answer, expected: dict[str, float]) -> None:
    """Same ids, same scores, and an order that the expected scores allow (ties within tolerance)."""
    assert {hit.id for hit in answer.hits} == set(expected)
    for hit in answer.hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=1e-5)
    for one, other in itertools.pairwise(answer.hits):
        assert (one.score, other.id) >= (other.score, one.id) or one.score > other.score


@pytest.mark.parametrize("preset", ["balanced", "long-documents", "cross-lingual"])
@pytest.mark.parametrize("stores", ["one", "three"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_exhaustive_sum_when_candidates_cover_everything(kit: Any, seed: int, stores: str, preset: str) -> None:
    world = kit.random_world(seed, 50, kit.one_store if stores == "one" else THREE, ALL_ROWS)
    answer = world.ask(SearchRequest("x", STAFF, preset=preset))
    assert_same_ranking(answer, brute_force(world, BUILT_IN_PRESETS[preset]))
    assert not answer.degraded


@pytest.mark.parametrize("signals", [c for n in (1, 2, 3) for c in itertools.combinations(Signal, n)])
def test_any_subset_of_signals_equals_the_sum_over_it(kit: Any, signals: tuple[Signal, ...]) -> None:
    world = kit.random_world(7, 40, THREE, ALL_ROWS)
    answer = world.ask(SearchRequest("x", STAFF, signals=signals))
    expected = brute_force(world, BUILT_IN_PRESETS["balanced"], signals)
    if Signal.LEXICAL in signals and Signal.DENSE not in signals:  # Only rows that share a token are candidates.
        sharing = brute_force(world, BUILT_IN_PRESETS["balanced"], (Signal.LEXICAL,))
        expected = {each: score for each, score in expected.items() if sharing[each] > 0}
    assert_same_ranking(answer, expected)
    assert all(set(hit.signals) == set(signals) for hit in answer.hits)


@pytest.mark.parametrize("seed", range(5))
def test_completion_gives_candidates_their_exact_scores(kit: Any, seed: int) -> None:
    world = kit.random_world(seed, 80, THREE, SearchSection(candidates=6, limit=100))
    answer = world.ask(SearchRequest("x", STAFF))
    rows = {row.chunk.id: row for row in world.rows}
    origins = {part.origin for hit in answer.hits for part in hit.signals.values()}
    assert origins == {Origin.RETRIEVED, Origin.COMPLETED}
    assert 6 <= len(answer.hits) <= 12
    assert answer.candidates == len(answer.hits)
    for hit in answer.hits:
        exact = naive_scores(world.query, rows[hit.id])
        for signal, part in hit.signals.items():
            assert part.raw == pytest.approx(exact[signal], abs=1e-5)


def test_contributions_add_up_and_ranks_count_from_one(kit: Any) -> None:
    answer = kit.random_world(3, 60, THREE, SearchSection(candidates=10, limit=100)).ask(SearchRequest("x", STAFF))
    for hit in answer.hits:
        assert math.isclose(sum(part.contribution for part in hit.signals.values()), hit.score, abs_tol=1e-6)
        assert all(part.weight == answer.weights[signal] for signal, part in hit.signals.items())
    for signal in Signal:
        assert sorted(hit.signals[signal].rank for hit in answer.hits) == list(range(1, len(answer.hits) + 1))


def test_answer_is_the_same_every_time_and_does_not_depend_on_the_limit(kit: Any) -> None:
    world = kit.random_world(11, 60, THREE, SearchSection(candidates=15))
    whole = world.ask(SearchRequest("x", STAFF, limit=40)).hits
    for limit in (1, 3, 10):
        assert world.ask(SearchRequest("x", STAFF, limit=limit)).hits == whole[:limit]


def test_rerank_cap_takes_the_best_by_what_is_known(kit: Any) -> None:
    world = kit.random_world(5, 60, THREE, SearchSection(candidates=20, rerank_cap=5, limit=100))
    answer = world.ask(SearchRequest("x", STAFF))
    assert answer.candidates > 5
    partial = brute_force(world, BUILT_IN_PRESETS["balanced"], (Signal.DENSE, Signal.LEXICAL))
    ids = sorted((hit.id for hit in answer.hits), key=lambda each: (-partial[each], each))
    scored = {hit.id for hit in answer.hits if hit.signals[Signal.MULTI].origin is Origin.COMPLETED}
    assert scored == set(ids[:5])
    assert all(
        hit.signals[Signal.MULTI].origin is Origin.MISSING and hit.signals[Signal.MULTI].raw is None
        for hit in answer.hits
        if hit.id not in scored
    )


def test_rows_that_one_store_lacks_are_missing_there_and_count_zero(kit: Any) -> None:
    world = kit.random_world(2, 30, THREE, ALL_ROWS)
    lost = world.rows[4].chunk.id
    world.sink("tokens").delete([lost])
    (hit,) = [each for each in world.ask(SearchRequest("x", STAFF)).hits if each.id == lost]
    part = hit.signals[Signal.MULTI]
    assert (part.raw, part.rank, part.contribution, part.origin) == (None, None, 0.0, Origin.MISSING)


@pytest.mark.parametrize(
    "fault", [30.0, StoreError("broken"), ConnectionResetError("reset")], ids=["late", "err", "reset"]
)
@pytest.mark.parametrize(
    ("place", "lost"),
    [("search", Signal.DENSE), ("search", Signal.LEXICAL), *(("score", signal) for signal in Signal)],
)
def test_lost_signal_gives_the_answer_of_a_plan_without_it(kit: Any, lost: Signal, place: str, fault: Any) -> None:
    world = kit.random_world(9, 60, THREE, SearchSection(candidates=10, limit=100))
    request = SearchRequest("x", STAFF, timeout=1.0)
    degraded = world.ask(request, {STORE_OF[lost]: {f"{place} {lost}": fault}})
    kept = tuple(signal for signal in Signal if signal is not lost)
    plain = world.ask(replace(request, signals=kept))
    assert degraded.degraded
    assert not plain.degraded
    assert degraded.hits == plain.hits
    assert degraded.weights == plain.weights
    assert degraded.coverage[lost] is (Coverage.TIMEOUT if fault == 30.0 else Coverage.FAILED)
    assert all(degraded.coverage[signal] is Coverage.OK for signal in kept)
    assert degraded.why[lost].startswith(f"{STORE_OF[lost]}: ")
    assert "reset" not in degraded.why[lost]


def test_store_that_gives_no_number_is_dropped(kit: Any) -> None:
    world = kit.random_world(9, 30, THREE)
    inner = world.searchers["words"]

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def search(self, *args: Any) -> Any:
            found = await inner.search(*args)
            return [replace(each, score=float("nan")) for each in found]

    world.searchers["words"] = Broken()
    answer = world.ask(SearchRequest("x", STAFF))
    assert answer.coverage[Signal.LEXICAL] is Coverage.FAILED
    assert answer.why[Signal.LEXICAL] == "words: a score is not a finite number"
    assert Signal.LEXICAL not in answer.weights


def test_no_answer_when_no_signal_is_left(kit: Any) -> None:
    world = kit.random_world(1, 20, THREE)
    gone = StoreError("gone")
    with pytest.raises(
        StoreError, match="no store brought candidates: dense from vectors: gone; lexical from words: gone"
    ):
        world.ask(SearchRequest("x", STAFF), {"vectors": {"search dense": gone}, "words": {"search lexical": gone}})
    with pytest.raises(StoreError, match="no signal is left to rank by: multi from tokens: gone"):
        world.ask(SearchRequest("x", STAFF, signals=(Signal.MULTI,)), {"tokens": {"score multi": gone}})


@pytest.mark.parametrize("fault", [30.0, StoreError("broken")])
def test_text_store_down_is_an_error_never_an_unchecked_hit(kit: Any, fault: Any) -> None:
    world = kit.random_world(1, 20, THREE)
    with pytest.raises(StoreError, match="vectors: the hits could not be checked and are not shown"):
        world.ask(SearchRequest("x", STAFF, timeout=0.2), {"vectors": {"fetch": fault}})


def test_late_store_leaves_time_for_the_texts(kit: Any) -> None:
    world = kit.random_world(1, 20, THREE)
    faults = {"words": {"search lexical": 30.0}, "tokens": {"score multi": 30.0}}
    answer = world.ask(SearchRequest("x", STAFF, timeout=1.5), faults)
    assert answer.hits
    assert answer.weights == {Signal.DENSE: 1.0}
    assert answer.timings_ms["total"] < 1500


def test_row_gone_from_the_text_store_is_not_shown_and_the_next_takes_its_place(kit: Any) -> None:
    world = kit.random_world(
        6,
        40,
        (
            StoreBinding("vectors", "memory", ("dense",), False),
            StoreBinding("words", "memory", ("lexical", "multi"), True),
        ),
        SearchSection(candidates=40),
    )
    before = world.ask(SearchRequest("x", STAFF, limit=5)).hits
    world.sink("words").delete([before[1].id])
    after = world.ask(SearchRequest("x", STAFF, limit=5)).hits
    assert len(after) == 5
    assert before[1].id not in {hit.id for hit in after}
    assert [hit.id for hit in after[:4]] == [before[place].id for place in (0, 2, 3, 4)]


def test_row_that_no_longer_passes_in_the_text_store_is_not_shown(kit: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [kit.row(kit.facts(number, metadata={"year": 2024}), kit.vectors(rng)) for number in range(6)]
    world = kit.world(
        rows,
        kit.query(rng),
        (
            StoreBinding("vectors", "memory", ("dense",), False),
            StoreBinding("words", "memory", ("lexical", "multi"), True),
        ),
    )
    first, second, *rest = (row.chunk.id for row in rows)
    world.sink("words").patch([Patch(first, {"year": 2019}, ("staff",), 2), Patch(second, {"year": 2024}, ("hr",), 2)])
    shown = world.ask(SearchRequest("x", STAFF, filter="year >= 2020")).hits
    assert {hit.id for hit in shown} == set(rest)


def test_store_that_ignores_the_filter_cannot_leak(kit: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [
        kit.row(
            kit.facts(number, tenant="other" if number % 2 else "acme", acl=("staff",) if number % 3 else ("hr",)),
            kit.vectors(rng),
        )
        for number in range(30)
    ]
    world = kit.world(rows, kit.query(rng))
    inner = world.searchers["main"]

    class Leaky:
        """Passes every row, whatever the filter says."""

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def fetch(self, ids: Any, where: Any, timeout: float) -> Any:
            from connectors.filters.tree import Everything

            return await inner.fetch(ids, Everything(), timeout)

        async def search(self, signal: Any, query: Any, where: Any, limit: int, timeout: float) -> Any:
            from connectors.filters.tree import Everything

            return await inner.search(signal, query, Everything(), limit, timeout)

    allowed = {row.chunk.id for row in rows if row.chunk.tenant == "acme" and "staff" in row.chunk.acl}
    world.searchers["main"] = Leaky()
    assert {hit.id for hit in world.ask(SearchRequest("x", STAFF, limit=100)).hits} == allowed


@pytest.mark.parametrize("seed", range(3))
def test_isolation_between_tenants_and_principals(kit: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = ("staff", "hr", "board")
    rows = [
        kit.row(
            kit.facts(
                number,
                doc_id=f"doc-{number % 11}",
                tenant=f"t{rng.integers(3)}",
                acl=tuple(group for group in groups if rng.random() < 0.4),
                metadata={"year": int(rng.integers(2020, 2026))},
            ),
            kit.vectors(rng),
        )
        for number in range(90)
    ]
    world = kit.world(rows, kit.query(rng), THREE, SearchSection(candidates=100))
    router = SyncRouter(world.router())
    filters = ("true", "year >= 2023", 'doc_id = "doc-3"', "not year > 2021", "false")
    with router:
        for tenant, count, where in itertools.product(("t0", "t1", "t2", "t9"), range(4), filters):
            identity = Identity(tenant, groups[:count])
            answer = router.search(SearchRequest("x", identity, limit=100, filter=where, explain=True))
            allowed = [
                row.chunk
                for row in rows
                if row.chunk.tenant == tenant and set(row.chunk.acl) & set(identity.principals)
            ]
            assert {hit.id for hit in answer.hits} <= {chunk.id for chunk in allowed}
            assert answer.candidates <= len(allowed)
            for hit in answer.hits:
                assert hit.further_chunks < sum(chunk.doc_id == hit.doc_id for chunk in allowed)
            if answer.empty is not None:
                assert (answer.empty.visible or 0) == len(allowed)


def test_one_hit_per_document_with_its_best_chunk(kit: Any) -> None:
    rng = np.random.default_rng(8)
    rows = [kit.row(kit.facts(number, doc_id=f"doc-{number % 6}"), kit.vectors(rng)) for number in range(48)]
    world = kit.world(rows, kit.query(rng), THREE, ALL_ROWS)
    scores = brute_force(world, BUILT_IN_PRESETS["balanced"])
    answer = world.ask(SearchRequest("x", STAFF))
    best: dict[str, tuple[float, str]] = {}
    for row in rows:
        best[row.chunk.doc_id] = max(best.get(row.chunk.doc_id, (-9.0, "")), (scores[row.chunk.id], row.chunk.id))
    assert {hit.doc_id: hit.id for hit in answer.hits} == {document: each for document, (_, each) in best.items()}
    assert [hit.further_chunks for hit in answer.hits] == [7] * 6


def test_page_goes_on_past_the_first_batch_until_it_is_full(kit: Any) -> None:
    rng = np.random.default_rng(4)
    rows = [
        kit.row(kit.facts(number, doc_id="big" if number < 150 else f"d{number}"), kit.vectors(rng))
        for number in range(160)
    ]
    world = kit.world(rows, kit.query(rng), search=SearchSection(candidates=1000, rerank_cap=1000))
    answer = world.ask(SearchRequest("x", STAFF, limit=11))
    assert len(answer.hits) == 11


def test_vectors_of_another_encoder_do_not_meet(kit: Any) -> None:
    world = kit.random_world(0, 5)
    world.generation = replace(world.generation, encoder_fingerprint="float-ffff")
    with pytest.raises(ModelError) as caught:
        world.ask(SearchRequest("x", STAFF))
    assert "generation 3 was built with the encoder float-ffff (tiny)" in caught.value.message
    assert "their vectors do not meet" in caught.value.message


def test_query_without_lexical_tokens_and_collection_without_rows(kit: Any) -> None:
    world = kit.random_world(0, 12)
    world.query = replace(world.query, lexical_ids=np.zeros(0, np.uint32), lexical_weights=np.zeros(0, np.float32))
    answer = world.ask(SearchRequest("x", STAFF))
    assert len(answer.hits) == 10
    assert not answer.degraded
    empty = kit.world([], world.query).ask(SearchRequest("x", STAFF))
    assert (empty.hits, empty.candidates) == ((), 0)
    assert not empty.degraded


def test_json_has_the_fixed_shape(kit: Any) -> None:
    value = kit.random_world(0, 12, THREE).ask(SearchRequest("night train", STAFF, limit=2)).as_json()
    assert list(value) == [
        "schema_version",
        "query",
        "hits",
        "coverage",
        "degraded",
        "why",
        "generation",
        "weights",
        "candidates",
        "timings_ms",
        "empty",
        "rounds",
        "offset",
        "cursor",
        "gaps",
    ]
    assert (value["schema_version"], value["query"], value["generation"]) == (1, "night train", 3)
    assert value["coverage"] == {"dense": "ok", "lexical": "ok", "multi": "ok"}
    assert value["weights"] == pytest.approx({"dense": 0.4, "lexical": 0.2, "multi": 0.4})
    assert set(value["timings_ms"]) == {"open", "encode", "candidates", "completion", "fusion", "texts", "total"}
    hit = value["hits"][0]
    assert set(hit) == {
        "id",
        "doc_id",
        "ordinal",
        "title",
        "context",
        "text",
        "language",
        "score",
        "signals",
        "span",
        "metadata",
        "further_chunks",
        "chunks",
        "same_text",
    }
    assert set(hit["signals"]) == {"dense", "lexical", "multi"}
    assert all(set(part) == {"raw", "rank", "weight", "contribution", "origin"} for part in hit["signals"].values())
    explained = kit.random_world(0, 12, THREE).ask(SearchRequest("x", STAFF, limit=2, explain=True)).as_json()
    assert explained["plan"]["generation"] == 3
    assert explained["hits"][0]["explanation"] == {"tokens": [], "alignments": []}


def test_requests_run_side_by_side(kit: Any) -> None:
    world = kit.random_world(0, 30, THREE)
    router: Router = world.router()

    async def scene() -> list[Answer]:
        return list(await asyncio.gather(*(router.search(SearchRequest("x", STAFF)) for _ in range(8))))

    answers = asyncio.run(scene())
    assert all(answer.hits == answers[0].hits for answer in answers)


def test_a_long_explanation_does_not_make_a_search_slow(kit: Any) -> None:
    world = kit.random_world(1)
    encoder = kit.encoder(world.query)

    async def slowly(_query: str, _vectors: Any, texts: Sequence[str]) -> list[Explanation]:
        await asyncio.sleep(0.5)
        return [Explanation((), ()) for _ in texts]

    encoder.explain = slowly
    admission = Admission(AdmissionRules(searches=10, slow=0.4))
    router = replace(world.router(), encoder=encoder, admission=admission)
    answer = asyncio.run(router.search(SearchRequest("x", STAFF, explain=True)))
    assert answer.timings_ms["explain"] >= 500
    assert admission.places == 10


def test_warm_tells_the_stages(kit: Any) -> None:
    with SyncRouter(kit.random_world(0, 30, THREE).router()) as router:
        assert set(router.warm()) >= {"open", "encode", "candidates", "texts", "total"}


def test_a_store_that_cannot_be_warmed_does_not_keep_the_others_from_answering(kit: Any) -> None:
    lost = StoreError("store 'tokens' cannot be read", "see its disk")
    faults = {"tokens": {"warm": lost, "score multi": lost, "search multi": lost}}
    with SyncRouter(kit.random_world(0, 30, THREE).router(faults)) as router:
        assert set(router.warm()) >= {"open", "total"}
        assert router.search(SearchRequest("x", STAFF)).hits

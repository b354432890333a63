"""Plans: goldens, purity, weights, and the identity that is added last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.tree import And, AnyOf, Between, Equals, Not
from m3core.config.model import SearchSection
from m3core.errors import FilterError, UsageError
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.types import Identity, Signal
from pipelines.query.plan import QueryPlan, make_plan
from pipelines.query.request import SearchRequest
from pipelines.state.collection import Generation, StoreBinding

STAFF = Identity("acme", ("staff",))
STORES = (
    StoreBinding("vectors", "memory", ("dense",), True),
    StoreBinding("words", "memory", ("lexical",), False),
    StoreBinding("tokens", "memory", ("multi",), False),
)
FIELDS = {"year": "integer", "topic": "string"}


def generation(stores: tuple[StoreBinding, ...] = STORES) -> Generation:
    return Generation(3, "c", "float-0", "tiny", 8, 4, FIELDS, stores, "live", "2026-01-01T00:00:00Z")


def plan(request: SearchRequest, stores: tuple[StoreBinding, ...] = STORES, **search: Any) -> QueryPlan:
    return make_plan(request, generation(stores), BUILT_IN_PRESETS, SearchSection(**search))


def test_golden() -> None:
    request = SearchRequest("night train", STAFF, limit=5, filter='year >= 2024 and topic = "travel"', timeout=2.0)
    assert plan(request).as_json() == {
        "generation": 3,
        "fusion": "weighted-sum",
        "preset": "balanced",
        "signals": [
            {"signal": "dense", "store": "vectors", "weight": 0.4, "candidates": 100},
            {"signal": "lexical", "store": "words", "weight": 0.2, "candidates": 100},
            {"signal": "multi", "store": "tokens", "weight": 0.4, "candidates": 0},
        ],
        "require": [],
        "text_store": "vectors",
        "filter": '(year >= 2024 and topic = "travel") and (tenant = "acme" and acl in ("staff"))',
        "phrases": [],
        "phrases_checked_in": "candidates",
        "min_score": None,
        "limit": 5,
        "offset": 0,
        "chunks": 1,
        "once": True,
        "paged": False,
        "max_candidates": 800,
        "rerank_cap": 400,
        "deadline_s": {"query": 0.7, "candidates": 1.2, "scores": 1.7, "texts": 2.0},
    }


@given(
    limit=st.none() | st.integers(1, 1000),
    preset=st.none() | st.sampled_from(sorted(BUILT_IN_PRESETS)),
    signals=st.none() | st.lists(st.sampled_from(list(Signal)), min_size=1, unique=True).map(tuple),
    timeout=st.none() | st.floats(0.01, 300),
    where=st.sampled_from(["true", "year > 3", 'not topic in ("a", "b")']),
)
def test_same_request_same_plan_and_depth_does_not_follow_the_limit(
    limit: int | None, preset: str | None, signals: Any, timeout: float | None, where: str
) -> None:
    request = SearchRequest("x", STAFF, limit, where, preset, None, signals, False, timeout)
    try:
        first = plan(request)
    except UsageError:
        assert preset == "dense-only"
        assert signals is not None
        assert Signal.DENSE not in signals
        return
    assert first == plan(request)
    assert json.loads(json.dumps(first.as_json())) == first.as_json()
    assert sum(leg.weight for leg in first.legs) == pytest.approx(1)
    assert {leg.candidates for leg in first.legs} <= {0, 100}
    assert any(leg.candidates for leg in first.legs)


def test_identity_is_added_last_and_cannot_be_asked_for() -> None:
    where = plan(SearchRequest("x", Identity("acme", ("b", "a", "a")), filter=Equals("topic", "t"))).where
    assert where == And((Equals("topic", "t"), And((Equals("tenant", "acme"), AnyOf("acl", ("a", "b"))))))
    for stolen in ('tenant = "other"', 'acl in ("root")', 'not exists(acl) or tenant = "other"'):
        with pytest.raises(FilterError, match="it comes from the caller's identity"):
            plan(SearchRequest("x", STAFF, filter=stolen))
    with pytest.raises(FilterError, match="it comes from the caller's identity"):
        plan(SearchRequest("x", STAFF, filter=Not(Equals("tenant", "acme"))))


def test_filter_tree_is_checked_like_text() -> None:
    with pytest.raises(FilterError, match="yeer"):
        plan(SearchRequest("x", STAFF, filter=Equals("yeer", 2024)))
    with pytest.raises(FilterError, match="2\\^53"):
        plan(SearchRequest("x", STAFF, filter=Between("year", gt=2**53 + 1)))


def test_signals_of_weight_zero_are_not_asked() -> None:
    legs = plan(SearchRequest("x", STAFF, preset="dense-only")).legs
    assert [(leg.signal, leg.weight, leg.candidates) for leg in legs] == [(Signal.DENSE, 1.0, 100)]


def test_subset_of_signals_shares_the_weight() -> None:
    legs = plan(SearchRequest("x", STAFF, signals=(Signal.DENSE, Signal.LEXICAL))).legs
    assert [(leg.signal, round(leg.weight, 9)) for leg in legs] == [
        (Signal.DENSE, round(2 / 3, 9)),
        (Signal.LEXICAL, round(1 / 3, 9)),
    ]


def test_multi_alone_re_ranks_what_dense_brings() -> None:
    legs = plan(SearchRequest("x", STAFF, signals=(Signal.MULTI,))).legs
    assert [(leg.signal, leg.weight, leg.candidates) for leg in legs] == [
        (Signal.DENSE, 0.0, 100),
        (Signal.MULTI, 1.0, 0),
    ]


def test_collection_with_multi_only_searches_it() -> None:
    stores = (StoreBinding("tokens", "memory", ("multi",), True),)
    legs = plan(SearchRequest("x", STAFF), stores).legs
    assert [(leg.signal, leg.weight, leg.candidates) for leg in legs] == [(Signal.MULTI, 1.0, 100)]


def test_signal_that_no_store_keeps() -> None:
    with pytest.raises(UsageError) as caught:
        plan(SearchRequest("x", STAFF, signals=(Signal.MULTI,)), STORES[:2])
    assert (caught.value.message, caught.value.remedy) == (
        "signal multi: no store keeps it",
        "this collection has dense, lexical",
    )


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        plan(SearchRequest("x", STAFF, preset="ballanced"))
    assert (caught.value.message, caught.value.remedy) == (
        "preset 'ballanced': no such preset",
        'did you mean "balanced"?',
    )
    with pytest.raises(UsageError, match="preset 'nope'"):
        plan(SearchRequest("x", STAFF), preset="nope")


def test_presets_of_the_model_win_and_own_weights_win_over_presets() -> None:
    presets = {"balanced": Weights(1, 1, 2), "house": Weights(1, 0, 1)}
    request = SearchRequest("x", STAFF)
    assert make_plan(request, generation(), presets, SearchSection()).weights == Weights(1, 1, 2)
    assert make_plan(request, generation(), presets, SearchSection(preset="house")).weights == Weights(1, 0, 1)
    own = SearchRequest("x", STAFF, preset="balanced", weights=Weights(0, 1, 0))
    assert make_plan(own, generation(), presets, SearchSection()).weights == Weights(0, 1, 0)
    assert make_plan(own, generation(), presets, SearchSection()).preset is None


def test_configuration_sets_depth_cap_limit_and_deadline() -> None:
    made = plan(SearchRequest("x", STAFF), candidates=7, rerank_cap=9, limit=3, timeout=4.0)
    assert [leg.candidates for leg in made.legs] == [7, 7, 0]
    assert (made.rerank_cap, made.limit, made.deadlines.texts) == (9, 3, 4.0)

"""The sentence that says why there is no hit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from m3core.config.model import SearchSection
from m3core.errors import StoreError
from m3core.types import Identity, Signal
from pipelines.query.answer import ConditionCount, Emptiness
from pipelines.query.breaker import BreakerRules, Breakers, BreakerState
from pipelines.query.request import SearchRequest
from pipelines.state.collection import StoreBinding

STAFF = Identity("acme", ("staff",))


@pytest.fixture
def world(kit: Any) -> Any:
    """41 rows of acme (years 2020 to 2026, topics lab and travel), 9 of another tenant, years 2030 and later."""
    rng = np.random.default_rng(0)
    mine = [
        kit.facts(
            n,
            metadata={"year": 2020 + n % 7, "topic": "lab" if n < 30 else "travel"},
            language="de" if n == 3 else "en",
        )
        for n in range(41)
    ]
    theirs = [kit.facts(100 + n, tenant="other", metadata={"year": 2030 + n}) for n in range(9)]
    return kit.world([kit.row(facts, kit.vectors(rng)) for facts in (*mine, *theirs)], kit.query(rng))


def emptiness(world: Any, where: str, identity: Identity = STAFF, **options: Any) -> Emptiness:
    answer = world.ask(SearchRequest("x", identity, filter=where, **options))
    assert answer.hits == ()
    assert isinstance(answer.empty, Emptiness)
    return answer.empty


def test_slow_counts_do_not_keep_searches_from_the_store(world: Any) -> None:
    router = replace(world.router({"main": {"count": 5.0}}), breakers=Breakers(BreakerRules(failures=2, patience=0.05)))
    asked = SearchRequest("x", STAFF, filter="year >= 2030 and year < 2020", timeout=0.4)

    async def scene() -> None:
        answer = await router.search(asked)
        assert answer.empty is not None
        assert "did not say in time" in answer.empty.reason
        assert (await router.search(replace(asked, filter="year >= 2020"))).hits
        assert router.breakers.of("main").state is BreakerState.CLOSED

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("year >= 2030", "no row passes year >= 2030; without it 41 do"),
        ("false", "no row passes false; without it 41 do"),
        (
            'year >= 2030 and topic = "lab"',
            "no row passes the filter; without year >= 2030 30 do",
        ),
        (
            'language = "de" and topic = "travel"',
            'no row passes the filter; without language = "de" 11 do, without topic = "travel" 1 does',
        ),
        (
            'year >= 2030 and topic = "sea"',
            "no row passes the filter, also with any one of its 2 conditions left out",
        ),
        (
            '(year >= 2030 or topic = "sea") and exists(year)',
            'no row passes the filter; without year >= 2030 or topic = "sea" 41 do',
        ),
        (
            'year = 2020 and (topic = "lab" and language = "de")',
            'no row passes the filter; without language = "de" 5 do, without year = 2020 1 does',
        ),
    ],
)
def test_names_the_condition(world: Any, where: str, sentence: str) -> None:
    assert emptiness(world, where).reason == sentence


def test_counts_behind_the_sentence(world: Any) -> None:
    found = emptiness(world, 'year >= 2030 and topic = "lab"')
    assert found == Emptiness(
        reason="no row passes the filter; without year >= 2030 30 do",
        visible=41,
        passing=0,
        conditions=(ConditionCount("year >= 2030", 30), ConditionCount('topic = "lab"', 0)),
    )


def test_nothing_visible_and_nothing_there(world: Any, kit: Any) -> None:
    nobody = emptiness(world, "year >= 2030", Identity("acme", ()))
    assert nobody.reason == "no row is visible to acme without any principal"
    stranger = emptiness(world, "true", Identity("nowhere", tuple("abcdefg")))
    assert stranger.reason == "no row is visible to nowhere:a, b, c, d, e, ..."
    assert (stranger.visible, stranger.passing) == (0, 0)
    assert emptiness(kit.world([], world.query), "true").reason == "the collection is empty: m3 ingest fills it"


def test_counts_of_other_tenants_stay_theirs(world: Any) -> None:
    found = emptiness(world, "year >= 2030 and not exists(topic)")
    assert found.visible == 41
    assert [each.without for each in found.conditions] == [0, 0]


def test_rows_pass_but_none_matches(kit: Any) -> None:
    rng = np.random.default_rng(0)
    query = kit.query(rng)
    rows = [kit.row(kit.facts(n), kit.vectors(rng)) for n in range(50)]
    unlike = [row for row in rows if not set(row.vectors.lexical_ids.tolist()) & set(query.lexical_ids.tolist())]
    found = emptiness(kit.world(unlike[:1], query), "true", signals=(Signal.LEXICAL,))
    assert found.reason == "of 1 row visible none matches the query in lexical"
    found = emptiness(kit.world(unlike[:1], query), "not exists(year)", signals=(Signal.LEXICAL,))
    assert found.reason == "of 1 row passing the filter none matches the query in lexical"


def test_candidates_that_the_text_store_lost(kit: Any) -> None:
    world = kit.random_world(
        0,
        20,
        (
            StoreBinding("vectors", "memory", ("dense", "multi"), False),
            StoreBinding("words", "memory", ("lexical",), True),
        ),
        SearchSection(candidates=5),
    )
    best = world.ask(SearchRequest("x", STAFF, signals=(Signal.DENSE,))).hits[:5]
    world.sink("words").delete([hit.id for hit in best])
    found = emptiness(world, "true", signals=(Signal.DENSE,))
    assert found.reason == (
        "5 candidates are no longer in the store that keeps the texts; m3 ingest brings them together"
    )


def test_many_conditions_are_counted_together(world: Any) -> None:
    where = " and ".join(f"year != {1900 + n}" for n in range(17)) + " and false"
    assert emptiness(world, where).reason == "no row passes the filter; without it 41 do"


@pytest.mark.parametrize("fault", [30.0, StoreError("gone")])
def test_store_that_does_not_count(world: Any, fault: Any) -> None:
    request = SearchRequest("x", STAFF, filter="year >= 2030", timeout=0.2)
    answer = world.ask(request, {"main": {"count": fault}})
    assert answer.empty == Emptiness("no hit; the text store did not say in time which condition is responsible")

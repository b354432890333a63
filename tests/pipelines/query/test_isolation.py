"""Twenty tenants, random callers and requests: nothing of a row that its caller may not see ever shows.

Texts, titles, documents and metadata of every row name the row's tenant and principals, so that a leak anywhere in the
answer (hits, chunks, copies, counts, reasons, plan) can be seen in its JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from m3core.config.model import SearchSection
from m3core.types import Identity, Row, Signal
from pipelines.query.answer import Answer
from pipelines.query.errors import CursorError
from pipelines.query.request import Fusion, SearchRequest
from pipelines.query.router import SyncRouter

TENANTS = tuple(f"tenant{n:02d}" for n in range(20))
GROUPS = ("staff", "board", "hr", "guests")
FILTERS = (
    "true",
    "year >= 2022",
    'topic = "topic-tenant03"',
    'not topic = "topic-tenant03"',
    "false",
    'doc_id = "d-3"',
)
QUERIES = ("x", '"secret of"', '"no such words"', "night train")


def rows_of(kit: Any, count: int, seed: int) -> list[Row]:
    rng, random = np.random.default_rng(seed), Random(seed)
    rows = []
    for number in range(count):
        tenant = random.choice(TENANTS)
        acl = tuple(group for group in GROUPS if random.random() < 0.4)
        owner = f"{tenant} {' '.join(acl) or 'nobody'}"
        # Document ids and some texts are the same in several tenants: what is told apart must be told by the row.
        facts = kit.facts(
            number,
            doc_id=f"d-{random.randrange(8)}",
            tenant=tenant,
            acl=acl,
            metadata={"year": random.randrange(2018, 2026), "topic": f"topic-{tenant}"},
            text="the secret of all" if random.random() < 0.2 else f"the secret of {owner} {number}",
        )
        rows.append(kit.row(facts, kit.vectors(rng)))
    return rows


def random_identity(random: Random) -> Identity:
    return Identity(random.choice((*TENANTS, "tenant99")), tuple(group for group in GROUPS if random.random() < 0.5))


def random_request(random: Random) -> SearchRequest:
    signals = tuple(signal for signal in Signal if random.random() < 0.7) or (Signal.DENSE,)
    return SearchRequest(
        random.choice(QUERIES),
        random_identity(random),
        limit=random.choice((1, 3, 10, 100)),
        filter=random.choice(FILTERS),
        signals=signals,
        explain=random.random() < 0.3,
        chunks=random.choice((1, 3)),
        offset=random.choice((0, 0, 2)),
        paged=random.random() < 0.5,
        fusion=random.choice(list(Fusion)),
        once=random.random() < 0.7,
        min_score=random.choice((None, 0.0, 0.3)),
    )


def visible(rows: list[Row], identity: Identity) -> dict[str, Row]:
    return {
        row.chunk.id: row
        for row in rows
        if row.chunk.tenant == identity.tenant and set(row.chunk.acl) & set(identity.principals)
    }


def check(answer: Answer, identity: Identity, rows: list[Row]) -> None:
    """Every id, text and count of the answer comes from what the caller may see."""
    allowed = visible(rows, identity)
    per_document = Counter(row.chunk.doc_id for row in allowed.values())
    for hit in answer.hits:
        shown = [(hit.id, hit.text), *((chunk.id, chunk.text) for chunk in hit.chunks)]
        assert all(each in allowed and allowed[each].chunk.text == text for each, text in shown)
        assert set(hit.same_text) <= set(per_document)
        assert hit.further_chunks < per_document[hit.doc_id]
    assert answer.candidates <= len(allowed)
    assert all(place < len(per_document) for place in answer.gaps)
    if answer.empty is not None:
        assert answer.empty.visible in (len(allowed), None)
        assert (answer.empty.passing or 0) <= len(allowed)
        assert all(condition.without <= len(allowed) for condition in answer.empty.conditions)
    told = json.dumps(answer.as_json())
    others = [tenant for tenant in TENANTS if tenant != identity.tenant]
    # The filter of the request is repeated by plan and reason; everything else would be a leak.
    told = told.replace("topic-tenant03", "")
    assert not [tenant for tenant in others if tenant in told]


def campaign(kit: Any, count: int, seed: int) -> None:
    random = Random(seed)
    rows = rows_of(kit, 240, seed)
    world = kit.world(rows, kit.query(np.random.default_rng(seed)), kit.three_stores, SearchSection(candidates=50))
    cursors: list[tuple[SearchRequest, str]] = []
    asked = foreign = 0
    with SyncRouter(world.router()) as router:
        while asked < count:
            request, asked = random_request(random), asked + 1
            answer = router.search(request)
            check(answer, request.identity, rows)
            if answer.cursor is not None:
                cursors.append((replace(request, offset=0), answer.cursor))
            if cursors and random.random() < 0.4:
                mine, token = random.choice(cursors)
                other = random_identity(random)
                asked += 1
                if (other.tenant, set(other.principals)) == (mine.identity.tenant, set(mine.identity.principals)):
                    continue
                foreign += 1
                with pytest.raises(CursorError, match="another caller"):
                    router.search(replace(mine, identity=other, cursor=token))
                check(router.search(replace(mine, cursor=token)), mine.identity, rows)
    assert foreign > count // 20


def test_random_requests_of_twenty_tenants(kit: Any) -> None:
    campaign(kit, 500, seed=1)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 12))
def test_ten_thousand_requests(kit: Any, seed: int) -> None:
    campaign(kit, 1_000, seed)


def test_a_missing_document_and_a_forbidden_one_answer_alike(kit: Any) -> None:
    """Also in what is said of an empty answer."""
    rng = np.random.default_rng(0)
    mine = [kit.row(kit.facts(n, tenant="tenant00"), kit.vectors(rng)) for n in range(5)]
    hidden = kit.row(kit.facts(9, doc_id="hidden", tenant="tenant00", acl=("board",)), kit.vectors(rng))
    query = kit.query(rng)
    answers = []
    for rows in (mine, [*mine, hidden]):
        request = SearchRequest("x", Identity("tenant00", ("staff",)), filter='doc_id = "hidden"')
        value = kit.world(rows, query, kit.three_stores).ask(request).as_json()
        del value["timings_ms"]
        answers.append(value)
    assert answers[0] == answers[1]
    assert answers[0]["empty"]["reason"] == 'no row passes doc_id = "hidden"; without it 5 do'

"""Twenty tenants ask at random; nothing of another tenant, and nothing beyond one's principals, ever shows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from m3core.types import Identity
from tests.pipelines.query.service.conftest import Serve, Served

TENANTS = [f"tenant{n:02d}" for n in range(20)]
PRINCIPALS = ["staff", "hr", "board", "everyone"]
ROWS = 400


def world_of_tenants(kit: Any) -> Any:
    rng = np.random.default_rng(11)
    rows = []
    for number in range(ROWS):
        tenant = TENANTS[number % len(TENANTS)]
        acl = tuple(rng.choice(PRINCIPALS, size=int(rng.integers(0, 3)), replace=False))
        mark = f"{tenant}-{'+'.join(sorted(acl)) or 'nobody'}-{number}"
        facts = kit.facts(
            number,
            doc_id=f"doc-{mark}",
            tenant=tenant,
            acl=acl,
            text=f"text {mark}",
            metadata={"topic": f"topic {mark}"},
        )
        rows.append(kit.row(facts, kit.vectors(rng)))
    return kit.world(rows, kit.query(rng))


def visible(world: Any, tenant: str, principals: tuple[str, ...]) -> set[str]:
    return {
        row.chunk.doc_id for row in world.rows if row.chunk.tenant == tenant and set(row.chunk.acl) & set(principals)
    }


def ask(served: Served, rng: np.random.Generator, world: Any, cursors: list[str], headers: dict[str, str]) -> Any:
    doc = world.rows[int(rng.integers(ROWS))].chunk
    body: dict[str, Any] = {"query": "x", "limit": int(rng.integers(1, 40)), "explain": bool(rng.integers(2))}
    match int(rng.integers(6)):
        case 0:
            return served.client.get(f"/v1/collections/handbook/documents/{doc.doc_id}", headers=headers)
        case 1:
            return served.client.get("/v1/collections/handbook", headers=headers)
        case 2:
            body |= {"facets": ["topic", "language"]}
        case 3:
            body |= {"filter": f'topic = "{doc.metadata["topic"]}" or doc_id = "{doc.doc_id}"'}
        case 4:
            body |= {"paged": True}
        case _:
            body |= {"paged": True, "cursor": cursors[int(rng.integers(len(cursors)))]} if cursors else {}
    return served.client.post("/v1/collections/handbook/search", json=body, headers=headers)


def check(world: Any, response: Any, tenant: str, principals: tuple[str, ...]) -> None:
    mine = visible(world, tenant, principals)
    foreign = [row.chunk for row in world.rows if row.chunk.doc_id not in mine]
    text = response.text
    if response.status_code != 200:
        # A refusal repeats nothing, apart from the caller's own filter, which it never shows either.
        assert not any(chunk.doc_id in text or chunk.text in text for chunk in foreign)
        return
    told = response.json()
    # The caller's own filter comes back in a plan; it is not an answer.
    told.pop("plan", None)
    if told.get("empty"):
        told["empty"].pop("conditions"), told["empty"].pop("reason")
    told.pop("cursor", None)
    text = json.dumps(told)
    for chunk in foreign:
        assert chunk.id not in text
        assert chunk.doc_id not in text
        assert chunk.text not in text
        assert chunk.metadata["topic"] not in text
    if "rows" in told:
        assert told["rows"] == len(mine)
    if "facets" in told:
        assert told["facets"]["documents"] <= len(mine)
    if told.get("empty"):
        assert (told["empty"]["visible"] or 0) <= len(mine)


def run(kit: Any, serve: Serve, requests: int) -> None:
    world = world_of_tenants(kit)
    served = serve(world)
    backend = served.key(scopes=("search", "act-as"), act_as_tenants=("*",), per_minute=0)
    own = {
        tenant: served.key(name=tenant, identity=Identity(tenant, ("staff", "everyone")), per_minute=0)
        for tenant in TENANTS
    }
    rng = np.random.default_rng(12)
    cursors: list[str] = []
    answered = 0
    for _ in range(requests):
        tenant = str(rng.choice(TENANTS))
        principals: tuple[str, ...] = ("staff", "everyone")
        headers = own[tenant]
        if rng.integers(2):
            chosen = rng.choice(PRINCIPALS, size=int(rng.integers(0, 4)), replace=False)
            principals = tuple(str(each) for each in chosen)
            headers = {**backend, "m3-act-as-tenant": tenant, "m3-act-as-principals": ",".join(principals)}
        response = ask(served, rng, world, cursors, headers)
        assert response.status_code < 500
        check(world, response, tenant, principals)
        answered += response.status_code == 200
        cursor = response.json().get("cursor") if response.status_code == 200 else None
        if cursor:
            cursors.append(cursor)
    assert answered > requests / 2


def test_no_request_shows_what_is_not_the_callers(kit: Any, serve: Serve) -> None:
    run(kit, serve, 500)


@pytest.mark.nightly
def test_ten_thousand_requests_show_nothing_either(kit: Any, serve: Serve) -> None:
    run(kit, serve, 10_000)


def test_a_missing_document_and_a_forbidden_one_answer_alike(kit: Any, serve: Serve) -> None:
    world = world_of_tenants(kit)
    served = serve(world)
    mine = served.key(identity=Identity("tenant03", ("staff",)))
    seen = visible(world, "tenant03", ("staff",))
    told = served.client.get(f"/v1/collections/handbook/documents/{min(seen)}", headers=mine).json()
    assert told["total"] == 1
    assert told["chunks"][0]["text"].startswith("text tenant03")
    forbidden = [row.chunk.doc_id for row in world.rows if row.chunk.doc_id not in seen][:30]
    answers = set()
    for doc_id in [*forbidden, "no-such-document", "a/b/c", "ü%20x"]:
        response = served.client.get(f"/v1/collections/handbook/documents/{doc_id}", headers=mine)
        body = response.json()
        assert body.pop("request_id")
        headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
        answers.add((response.status_code, json.dumps(body), json.dumps(headers)))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 404

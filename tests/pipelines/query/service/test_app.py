"""The API over HTTP: what it answers, what it refuses, and what it never tells."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from m3core.errors import StoreError
from m3core.types import Identity
from pipelines.query.admission import Admission, AdmissionRules
from pipelines.query.encoding import EncoderFacts
from pipelines.query.request import SearchRequest
from pipelines.query.service.guard import _name_of
from pipelines.query.service.schemas import CollectionsTold, EncodeTold, ProblemTold, SearchTold
from pipelines.query.service.service import ClientGoneError, while_connected
from pipelines.query.service.settings import MAX_BODY_BYTES
from tests.pipelines.query.service.conftest import Serve, Served

STAFF_SEARCH = "/v1/collections/handbook/search"


def problem(response: Any, status: int, code: str) -> ProblemTold:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = ProblemTold.model_validate(response.json())
    assert (told.status, told.code) == (status, code)
    assert told.request_id == response.headers["x-request-id"]
    return told


def test_search_answers_what_the_router_answers(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1)
    served = serve(world)
    expected = world.ask(SearchRequest("anything", kit.staff, limit=7, explain=True)).as_json()
    told = served.search(limit=7, explain=True).json()
    SearchTold.model_validate(told)
    assert told["hits"] == expected["hits"]
    assert told["plan"] == expected["plan"]
    assert len(told["hits"]) == 7


def undocumented(told: Any, at: str = "") -> list[str]:
    """Fields of an answer that its model does not name."""
    if isinstance(told, BaseModel):
        extra = [f"{at}.{name}" for name in told.model_extra or {}]
        return extra + [each for name in type(told).model_fields for each in undocumented(getattr(told, name), name)]
    if isinstance(told, dict):
        return [each for value in told.values() for each in undocumented(value, at)]
    return [each for value in told for each in undocumented(value, at)] if isinstance(told, list) else []


def test_the_contract_names_every_field_of_an_answer(kit: Any, serve: Serve) -> None:
    rng = np.random.default_rng(2)
    rows = [kit.row(kit.facts(n, doc_id=f"doc-{n % 5}", text=f"text {n % 4}"), kit.vectors(rng)) for n in range(30)]
    served = serve(kit.world(rows, kit.query(rng)))
    told = served.search(limit=3, explain=True, snippet=50, facets=["topic"], chunks=3).json()
    assert told["hits"][0]["chunks"]
    assert undocumented(SearchTold.model_validate(told)) == []
    empty = served.search(filter="year = 1900").json()
    assert undocumented(SearchTold.model_validate(empty)) == []


def test_get_answers_like_post(served: Served) -> None:
    posted = served.search("anything", limit=3, filter="year >= 2000 or not exists(year)", snippet=40).json()
    parameters = {"q": "anything", "limit": 3, "filter": "year >= 2000 or not exists(year)", "snippet": 40}
    asked = served.client.get(STAFF_SEARCH, params=parameters).json()
    assert asked["hits"] == posted["hits"]
    assert asked["hits"]


def test_every_answer_carries_the_headers(served: Served) -> None:
    for path in ("/", "/healthz", "/v1/collections", "/nowhere", STAFF_SEARCH):
        headers = served.client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "set-cookie" not in headers
        assert len(headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "", "127.0.0.1.nip.io", "[::2]"]
)
def test_other_names_are_not_answered(served: Served, host: str) -> None:
    problem(served.client.get("/v1/collections", headers={"host": host}), 421, "host")
    problem(served.client.get("/", headers={"host": host}), 421, "host")
    assert served.client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8080", "testserver"])
def test_own_names_are_answered(served: Served, host: str) -> None:
    assert served.client.get("/v1/collections", headers={"host": host}).status_code == 200


@given(st.text(max_size=40))
def test_the_name_of_a_host_never_fails(text: str) -> None:
    assert isinstance(_name_of(text), str)


def test_other_sites_may_link_to_the_page_and_ask_nothing(served: Served) -> None:
    elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    problem(served.client.get("/v1/collections", headers=elsewhere), 403, "cross-site")
    problem(served.client.post(STAFF_SEARCH, json={"query": "x"}, headers=elsewhere), 403, "cross-site")
    linked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert served.client.get("/", headers=linked).status_code == 200
    problem(served.client.get(f"{STAFF_SEARCH}?q=x", headers=linked), 403, "cross-site")


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, "body.query"),
        ({"query": ""}, "body.query"),
        ({"query": "x" * 8193}, "body.query"),
        ({"query": "x", "limit": 0}, "body.limit"),
        ({"query": "x", "limit": 101}, "body.limit"),
        ({"query": "x", "limit": "5"}, "body.limit"),
        ({"query": "x", "page": 3}, "body.page"),
        ({"query": "x", "filter": "y" * 4097}, "body.filter"),
        ({"query": "x", "weights": {"dense": -1}}, "body.weights.dense"),
        ({"query": "x", "signals": []}, "body.signals"),
        ({"query": "x", "signals": ["words"]}, "body.signals.0"),
        ({"query": "x", "timeout_s": 0}, "body.timeout_s"),
    ],
)
def test_a_body_that_breaks_a_rule_is_named_without_its_value(served: Served, body: dict[str, Any], at: str) -> None:
    response = served.client.post(STAFF_SEARCH, json=body)
    told = problem(response, 422, "invalid")
    assert told.errors is not None
    assert told.errors[0]["at"] == at
    assert "xxxx" not in response.text
    assert "yyyy" not in response.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": " "}, "usage"),
        ({"query": "a\x00b"}, "usage"),
        ({"query": "x", "preset": "best"}, "usage"),
        ({"query": "x", "weights": {}}, "usage"),
        ({"query": "x", "filter": "yeer = 1"}, "filter"),
        ({"query": "x", "filter": 'tenant = "other"'}, "filter"),
        ({"query": "x", "filter": "not " * 200 + "year = 1"}, "filter"),
        ({"query": "x", "filter": "(" * 2000}, "filter"),
        ({"query": "x", "facets": ["tenant"]}, "usage"),
    ],
)
def test_what_the_library_refuses_is_a_400(served: Served, body: dict[str, Any], code: str) -> None:
    problem(served.client.post(STAFF_SEARCH, json=body), 400, code)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[" * 60_000, b'{"query": ' * 6_000, b'{"query": "\\ud800"}', b"\xff\xfe", b'{"query": NaN}', b"null",
     b'{"query": "x", "weights": {"dense": NaN}}', b'{"query": "x", "weights": {"dense": 1e400}}',
     b'{"query": "x", "limit": ' + b"9" * 5_000 + b"}"],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(served: Served, raw: bytes) -> None:
    response = served.client.post(STAFF_SEARCH, content=raw, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    ProblemTold.model_validate(response.json())


def test_a_body_of_another_type_is_not_read(served: Served) -> None:
    response = served.client.post(STAFF_SEARCH, content=b'{"query": "x"}', headers={"content-type": "text/plain"})
    problem(response, 422, "invalid")


def test_a_large_body_is_refused_however_it_comes(served: Served) -> None:
    large = b'{"query": "' + b"x" * MAX_BODY_BYTES + b'"}'
    json = {"content-type": "application/json"}
    problem(served.client.post(STAFF_SEARCH, content=large, headers=json), 413, "too-large")
    chunks = iter([large[:10_000]] * 30)
    problem(served.client.post(STAFF_SEARCH, content=chunks, headers=json), 413, "too-large")


def test_a_slow_body_is_refused(kit: Any, serve: Serve) -> None:
    served = serve(kit.random_world(1), body_seconds=0.05)

    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": STAFF_SEARCH, "headers": [(b"host", b"localhost")]}
        await served.client.app(scope, receive, send)  # type: ignore[arg-type]
        return sent

    assert asyncio.run(ask())[0]["status"] == 408


def test_snippets_have_marks_in_the_text(kit: Any, serve: Serve) -> None:
    text = "Before that nothing. " * 20 + "The <b>night</b> train 夜行列車 leaves at nine."
    rows = [kit.row(kit.facts(0, text=text), kit.vectors(np.random.default_rng(0)))]
    served = serve(kit.world(rows, kit.query(np.random.default_rng(0))))
    told = served.search("night 列車", snippet=80).json()["hits"][0]["snippet"]
    marked = [told["text"][start:end] for start, end in told["marks"]]
    assert marked == ["night", "列車"]
    assert told["cut_before"]
    assert "snippet" not in served.search("night").json()["hits"][0]


def test_a_signal_that_is_missing_is_told_without_the_stores_words(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1, stores=kit.three_stores)
    secret = StoreError("http://10.0.0.7:9200 says: password wrong", "look at /etc/m3/secret")
    served = serve(world, router=world.router({"words": {"search lexical": secret}}))
    response = served.search()
    told = response.json()
    assert told["degraded"] is True
    assert told["coverage"] == {"dense": "ok", "lexical": "failed", "multi": "ok"}
    assert told["why"] == {"lexical": "its store failed"}
    assert "10.0.0.7" not in response.text
    assert "m3_search_signal_missed_total" in {
        sample.name for family in served.service.metrics.registry.collect() for sample in family.samples
    }


def test_without_the_text_store_there_is_an_error_and_no_hit(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1, stores=kit.three_stores)
    served = serve(world, router=world.router({"vectors": {"fetch": StoreError("secret words", "secret remedy")}}))
    response = served.search()
    problem(response, 503, "store")
    assert int(response.headers["retry-after"]) >= 1
    assert "secret" not in response.text


def test_a_fault_of_ours_is_told_without_its_text(kit: Any, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    world = kit.random_world(1)
    served = serve(world, router=world.router({"main": {"search dense": ValueError("the document's own words")}}))
    logging.getLogger("m3").propagate = True
    with caplog.at_level(logging.INFO):
        response = served.search("a person's question")
    told = problem(response, 500, "internal")
    assert "own words" not in response.text + caplog.text
    assert "question" not in caplog.text
    assert told.request_id in caplog.text


def test_the_access_log_knows_routes_not_paths(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("m3").propagate = True
    with caplog.at_level(logging.INFO, "m3.access"):
        served.client.get(STAFF_SEARCH, params={"q": "my private question"})
        served.client.get("/v1/collections/handbook/documents/payslip-anna")
        served.client.get("/private/path?secret=1")
    assert "200 GET /v1/collections/{name}/search" in caplog.text
    assert "404 GET /v1/collections/{name}/documents/{doc_id:path}" in caplog.text
    for word in ("private", "payslip", "secret"):
        assert word not in caplog.text


def test_unknown_paths_methods_and_collections(served: Served) -> None:
    problem(served.client.get("/v1/nothing"), 404, "not-found")
    problem(served.client.delete(STAFF_SEARCH), 405, "method")
    problem(served.client.post("/v1/collections/other/search", json={"query": "x"}), 404, "not-found")
    problem(served.client.get("/page/..%2fapp.py"), 404, "not-found")


def test_collections_tell_generation_fields_and_what_is_visible(served: Served) -> None:
    told = CollectionsTold.model_validate(served.client.get("/v1/collections").json()).collections[0]
    assert (told.name, told.generation, told.rows) == ("handbook", 3, 60)
    assert told.signals == ["dense", "lexical", "multi"]
    assert told.fields == {"year": "integer", "topic": "string"}
    assert told.presets[told.default_preset] == {"dense": 0.4, "lexical": 0.2, "multi": 0.4}
    nobody = served.key(identity=Identity("acme", ("guests",)))
    assert served.client.get("/v1/collections/handbook", headers=nobody).json()["rows"] == 0


def test_facets_count_the_best_candidates(kit: Any, serve: Serve) -> None:
    rng = np.random.default_rng(5)
    rows = [
        kit.row(kit.facts(n, metadata={"year": 2020 + n % 3, "topic": "a" if n % 4 else "b"}), kit.vectors(rng))
        for n in range(40)
    ]
    served = serve(kit.world(rows, kit.query(rng)))
    told = served.search(limit=2, facets=["topic", "year", "language"]).json()
    assert len(told["hits"]) == 2
    assert told["facets"]["documents"] == 40
    assert told["facets"]["fields"]["topic"] == [{"value": "a", "count": 30}, {"value": "b", "count": 10}]
    assert [each["value"] for each in told["facets"]["fields"]["year"]] == [2020, 2021, 2022]
    assert told["facets"]["fields"]["language"] == [{"value": "en", "count": 40}]


def test_facets_are_over_the_fields_of_the_live_generation(kit: Any, serve: Serve) -> None:
    """A field that came with a promotion counts at once; the configuration that the service began with lacks it."""
    served = serve(kit.random_world(1), config={"fields": {"year": "integer"}})
    assert "topic" in served.client.get("/v1/collections/handbook").json()["fields"]
    assert served.search(facets=["topic"]).json()["facets"]["fields"] == {"topic": []}
    problem(served.search(facets=["nothing"]), 400, "usage")


def test_facets_are_of_a_first_page(served: Served) -> None:
    problem(served.client.post(STAFF_SEARCH, json={"query": "x", "facets": ["year"], "offset": 10}), 400, "usage")


def test_pages_of_a_cursor_are_the_whole_order(served: Served) -> None:
    whole = [hit["doc_id"] for hit in served.search(limit=60).json()["hits"]]
    told = served.search(limit=25, paged=True).json()
    pages = [hit["doc_id"] for hit in told["hits"]]
    while told["cursor"]:
        told = served.search(limit=25, paged=True, cursor=told["cursor"]).json()
        pages += [hit["doc_id"] for hit in told["hits"]]
    assert pages == whole
    assert len(pages) == 60


def test_a_cursor_of_somebody_else_is_refused(served: Served) -> None:
    mine = served.search(limit=5, paged=True).json()["cursor"]
    other = served.key(identity=Identity("acme", ("staff", "boss")))
    problem(served.search(limit=5, paged=True, cursor=mine, headers=other), 400, "cursor")
    problem(served.search(limit=5, paged=True, cursor="nonsense", headers=other), 400, "cursor")


def test_a_required_signal_that_is_missing_is_an_error(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1, stores=kit.three_stores)
    served = serve(world, router=world.router({"tokens": {"score multi": StoreError("secret", "")}}))
    told = problem(served.search(require=["multi"]), 503, "degraded")
    assert "secret" not in told.detail
    assert served.search().json()["degraded"] is True


def test_too_many_searches_are_refused_at_once(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1)
    router = replace(world.router(), admission=Admission(AdmissionRules(2, 0.5)))
    served = serve(world, router=router)
    with router.admission.place("acme"):
        response = served.search()
        problem(response, 429, "tenant-busy")
        problem(served.client.post("/v1/encode", json={"texts": ["x"]}), 429, "tenant-busy")
        assert int(response.headers["retry-after"]) >= 1
        with router.admission.place("other"):
            problem(served.search(), 503, "overloaded")
    assert served.search().status_code == 200


def test_encode_gives_the_querys_vectors(served: Served) -> None:
    told = served.client.post("/v1/encode", json={"texts": ["one", "two"], "signals": ["dense", "lexical"]}).json()
    EncodeTold.model_validate(told)
    assert len(told["vectors"]) == 2
    assert len(told["vectors"][0]["dense"]) == 8
    assert "multi" not in told["vectors"][0]
    problem(served.client.post("/v1/encode", json={"texts": ["\u0007"]}), 400, "usage")


def test_encoding_has_a_deadline_and_leaves_the_model_to_others_in_between(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1)
    encoder, at_once = kit.encoder(world.query), []
    running = 0

    async def slowly(query: str) -> Any:
        nonlocal running
        if not query.startswith("text"):  # the service's own, to get warm
            return world.query
        running += 1
        at_once.append(running)
        await asyncio.sleep(0.05)
        running -= 1
        return world.query

    encoder.encode_query = slowly
    router = replace(world.router(), encoder=encoder)
    served = serve(world, router=router)
    texts = [f"text {number}" for number in range(16)]
    assert len(served.client.post("/v1/encode", json={"texts": texts}).json()["vectors"]) == 16
    assert max(at_once) == 4
    hasty = serve(world, router=router, config={"search": {"timeout": 0.12, "tenant": "acme", "principals": ["staff"]}})
    told = problem(hasty.client.post("/v1/encode", json={"texts": texts}), 503, "overloaded")
    assert "of 16 texts in 0.12 s" in told.detail


def test_a_look_at_the_collections_is_in_the_audit_log(served: Served) -> None:
    served.client.get("/v1/collections")
    served.client.get("/v1/collections/handbook")
    problem(served.client.get("/v1/collections/other"), 404, "not-found")
    (file,) = (served.service.paths.root.parents[1] / "service" / "handbook" / "audit").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("collections", "ok"),
        ("collections", "ok"),
        ("collections", "not-found"),
    ]


def test_after_a_promotion_the_generations_own_model_encodes(kit: Any, serve: Serve) -> None:
    world = kit.random_world(1)
    configured, own = kit.encoder(world.query), kit.encoder(world.query)
    configured.facts = partial(asyncio.sleep, 0, EncoderFacts("float-other", {}))

    class Others:
        async def find(self, generation: Any) -> Any:
            assert generation.encoder_fingerprint == world.generation.encoder_fingerprint
            return own

        async def aclose(self) -> None:
            """Nothing to release."""

    router = replace(world.router(), encoder=configured, others=Others())
    served = serve(world, router=router)
    told = served.client.post("/v1/encode", json={"texts": ["x"]}).json()
    assert told["encoder_fingerprint"] == world.generation.encoder_fingerprint
    assert "balanced" in served.client.get("/v1/collections/handbook").json()["presets"]


def test_probes(served: Served) -> None:
    assert served.client.get("/healthz").json() == {"status": "live"}
    for _ in range(200):
        response = served.client.get("/readyz")
        if response.status_code == 200:
            break
        time.sleep(0.02)
    assert response.json() == {"status": "ready", "checks": {"model": "ok", "generation": "ok", "stores": "ok"}}


def test_work_ends_when_the_client_hangs_up() -> None:
    class Gone:
        async def receive(self) -> dict[str, str]:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(ClientGoneError):
        asyncio.run(while_connected(Gone(), work()))  # type: ignore[arg-type]
    assert ended == ["cancelled"]

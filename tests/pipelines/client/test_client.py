"""The Python client against the service itself, and against services that are busy, away or something else."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.bulk.backoff import Backoff
from m3core.types import Identity
from pipelines.client import AsyncClient, Client, ServiceError
from pipelines.client.calls import Attempts
from tests.pipelines.query.conftest import Kit
from tests.pipelines.query.service.conftest import Serve, Served
from tests.pipelines.query.service.conftest import serve as serve

pytest_plugins: list[str] = []


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture
def served(kit: Kit, serve: Serve) -> Served:
    return serve(kit.random_world(1))


class Through(httpx.BaseTransport):
    """httpx over starlette's test client, so that the sync client reaches the application too."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        got = self.served.client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(got.status_code, headers=dict(got.headers), content=got.content)


def test_search_document_collections_encode(served: Served) -> None:
    key = served.key(scopes=("search", "encode", "act-as"))["authorization"].removeprefix("Bearer ")
    with Client("http://testserver", key, transport=Through(served)) as client:
        answer = client.search("handbook", "anything", limit=3, weights={"dense": 1.0}, snippet=60)
        assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
        assert answer.weights == {"dense": 1.0}
        assert answer.hits[0].snippet is not None
        document = client.document("handbook", answer.hits[0].doc_id)
        assert document.chunks[0].text == answer.hits[0].text
        assert client.collections()[0].rows == 60
        assert client.collections(act_as=Identity("acme", ("guests, all",)))[0].rows == 0
        assert len(client.encode(["a", "b"], ["dense"]).vectors) == 2


def test_pages_are_the_whole_order(served: Served) -> None:
    with Client("http://testserver", transport=Through(served)) as client:
        pages = list(client.pages("handbook", "anything", limit=17))
        ids = [hit.doc_id for page in pages for hit in page.hits]
        assert ids == [hit.doc_id for hit in client.search("handbook", "anything", limit=100).hits]
        assert len(ids) == 60
        later = list(client.pages("handbook", "anything", limit=17, offset=9))
        assert [hit.doc_id for page in later for hit in page.hits] == ids[9:]


def test_the_async_client_says_the_same(served: Served) -> None:
    async def ask() -> Any:
        transport = httpx.ASGITransport(app=served.client.app)
        async with AsyncClient("http://testserver", transport=transport) as client:
            pages = [page async for page in client.pages("handbook", "x", limit=40)]
            document = await client.document("handbook", pages[0].hits[0].doc_id)
            return pages, document, await client.collections(), await client.encode(["x"])

    pages, document, collections, encoded = asyncio.run(ask())
    with Client("http://testserver", transport=Through(served)) as client:
        assert [hit.id for page in pages for hit in page.hits] == [
            hit.id for hit in client.search("handbook", "x", limit=100).hits
        ]
        assert document == client.document("handbook", document.doc_id)
        assert collections == client.collections()
        assert encoded == client.encode(["x"])


def test_a_problem_is_an_error_with_its_parts(served: Served) -> None:
    with Client("http://testserver", transport=Through(served)) as client:
        with pytest.raises(ServiceError, match="yeer") as caught:
            client.search("handbook", "x", filter="yeer = 1")
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.status, error.code) == (400, "filter")
        assert len(error.request_id) == 32
        with pytest.raises(ServiceError, match="no such document"):
            client.document("handbook", "nothing")


Answer = Callable[[httpx.Request], httpx.Response]


def client_of(answer: Answer, **attempts: Any) -> Client:
    rule = {"backoff": Backoff(base=0.0), **attempts}
    return Client("http://service", transport=httpx.MockTransport(answer), attempts=lambda: Attempts(**rule))


COLLECTIONS = {"collections": []}


def test_a_busy_service_is_asked_again_not_before_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    answers = [httpx.Response(503, headers={"retry-after": "2"}), httpx.Response(429, headers={"retry-after": "3"})]

    def answer(_: httpx.Request) -> httpx.Response:
        return answers.pop(0) if answers else httpx.Response(200, json=COLLECTIONS)

    assert client_of(answer).collections() == []
    assert [round(wait) for wait in waits] == [2, 3]


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    problem = {
        "type": "t", "title": "t", "status": 503, "code": "busy", "detail": "busy", "remedy": "", "request_id": "r",
    }  # fmt: skip

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, headers={"retry-after": "20"}, json=problem)

    with pytest.raises(ServiceError, match="busy"):
        client_of(answer).collections()
    assert waits == [20.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500])
def test_what_would_be_answered_the_same_way_is_not_asked_again(status: int) -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(status, text="<html>not ours</html>")

    with pytest.raises(ServiceError, match="not one of a threefold service"):
        client_of(answer).collections()
    assert asked == [1]


def test_a_service_that_is_away_is_tried_a_few_times_and_its_address_not_told() -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ConnectError("http://user:secret@service is away")

    with pytest.raises(ServiceError, match="ConnectError") as caught:
        client_of(answer, most=3).collections()
    assert len(asked) == 3
    assert "secret" not in str(caught.value)


def test_a_redirect_does_not_take_the_key_along() -> None:
    hosts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://elsewhere/"})

    with pytest.raises(ServiceError):
        client_of(answer).collections()
    assert hosts == ["service"]


@given(st.lists(st.floats(0, 40), max_size=12), st.integers(1, 6), st.floats(0, 60))
def test_waits_keep_to_their_bounds(retry_after: list[float], most: int, patience: float) -> None:
    attempts = Attempts(most=most, patience=patience)
    waits = []
    for asked in retry_after:
        wait = attempts.wait(asked)
        if wait is None:
            break
        assert wait >= asked
        waits.append(wait)
    assert len(waits) < most
    assert sum(waits) <= patience

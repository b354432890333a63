"""Clients that mean harm, over real sockets: bombs in head, path and body, slow ones, and ones that go away."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import urlsplit

import httpx
import pytest

from pipelines.query.router import Router
from pipelines.query.service import patience
from pipelines.query.service.settings import MAX_BODY_BYTES
from tests.pipelines.query.service.conftest import Serve, Served, listening

SEARCH = "/v1/collections/handbook/search"
SOON = 10.0


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=SOON)


def said(url: str, data: bytes) -> bytes:
    """What comes back for raw bytes, until the service closes."""
    with closing(connected(url)) as client:
        try:
            client.sendall(data)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))
        except ConnectionError:
            # It may close before it has read all of a bomb.
            return b""


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + SOON
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.fixture
def running(served: Served) -> Iterator[str]:
    with listening(served) as url:
        yield url
        # Whatever was sent: the next person is answered.
        good = httpx.post(f"{url}{SEARCH.removeprefix('/')}", json={"query": "x"})
        assert (good.status_code, len(good.json()["hits"])) == (200, 10)


HEADS = {
    "a header of 64 KiB": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-A: "
    + b"a" * (64 << 10)
    + b"\r\n\r\n",
    "ten thousand headers": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    + b"X-A: b\r\n" * 10_000
    + b"\r\n",
    "a target of 64 KiB": b"GET /" + b"a" * (64 << 10) + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-A: a\x00b\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a negative length": b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: -1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\n X-A: b\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_none(running: str, name: str) -> None:
    assert status(said(running, HEADS[name])) in (0, 400, 421, 431)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/page/../service.py", "/page/%2e%2e/service.py", "/page/..%2fservice.py", "/page/%00",
        "//evil.example/", "/v1/collections/%00/search", "/v1/collections/" + "a" * 5_000, "/" + "a/" * 6_000,
        "/v1/collections/handbook/documents/" + "%F0%9F%98%80" * 500, "/v1/collections/handbook/documents/%FF%FE",
        "/v1/collections/handbook/documents/..%2f..%2fkeys.json", f"{SEARCH}?q=x&limit=99999999999999999999",
        f"{SEARCH}?" + "q=x&" * 3_000, f"{SEARCH}?q=%ED%A0%80", "/v1/collections/handbook?name=other",
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(running: str, path: str) -> None:
    answer = said(running, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert status(answer) in (200, 400, 404, 405, 422, 431), answer[:200]
    assert b"root:" not in answer
    assert b"import " not in answer


BODIES = {
    "deep arrays": b"[" * 200_000,
    "deep objects": b'{"a":' * 40_000,
    "a deep filter": json.dumps({"query": "x", "filter": "(" * 4_000}).encode(),
    "many unknown names": json.dumps({"query": "x", **{f"n{number}": 1 for number in range(20_000)}}).encode(),
    "one name again and again": b'{"query":"x"' + b',"query":"x"' * 20_000 + b"}",
    "a number of 200,000 digits": b'{"query":"x","limit":' + b"9" * 200_000 + b"}",
    "a tiny number": b'{"query":"x","min_score":1e-99999999}',
    "many signals": json.dumps({"query": "x", "signals": ["dense"] * 20_000}).encode(),
    "many facets": json.dumps({"query": "x", "facets": ["year"] * 20_000}).encode(),
    "quotes": json.dumps({"query": '"a" ' * 2_000}).encode(),
    "a cursor of noise": json.dumps({"query": "x", "cursor": "A" * 190_000}).encode(),
    "combining marks": json.dumps({"query": "e" + "\u0301" * 8_000}).encode(),
    "a ligature that grows": json.dumps({"query": "\ufdfa" * 8_000}).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_bombs(running: str, name: str) -> None:
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    body = BODIES[name]
    began = time.perf_counter()
    answer = said(running, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert status(answer) in (200, 400, 413, 422), answer[:300]
    assert time.perf_counter() - began < SOON
    if status(answer) != 200:
        assert b"application/problem+json" in answer


def test_a_body_without_an_end_is_not_read_to_its_end(running: str) -> None:
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with closing(connected(running)) as client:
        client.sendall(head)
        sent = 0
        answer = b""
        client.settimeout(0.05)
        while not answer and sent < 100 * MAX_BODY_BYTES:
            try:
                client.sendall(chunk)
                sent += len(chunk)
                answer = client.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert sent < 20 * MAX_BODY_BYTES
    assert status(answer) in (0, 413)


def test_slow_heads_are_hung_up_on_and_others_are_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.3)
    with listening(served) as url, closing(connected(url)) as silent, closing(connected(url)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert httpx.get(f"{url}healthz").status_code == 200
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
        # The same on a connection that had a whole request before.
        with closing(connected(url)) as second:
            second.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert second.recv(1 << 16).startswith(b"HTTP/1.1 200")
            second.sendall(b"GET /healthz HT")
            while second.recv(1 << 16):
                pass


def test_patience_ends_before_a_request_and_not_within_one(
    kit: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.2)
    world = kit.random_world(1, stores=kit.three_stores)
    served = serve(world, router=world.router({"vectors": {"fetch": 0.6}}))
    with listening(served) as url:
        assert httpx.post(f"{url}{SEARCH.removeprefix('/')}", json={"query": "x"}).status_code == 200


def test_a_client_that_goes_away_frees_its_place_and_its_requests(
    kit: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = kit.random_world(1, stores=kit.three_stores)
    router = world.router({"words": {"search lexical": 3600.0}})
    # The service's own search to warm up would be one more that is cancelled, whenever it gets to it.
    monkeypatch.setattr(Router, "warm", AsyncMock(return_value={}))
    words = router.stores.pinned.searchers["words"]
    served = serve(world, router=router)
    body = json.dumps({"query": "x", "timeout_s": 300}).encode()
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with listening(served) as url:
        clients = [connected(url) for _ in range(5)]
        for client in clients:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert eventually(lambda: router.admission.running == 5)
        for client in clients:
            client.close()
        assert eventually(lambda: router.admission.running == 0)
        assert words.cancelled == ["search lexical"] * 5


def test_more_requests_than_are_answered_at_once_are_told_when_to_come_back(kit: Any, serve: Serve) -> None:
    served = serve(kit.random_world(1), max_requests=2, body_seconds=SOON)
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    with listening(served) as url:
        waiting = [connected(url) for _ in range(2)]
        for each in waiting:
            each.sendall(head.encode())

        def refused() -> bool:
            answer = httpx.get(f"{url}v1/collections")
            return answer.status_code == 503 and answer.headers["retry-after"] == "1"

        assert eventually(refused)
        assert httpx.get(f"{url}healthz").status_code == 200
        for each in waiting:
            each.close()
        assert eventually(lambda: httpx.get(f"{url}v1/collections").status_code == 200)

"""Spans of requests: what they tell, and that they hold nobody's question, name or address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from m3core.errors import StoreError
from m3core.types import Identity
from pipelines.query.service.traces import open_provider, traced
from tests.pipelines.query.service.conftest import Serve, Served
from tests.servers.loopback import serving

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRETS = ("secret", "jane", "doc-7", "testclient", "acme", "staff", "m3_")


class Spans:
    """The finished spans of one service."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def last(self) -> tuple[str, dict[str, Any]]:
        span = self.all()[-1]
        return span.name, dict(span.attributes or {})


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


def client_of(served: Served, spans: Spans) -> TestClient:
    return TestClient(traced(served.client.app, spans.provider), raise_server_exceptions=False)


def test_a_search_is_one_span_with_its_stages(served: Served, spans: Spans) -> None:
    client = client_of(served, spans)
    body = {"query": "a secret question", "limit": 3}
    answer = client.post("/v1/collections/handbook/search", json=body, headers={"traceparent": PARENT}).json()
    assert len(answer["hits"]) == 3
    (span,) = spans.all()
    name, told = spans.last()
    assert name == "POST /v1/collections/{name}/search"
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert told["http.route"] == "/v1/collections/{name}/search"
    assert told["http.status_code"] == 200
    assert told["m3.hits"] == 3
    assert told["m3.generation"] == answer["generation"]
    assert told["m3.coverage.dense"] == "ok"
    assert told["m3.degraded"] is False
    assert {f"m3.{stage}_ms" for stage in answer["timings_ms"]} <= told.keys()


def test_a_lost_signal_is_told(kit: Any, serve: Serve, spans: Spans) -> None:
    world = kit.random_world(1, stores=kit.three_stores)
    served = serve(world, router=world.router({"words": {"search lexical": StoreError("secret", "")}}))
    client_of(served, spans).post("/v1/collections/handbook/search", json={"query": "x"})
    _, told = spans.last()
    assert told["m3.coverage.lexical"] == "failed"
    assert told["m3.degraded"] is True


def test_no_span_holds_what_people_sent(served: Served, spans: Spans) -> None:
    client = client_of(served, spans)
    headers = {
        **served.key(identity=Identity("acme", ("staff",)), name="jane"),
        "user-agent": "secret",
        "cookie": "jane",
    }
    for method, path, rest in (
        ("GET", "/v1/collections/handbook/search?q=secret&filter=jane", {}),
        ("POST", "/v1/collections/handbook/search", {"json": {"query": "secret", "filter": "jane = 1"}}),
        ("POST", "/v1/collections/secret/search", {"json": {"query": "secret"}}),
        ("GET", "/v1/collections/handbook/documents/doc-7", {}),
        ("GET", "/v1/collections/handbook/documents/secret", {}),
        ("GET", "/secret/jane?q=secret", {}),
        ("GET", "/v1/collections/handbook/search?q=%FF%FEsecret", {}),
        ("POST", "/v1/encode", {"content": b"{secret"}),
    ):
        client.request(method, path, headers=headers, **rest)
    assert len(spans.all()) == 8
    for span in spans.all():
        for secret in SECRETS:
            assert secret not in span.to_json(), span.name
    assert {span.name for span in spans.all()} == {
        "GET /v1/collections/{name}/search", "POST /v1/collections/{name}/search",
        "GET /v1/collections/{name}/documents/{doc_id:path}", "POST /v1/encode", "(none)",
    }  # fmt: skip


def test_probes_leave_no_span(served: Served, spans: Spans) -> None:
    client = client_of(served, spans)
    assert client.get("/healthz").status_code == 200
    assert spans.all() == ()


def test_spans_reach_a_collector(served: Served) -> None:
    arrived: list[tuple[str, bytes]] = []
    came = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            came.set()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            """Quiet."""

    with serving(Collector) as url:
        provider = open_provider(f"{url}/v1/traces")
        TestClient(traced(served.client.app, provider)).get("/v1/collections")
        provider.shutdown()
        assert came.wait(10)
    ((path, body),) = arrived
    assert path == "/v1/traces"
    assert b"GET /v1/collections" in body
    assert b"threefold" in body

"""The outermost ring around the API: who may knock at all, how large a request is, what every answer carries.

Plain ASGI, so that it also sees what the framework refuses. Logs and metrics know a request by its route's pattern:
paths and query strings hold documents' ids and people's questions.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from m3core.logs import place_of
from pipelines.query.service.metrics import Metrics
from pipelines.query.service.problems import Problem, internal
from pipelines.query.service.settings import ServiceSettings

_access = logging.getLogger("m3.access")
_log = logging.getLogger("m3.serve")
UNMATCHED = "(none)"
# Asked every few seconds by a machine.
PROBES = ("/healthz", "/readyz")
# Nothing from elsewhere, nothing inline, no frame around the page, and no HTML made from a string.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _RefusedError(Exception):
    """The request goes no further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class _GoneError(Exception):
    """The client hung up before its request was complete."""


@dataclass
class _Exchange:
    """One request and what became of it."""

    scope: Scope
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.perf_counter)
    status: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    @property
    def head_bytes(self) -> int:
        """Size of address and headers. The server bounds what it waits for, not what comes at once."""
        address = len(self.scope.get("raw_path") or b"") + len(self.scope.get("query_string") or b"")
        return address + sum(len(name) + len(value) for name, value in self.scope["headers"])


@dataclass(frozen=True)
class Guard:
    """The service as an ASGI application."""

    app: ASGIApp
    settings: ServiceSettings
    metrics: Metrics
    # Requests that are being answered.
    _running: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._exchange(_Exchange(scope), receive, send)

    async def _exchange(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        exchange.scope.setdefault("state", {}).update(request_id=exchange.request_id)
        self.metrics.begin()
        self._running.add(exchange.request_id)
        try:
            await self._answer(exchange, receive, _completed(exchange, send))
        finally:
            self._running.discard(exchange.request_id)
            self._record(exchange)

    async def _answer(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        try:
            self._check(exchange)
            body = await self._body(exchange, receive)
            await self.app(exchange.scope, _replayed(body, receive), send)
        except _RefusedError as refused:
            await _tell(refused.problem, exchange, send)
        except _GoneError:
            return
        except Exception as error:  # noqa: BLE001 - the outermost place: nobody above answers the client
            _log.error("%s in %s, request %s", type(error).__name__, place_of(error), exchange.request_id)
            if not exchange.status:
                await _tell(internal(), exchange, send)

    def _check(self, exchange: _Exchange) -> None:
        headers = exchange.headers
        if exchange.head_bytes > self.settings.max_head_bytes:
            detail = f"address and headers have more than {self.settings.max_head_bytes} bytes"
            raise _RefusedError(Problem(431, "too-large", detail, "send a shorter request"))
        # A probe calls a machine by whatever address it has, and learns nothing that matters.
        probe = exchange.scope["path"] in PROBES
        if not probe and len(self._running) > self.settings.max_requests:
            detail = f"{self.settings.max_requests} requests are being answered, as many as are let in"
            raise _RefusedError(Problem(503, "overloaded", detail, "ask again later", retry_after=1))
        if not probe and _name_of(headers.get("host", "")) not in self.settings.hosts:
            raise _RefusedError(
                Problem(421, "host", "this service does not answer under that name", "m3 serve --allow-host NAME")
            )
        # A browser says where a request comes from; other sites may link to the page, but ask nothing.
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
        linked = mode == "navigate" and exchange.scope["method"] == "GET" and exchange.scope["path"] == "/"
        if site not in ("none", "same-origin") and not linked:
            raise _RefusedError(Problem(403, "cross-site", "requests from other sites are not answered"))

    async def _body(self, exchange: _Exchange, receive: Receive) -> bytes:
        limit = self.settings.max_body_bytes
        declared = exchange.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _RefusedError(_too_large(limit))
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                return await _read(receive, limit)
        except TimeoutError:
            detail = f"the request's body did not arrive within {self.settings.body_seconds:g} s"
            raise _RefusedError(Problem(408, "slow", detail, "send it faster")) from None

    def _record(self, exchange: _Exchange) -> None:
        scope, spent = exchange.scope, time.perf_counter() - exchange.began
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self.metrics.end(route, exchange.status, spent)
        _access.log(
            logging.DEBUG if route in PROBES else logging.INFO,
            "%d %s %s %.0f ms key %s request %s",
            exchange.status, scope["method"] if route != UNMATCHED else "-", route, 1e3 * spent,
            scope["state"].get("key", "-"), exchange.request_id,
        )  # fmt: skip


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _RefusedError(_too_large(limit))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, then what the connection says."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _completed(exchange: _Exchange, send: Send) -> Send:
    """A `send` that notes the status and adds what every answer carries."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            extra = {**_HEADERS, "x-request-id": exchange.request_id}
            message["headers"] = [
                *message.get("headers", []),
                *((name.encode(), value.encode()) for name, value in extra.items()),
            ]
        await send(message)

    return with_headers


async def _tell(problem: Problem, exchange: _Exchange, send: Send) -> None:
    body = problem.encoded(exchange.request_id)
    headers = {**problem.all_headers(), "content-length": str(len(body)), "connection": "close"}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> Problem:
    return Problem(413, "too-large", f"the request's body is larger than {limit} bytes", "send a shorter request")


def _name_of(host: str) -> str:
    """The name in a Host header, without port and brackets, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()

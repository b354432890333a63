"""A proxy in front of a real server that fails on purpose: chosen per request, so that a seed repeats a run.

It can also end TLS and ask for an API key, which the node of the tests itself does not.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tests.servers.loopback import serving

_PRODUCT = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """Answer with `status` and do not forward."""

    status: int
    retry_after: int | None = None
    type: str = "es_rejected_execution_exception"


@dataclass(frozen=True)
class Reset:
    """Reset the connection: before forwarding, after it, or in the middle of the response."""

    when: str  # before | after | middle


@dataclass(frozen=True)
class Freeze:
    """Forward or not, then say nothing for so long, and close."""

    seconds: float
    forward: bool


@dataclass(frozen=True)
class Partly:
    """Forward every second change of a bulk request; the others get `status`: item by item, or the whole request."""

    status: int
    whole: bool


Fault = Answer | Reset | Freeze | Partly
Choose = Callable[[str, str], Fault | None]


def no_fault(method: str, path: str) -> None:
    """Forward everything."""


@dataclass
class FaultProxy:
    """A running proxy. `requests` lists what came in, with the fault that it met; larger ones than `most_bytes` are
    answered with 413, as gateways do."""

    upstream: str
    choose: Choose = no_fault
    api_key: str = ""
    most_bytes: int | None = None
    requests: list[tuple[str, str, Fault | None]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        """Choose, under a lock: requests may come at once."""
        with self.lock:
            chosen = self.choose(method, path)
            self.requests.append((method, path, chosen))
            return chosen


@contextmanager
def fault_proxy(
    upstream: str, choose: Choose = no_fault, *, api_key: str = "", certificate: tuple[str, str] | None = None
) -> Iterator[FaultProxy]:
    """A proxy on a free port of 127.0.0.1. `certificate` is (chain, key) in PEM files: then it speaks TLS."""
    proxy = FaultProxy(upstream, choose, api_key)
    with serving(type("Handler", (_Handler,), {"proxy": proxy}), certificate) as proxy.url:
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ClassVar[FaultProxy]

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.proxy.api_key and self.headers.get("Authorization") != f"ApiKey {self.proxy.api_key}":
            self._error(401, "security_exception")
            return
        if self.proxy.most_bytes is not None and len(body) > self.proxy.most_bytes:
            self._error(413, "too_large")
            return
        self._meet(self.proxy.fault(self.command, urlsplit(self.path).path), body)

    def _meet(self, fault: Fault | None, body: bytes) -> None:
        match fault:
            case None:
                self._send(*self._forward(body))
            case Answer(status, retry_after, kind):
                self._error(status, kind, {} if retry_after is None else {"Retry-After": str(retry_after)})
            case Reset("before"):
                self._reset()
            case Reset(when):
                answer = self._forward(body)
                if when == "middle":
                    self._send(*answer, most=len(answer[2]) // 2)
                self._reset()
            case Freeze(seconds, forward):
                if forward:
                    self._forward(body)
                threading.Event().wait(seconds)
                self.close_connection = True
            case Partly(status, whole):
                self._partly(body, status, whole)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle  # noqa: N815 - the names that the base class calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _partly(self, body: bytes, status: int, whole: bool) -> None:
        changes = list(_changes(body))
        kept = b"".join(text for place, (_, text) in enumerate(changes) if place % 2 == 0)
        answer, headers, content = self._forward(kept)
        if whole:
            self._error(status, "unavailable_shards_exception")
            return
        taken = iter(json.loads(content)["items"])
        error = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
        items: list[Any] = []
        for place, (action, _) in enumerate(changes):
            [(name, facts)] = action.items()
            refused = {name: {"_id": facts["_id"], "status": status, "error": error}}
            items.append(next(taken) if place % 2 == 0 else refused)
        self._send(answer, headers, json.dumps({"errors": True, "items": items}).encode())

    def _forward(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        upstream = urlsplit(self.proxy.upstream)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=120)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")}
        try:
            connection.request(self.command, self.path, body or None, kept | {"Accept-Encoding": "identity"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        passed = ("content-type", "x-elastic-product", "warning")
        headers = {name: value for name, value in response.getheaders() if name.lower() in passed}
        return response.status, headers, content

    def _send(self, status: int, headers: Mapping[str, str], content: bytes, most: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:most])
            self.wfile.flush()

    def _error(self, status: int, kind: str, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps({"error": {"type": kind, "reason": "on purpose"}, "status": status}).encode()
        self._send(status, _PRODUCT | dict(headers or {}), content)

    def _reset(self) -> None:
        """Close with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _changes(body: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The changes of a bulk request: the action, and its lines."""
    lines: Sequence[bytes] = body.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        action = json.loads(lines[at])
        size = 1 if "delete" in action else 2
        yield action, b"".join(lines[at : at + size])
        at += size

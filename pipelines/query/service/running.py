"""Runs a service: socket, address, signals, the time it gets to end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from m3core.errors import UsageError
from m3core.logs import JsonLines, lines_are_json
from pipelines.query.service.settings import LOOPBACK_NAMES, MAX_HEAD_BYTES

if TYPE_CHECKING:
    import uvicorn

# Connections, idle ones too; beyond these the server refuses by itself, without our words. Below the usual 1,024 files.
_CONNECTIONS = 900
_BACKLOG = 128


@dataclass(frozen=True)
class Listening:
    """Where to listen. `port` 0 takes a free one; `grace` is how many seconds running requests get at the end."""

    host: str = "127.0.0.1"
    port: int = 8080
    grace: int = 10

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(listening: Listening, more: Collection[str]) -> frozenset[str]:
    """Names that a Host header may carry: those of loopback, the bound one, and those given."""
    # 0.0.0.0 and :: are no names that anybody asks for.
    bound = () if listening.host in ("0.0.0.0", "::") else (listening.host,)  # noqa: S104 - compared, not bound
    return frozenset(name.lower() for name in (*LOOPBACK_NAMES, *bound, *more))


def bind(listening: Listening) -> socket.socket:
    """The open socket. Raises UsageError if the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections take it over. An answer's head and body are two writes: without it the body waits until the
    # client acknowledges the head, which it puts off for 40 ms. asyncio sets it on sockets that it opened itself only.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        opened.bind((listening.host, listening.port))
    except OSError as error:
        opened.close()
        raise UsageError(
            f"{listening.host} port {listening.port} cannot be listened on: {error.strerror or type(error).__name__}",
            "choose another with --port, or end what listens there",
        ) from None
    opened.listen(_BACKLOG)
    return opened


def address(opened: socket.socket) -> str:
    """What to type into a browser."""
    host, port = opened.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def run(app: ASGIApp, opened: socket.socket, grace: int) -> None:
    """Serve until SIGINT or SIGTERM; then no new connection, and running requests get `grace` seconds.

    The signal is raised again at the end, for the command to exit by it.
    """
    _log_to_stderr()
    server = server_of(app, grace)
    config = server.config
    with opened, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[opened]))


def server_of(app: ASGIApp, grace: int) -> uvicorn.Server:
    """The server of a service, with every limit that it has."""
    import uvicorn

    from pipelines.query.service.patience import PatientProtocol

    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=grace,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return uvicorn.Server(config)


def _log_to_stderr() -> None:
    """Our lines from INFO, the server's from WARNING."""
    lines = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    lines.setFormatter(JsonLines() if lines_are_json() else plain)
    for name, level in (("m3", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [lines]
        logger.setLevel(level)
        logger.propagate = False

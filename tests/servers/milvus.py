"""A Milvus Lite server on loopback: what speaks Milvus's protocol here and comes as a package."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.missing import MissingPartError
from tests.servers.process import ServerProcess, free_ports

_START_SECONDS = 300.0  # alone it takes 2 s; beside a training on two cores, much longer


@dataclass(frozen=True)
class MilvusServer:
    """A server that answers at `url`."""

    url: str
    process: ServerProcess


@contextmanager
def running_milvus(folder: Path) -> Iterator[MilvusServer]:
    """A server with its data in `folder`, stopped at the end. Raises MissingPartError, RuntimeError."""
    server = start_milvus(folder)
    try:
        yield server
    finally:
        server.process.stop()


def start_milvus(folder: Path, port: int | None = None) -> MilvusServer:
    """Start a server with its data in `folder`, which may hold an earlier one's; the caller stops it."""
    if importlib.util.find_spec("milvus_lite") is None:
        raise MissingPartError("milvus-lite is not here; it is the server that comes as a package")
    number = port or free_ports(1)[0]
    # Its default is to listen on every address of the machine.
    place = ["--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(number)]
    process = ServerProcess.start([sys.executable, "-m", "milvus_lite", "server", *place], folder)
    process.wait_until(lambda: _listens(number), _START_SECONDS)
    return MilvusServer(f"http://127.0.0.1:{number}", process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return False
    return True

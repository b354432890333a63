"""The service in this process, over memory stores and a fixed encoder: no socket, no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from m3core.config.model import Config
from m3core.types import Identity
from pipelines.query.router import Router
from pipelines.query.service.app import create_api
from pipelines.query.service.guard import Guard
from pipelines.query.service.keys import KeyFile, KeyWish
from pipelines.query.service.running import Listening, address, bind, server_of
from pipelines.query.service.service import Service
from pipelines.query.service.settings import ServiceSettings
from pipelines.state.collection import CollectionState, swap_collection
from pipelines.state.documents import DocumentRecord
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths


@dataclass(frozen=True)
class Served:
    """A running service, a client for it, and its keys."""

    service: Service
    api: FastAPI
    client: TestClient
    keys: KeyFile

    def key(self, **wish: Any) -> dict[str, str]:
        """Headers of a new key."""
        given = {"name": "test", "identity": Identity("acme", ("staff",)), **wish}
        return {"authorization": f"Bearer {self.keys.create(KeyWish(**given))[0]}"}

    def search(self, query: str = "x", *, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        """One search of the collection."""
        return self.client.post(
            "/v1/collections/handbook/search", json={"query": query, **body}, headers=dict(headers or {})
        )


Serve = Callable[..., Served]


@contextmanager
def listening(served: Served) -> Iterator[str]:
    """The service behind a real socket and the server that people get, in a thread; its address."""
    opened = bind(Listening(port=0))
    server = server_of(served.client.app, grace=5)
    # The test client has started the service already.
    server.config.lifespan = "off"
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])), daemon=True)
    thread.start()
    try:
        yield address(opened)
    finally:
        server.should_exit = True
        thread.join(10)
        opened.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve a world of the query side's conftest; `settings` are ServiceSettings' fields, `config` further tables."""
    clients: list[TestClient] = []

    def start(
        world: Any, *, router: Router | None = None, config: Mapping[str, Any] | None = None, **settings: Any
    ) -> Served:
        root = tmp_path / f"service-{len(clients)}"
        loaded = Config.model_validate(
            {
                "collection": {"name": "handbook"},
                "storage": {"path": str(root)},
                "sources": {"docs": {"kind": "folder", "path": "docs"}},
                "fields": dict(world.generation.fields),
                "stores": {"main": {"kind": "memory"}},
                "search": {"tenant": "acme", "principals": ["staff"]},
                **(config or {}),
            }
        )
        hosts = ServiceSettings().hosts | {"testserver"}
        chosen = ServiceSettings(**{"hosts": hosts, **settings})
        service = Service.open(loaded, root, chosen, router or world.router())
        state = CollectionState(1, "handbook", world.generation.number, 1, (world.generation,))
        write_manifest(service.paths, world)
        swap_collection(service.paths, None, state)
        api = create_api(service)
        client = TestClient(Guard(api, chosen, service.metrics), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return Served(service, api, client, KeyFile.of(root, "handbook"))

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def served(kit: Any, serve: Serve) -> Served:
    """Sixty random rows of the tenant acme, visible to staff."""
    return serve(kit.random_world(1))


def write_manifest(paths: StatePaths, world: Any) -> None:
    """The manifest that an ingest of the world's rows would have left."""
    chunks: dict[tuple[str, str], list[str]] = {}
    for row in world.rows:
        chunks.setdefault((row.chunk.tenant, row.chunk.doc_id), []).append(row.chunk.id)
    records = [
        DocumentRecord(tenant, doc_id, "docs", "c", "m", "a", "", tuple(ids), 1, {"main": "ok"})
        for (tenant, doc_id), ids in chunks.items()
    ]
    Manifest(paths, world.generation.number).append(1, 0, records)


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """An async client of the same application."""
    transport = httpx.ASGITransport(app=served.client.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client

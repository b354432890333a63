"""A store on the session's Milvus server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.store import Store
from tests.servers.running import Servers


@pytest.fixture(scope="session")
def server(servers: Servers) -> str:
    """Its url."""
    return servers.need("milvus")


@pytest.fixture
def store(server: str, tmp_path: Path) -> Iterator[Store]:
    """Collections under a prefix of their own."""
    opened = Store.of("milvus", tmp_path / "vectors")
    yield opened
    opened.close()

"""A store on the session's real Elasticsearch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.store import Store
from tests.servers.running import Servers


@pytest.fixture(scope="session")
def server(servers: Servers) -> str:
    """Its url."""
    return servers.need("elasticsearch")


@pytest.fixture
def store(server: str, tmp_path: Path) -> Iterator[Store]:
    """Indices under a prefix of their own."""
    opened = Store.of("elasticsearch", tmp_path / "text")
    yield opened
    opened.close()

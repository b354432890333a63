"""An embedded store of the conformance suite's collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.store import Store, quick_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with quick_store("qdrant-edge", tmp_path) as opened:
        yield opened

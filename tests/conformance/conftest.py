"""Every kind of store in the registry, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.registry import kinds
from tests.conformance.store import Store, quick_folder


@pytest.fixture(scope="session", params=kinds())
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, on a disk in memory where there is one: every publish waits for the disk a few hundred times."""
    with quick_folder(tmp_path) as quick:
        yield quick


@pytest.fixture
def store(kind: str, folder: Path) -> Iterator[Store]:
    opened = Store(kind, folder / "stores" / "main" / "docs")
    yield opened
    opened.close()

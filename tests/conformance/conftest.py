"""Every kind of store in the registry, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.registry import kinds, needs_server, signals_of
from m3core.errors import StoreError
from tests.conformance.store import Store, quick_folder
from tests.servers.running import STAND_INS, Servers, kind_of


def _params() -> list[object]:
    """Every kind and stand-in; the tests of one that needs a server go to one worker, so that it runs once."""
    group = pytest.mark.xdist_group
    return [
        pytest.param(name, marks=group(name)) if needs_server(kind_of(name)) else name
        for name in sorted({*kinds(), *STAND_INS})
    ]


@pytest.fixture(scope="session", params=_params())
def kind(request: pytest.FixtureRequest, servers: Servers) -> str:
    """The kind's name, its server running if it needs one."""
    name: str = request.param
    servers.need(name)
    return name


@pytest.fixture(autouse=True)
def _declared_gap(request: pytest.FixtureRequest) -> None:
    """A kind that declares no such signal refuses it; if it ever answers, the declaration is wrong."""
    params = getattr(request.node, "callspec", None)
    name, signal = (params.params.get(key) if params else None for key in ("kind", "signal"))
    if name and signal and signal not in signals_of(kind_of(name)):
        reason = f"{name} declares no {signal} vectors"
        request.node.add_marker(pytest.mark.xfail(reason=reason, raises=StoreError, strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, on a disk in memory where there is one: every publish waits for the disk a few hundred times."""
    with quick_folder(tmp_path) as quick:
        yield quick


@pytest.fixture
def store(kind: str, folder: Path) -> Iterator[Store]:
    opened = Store.of(kind, folder / "stores" / "main" / "docs")
    yield opened
    opened.close()

"""What a source holds, what may be searchable of it, and what the stores show to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectors.filters.identity import identity_filter
from connectors.filters.tree import Everything, Filter
from connectors.protocol import Payload, Searcher
from connectors.registry import open_searcher
from m3core.types import Identity
from pipelines.state.documents import DocumentKey
from tests.pipelines.ingest.projects import Project

TENANTS = ("north", "south")
PRINCIPALS = ("staff", "guests")
TEXT_STORE = "main"
_SECONDS = 60.0


@dataclass(frozen=True)
class Version:
    """One state of a document, as far as a search can tell. `year` None: its metadata cannot be ingested."""

    text: str
    year: int | None
    acl: tuple[str, ...]

    @property
    def poisoned(self) -> bool:
        """Whether a run must refuse it."""
        return self.year is None

    def line(self, key: DocumentKey) -> dict[str, Any]:
        """The line of the source."""
        tenant, doc_id = key
        year = "no year" if self.year is None else self.year
        return {"tenant": tenant, "doc_id": doc_id, "text": self.text, "year": year, "acl": list(self.acl)}


Shown = Mapping[DocumentKey, Version]


def shown(project: Project) -> Shown:
    """What the text store holds, by document; every chunk of one must tell the same of it."""
    chunks: dict[DocumentKey, list[Payload]] = {}
    for payload in _payloads(project, Everything()).values():
        chunks.setdefault((payload.tenant, payload.doc_id), []).append(payload)
    return {key: _version(parts) for key, parts in chunks.items()}


def check_identities(project: Project, expected: Shown) -> None:
    """Everybody finds in every store the documents that `expected` allows, and no other."""
    for tenant in TENANTS:
        for principal in PRINCIPALS:
            allowed = identity_filter(Identity(tenant, (principal,)))
            found = _payloads(project, allowed)
            wanted = {key for key, each in expected.items() if key[0] == tenant and principal in each.acl}
            assert {(payload.tenant, payload.doc_id) for payload in found.values()} == wanted
            for store in project.config.stores:
                assert _count(project, store, allowed) == len(found), store


def _version(parts: list[Payload]) -> Version:
    ordered = sorted(parts, key=lambda payload: payload.ordinal)
    ((year, acl),) = {(payload.metadata["year"], payload.acl) for payload in ordered}
    assert isinstance(year, int)
    return Version("\n\n".join(payload.text for payload in ordered), year, tuple(acl))


def _payloads(project: Project, where: Filter) -> dict[str, Payload]:
    async def fetch(searcher: Searcher) -> dict[str, Payload]:
        return await searcher.fetch(sorted(project.rows(TEXT_STORE)), where, _SECONDS)

    return asyncio.run(fetch(_searcher(project, TEXT_STORE)))


def _count(project: Project, store: str, where: Filter) -> int:
    return asyncio.run(_searcher(project, store).count(where, _SECONDS))


def _searcher(project: Project, store: str) -> Searcher:
    with project.sink(store) as sink:
        options = sink._options  # type: ignore[attr-defined]
    return open_searcher(project.config.stores[store].kind, options)

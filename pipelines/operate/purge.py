"""`m3 purge`: documents, or whole tenants, taken out of everything, and kept out.

The tombstone is written first, so that from then on no run begins before the erasure is done, whatever happens
(`pipelines/state/tombstones.py`, `pipelines/state/erase/`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from connectors.filters.tree import And, Equals, Filter
from m3core.errors import ExitCode, UsageError
from pipelines.operate.collection import Collection, Place, find
from pipelines.operate.stores import SECONDS, stores_of
from pipelines.state.documents import DocumentKey
from pipelines.state.erase.apply import Receipt, apply_tombstones, preview
from pipelines.state.erase.lake import DroppedRows
from pipelines.state.erase.target import Target
from pipelines.state.erase.victims import Found, Match
from pipelines.state.lease import acquire_lease
from pipelines.state.tombstones import LIFT, PURGE, Tombstones, add_event, read_tombstones, require_applied

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Named:
    """What the caller named: documents of one tenant, or all of them (no `doc_ids`)."""

    tenant: str
    doc_ids: tuple[str, ...] = ()

    @property
    def documents(self) -> list[DocumentKey]:
        """(tenant, doc_id) of each."""
        return [(self.tenant, doc_id) for doc_id in dict.fromkeys(self.doc_ids)]

    @property
    def tenants(self) -> list[str]:
        """The tenant, if all of it is meant."""
        return [] if self.doc_ids else [self.tenant]

    def where(self) -> list[Filter]:
        """Which rows of a store they are, one filter for each."""
        if not self.doc_ids:
            return [Equals("tenant", self.tenant)]
        return [And((Equals("tenant", self.tenant), Equals("doc_id", doc_id))) for doc_id in self.doc_ids]


@dataclass(frozen=True)
class Purged:
    """What came of it. `left`: rows that a store still has of what was named, though no chunk file and no manifest
    knows them (the store was changed behind our back, or restored by itself)."""

    receipt: Receipt
    standing: int
    left: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """8 if a store has rows that are nobody's, 4 while a reader holds an old copy."""
        return ExitCode.DRIFT if any(self.left.values()) else self.receipt.exit_code

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 purge --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.receipt.as_json(),
            "tombstones": self.standing,
            "rows_left": self.left,
            "exit_code": int(self.exit_code),
        }


@dataclass(frozen=True)
class Preview:
    """What a purge would erase."""

    found: tuple[Found, ...]
    lake: DroppedRows

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 purge --dry-run --json` prints."""
        counts = {
            "documents": sum(one.documents for one in self.found),
            "chunks": sum(one.chunks for one in self.found),
            "lake_rows": self.lake.rows,
        }
        return {"schema_version": SCHEMA_VERSION, "dry_run": True, **counts}


def purge(place: Place, named: Named) -> Purged:
    """Erase what is named and leave a tombstone. LockedError while a run is at work; StoreError if a store is down: the
    tombstone stands all the same, and the purge is carried out by the next one, or before the next run."""
    with acquire_lease(place.paths) as lease:
        add_event(place.paths, PURGE, documents=named.documents, tenants=named.tenants)
        receipt = apply_tombstones(_target(place), lease)
    return Purged(receipt, len(read_tombstones(place.paths).standing), _rows_left(place, named))


def purge_again(place: Place) -> Purged:
    """Erase once more whatever stands under a tombstone: after a restore, or a purge that was interrupted."""
    with acquire_lease(place.paths) as lease:
        receipt = apply_tombstones(_target(place), lease)
    return Purged(receipt, len(read_tombstones(place.paths).standing))


def look(place: Place, named: Named) -> Preview:
    """What a purge would erase; a store's rows are not counted."""
    found, lake = preview(_target(place), _match(place, named))
    return Preview(tuple(found), lake)


def lift(place: Place, named: Named, *, dry_run: bool = False) -> int:
    """Let the next ingest take what is named again; how many tombstones were lifted.

    UsageError if there is no tombstone of one, or the whole tenant is under one. RefusedError while a purge waits.
    """
    standing = read_tombstones(place.paths)
    _check_liftable(standing, named)
    if not dry_run:
        with acquire_lease(place.paths):
            require_applied(place.paths)  # half an erasure is to be finished, not forgotten
            add_event(place.paths, LIFT, documents=named.documents, tenants=named.tenants)
    return len(named.documents) or 1


def _target(place: Place) -> Target:
    return Target(place.config, place.base, place.storage)


def _match(place: Place, named: Named) -> Match:
    """As if the tombstones were there."""
    known = read_tombstones(place.paths)
    key = known.key or secrets.token_bytes(32)
    would = Tombstones(key)
    hashes = {would.document(*document) for document in named.documents} | {would.tenant(one) for one in named.tenants}

    def match(tenant: str, doc_id: str) -> str | None:
        return next((one for one in (would.tenant(tenant), would.document(tenant, doc_id)) if one in hashes), None)

    return match


def _check_liftable(tombstones: Tombstones, named: Named) -> None:
    if named.tenants:
        missing = [one for one in named.tenants if tombstones.tenant(one) not in tombstones.standing]
        if missing:
            raise UsageError("the tenant as a whole is under no tombstone", "name the documents: --doc ID")
        return
    if tombstones.tenant(named.tenant) in tombstones.standing:
        raise UsageError("the whole tenant is under a tombstone", "lift that first: --all")
    for number, key in enumerate(named.documents, start=1):
        if tombstones.document(*key) not in tombstones.standing:
            raise UsageError(f"document {number} of those named is under no tombstone", "check tenant and id")


def _rows_left(place: Place, named: Named) -> dict[str, int]:
    """Rows that a store's own search still counts."""
    collection = find(place)
    left: dict[str, int] = {}
    for generation in collection.state.generations if collection is not None else ():
        if collection is None or generation.status == "dropped":
            continue
        for store in stores_of(Collection(place, collection.state, generation)):
            if not store.published:
                continue
            found = sum(
                store.ask(lambda searcher, where=where: searcher.count(where, SECONDS))  # type: ignore[misc]
                for where in named.where()
            )
            left[store.name] = left.get(store.name, 0) + found
    return left

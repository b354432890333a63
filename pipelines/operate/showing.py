"""Where a stored chunk came from: document, run, model, lake file, and what every store holds of it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from connectors.filters.tree import Everything
from connectors.protocol import Payload
from m3core.errors import M3Error, UsageError
from pipelines.operate.collection import Collection, Place, steady
from pipelines.operate.stores import SECONDS, Store, stores_of
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.documents import DocumentRecord
from pipelines.state.lake import Lake, LakeRef

SCHEMA_VERSION = 1
_FETCHED = 500


@dataclass(frozen=True)
class Held:
    """What one store holds of one chunk. `revision` is None if the row is absent; `acl_equal` is None where the store
    does not give the acl back (only the one that keeps the text does), or has no row."""

    revision: int | None
    acl_equal: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """In the order of the fields."""
        return {"present": self.revision is not None, "revision": self.revision, "acl_equal": self.acl_equal}


@dataclass(frozen=True)
class ShownChunk:
    """One chunk. `row` is None if no chunk file has it; `place` is None if the lake has no vectors for it."""

    id: str
    row: ChunkRow | None
    place: LakeRef | None
    stores: Mapping[str, Held]

    def as_json(self) -> dict[str, Any]:
        """Place, metadata and acl, without the text."""
        found: dict[str, Any] = {"id": self.id}
        if self.row is not None:
            chunk = self.row.chunk
            found |= {
                "ordinal": chunk.ordinal,
                "span": list(chunk.span),
                "tokens": chunk.token_count,
                "title": chunk.title,
                "language": chunk.language,
                "metadata": {k: list(v) if isinstance(v, tuple) else v for k, v in chunk.metadata.items()},
                "acl": list(chunk.acl),
                "run": self.row.run,
                "lake_key": self.row.lake_key,
            }
        lake = None if self.place is None else {"file": self.place.file, "row": self.place.row}
        return {**found, "lake": lake, "stores": {name: held.as_json() for name, held in self.stores.items()}}


@dataclass(frozen=True)
class Shown:
    """A document of the manifest, or rows that no document has (`record` is None), and some of its chunks.

    `unreachable`: why a store could not be asked.
    """

    generation: int
    model: str
    record: DocumentRecord | None
    chunks: tuple[ShownChunk, ...]
    unreachable: Mapping[str, M3Error]

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 show --json` prints."""
        record = self.record
        document = None if record is None else {
            "tenant": record.tenant,
            "doc_id": record.doc_id,
            "source": record.source,
            "run": record.revision,
            "chunks": len(record.chunk_ids),
            "status": dict(record.status),
        }  # fmt: skip
        return {
            "schema_version": SCHEMA_VERSION,
            "generation": self.generation,
            "model": self.model,
            "document": document,
            "chunks": [chunk.as_json() for chunk in self.chunks],
            "unreachable": {name: error.message for name, error in self.unreachable.items()},
        }


def show(place: Place, name: str) -> Shown:
    """`name` is a chunk id, TENANT/DOC_ID, or a DOC_ID of the tenant that searches are for. UsageError if there is no
    such thing."""
    collection = Collection.open(place)
    files = ChunkFiles(collection.paths, collection.generation.number)
    if not _is_chunk_id(name):
        record = _document(collection, name)
        revisions = dict.fromkeys(record.chunk_ids, record.revision)
        rows = {row.chunk.id: row for row in files.read(revisions, revisions)}
        return _shown(collection, record, record.chunk_ids, rows)
    newest = next(iter(files.read([name])), None)
    rows = {} if newest is None else {name: newest}
    record_of = None
    if newest is not None:
        key = newest.chunk.tenant, newest.chunk.doc_id
        record_of = steady(lambda: collection.manifest.find([key])).get(key)
        if record_of is not None and name in record_of.chunk_ids:
            rows = {row.chunk.id: row for row in files.read([name], {name: record_of.revision})}
    shown = _shown(collection, record_of, [name], rows)
    held = any(held.revision is not None for held in shown.chunks[0].stores.values())
    if newest is None and not held and not shown.unreachable:
        raise _unknown(name)
    return shown


def _is_chunk_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _document(collection: Collection, name: str) -> DocumentRecord:
    tenant, _, rest = name.partition("/")
    keys = [(tenant, rest), (collection.place.config.search.tenant, name)]
    found = steady(lambda: collection.manifest.find(keys))
    record = next((found[key] for key in keys if key in found), None)
    if record is None:
        raise _unknown(name)
    return record


def _unknown(name: str) -> UsageError:
    return UsageError(f"{name[:80]!r} is no chunk and no document here", "give a chunk's id, or TENANT/DOC_ID")


def _shown(
    collection: Collection, record: DocumentRecord | None, ids: Sequence[str], rows: Mapping[str, ChunkRow]
) -> Shown:
    lake = Lake(collection.paths, collection.generation.encoder_fingerprint, read_only=True)
    places = lake.find({row.lake_key for row in rows.values()})
    held: dict[str, Mapping[str, Held]] = {}
    unreachable: dict[str, M3Error] = {}
    for store in stores_of(collection):
        try:
            held[store.name] = _held(store, ids, rows)
        except M3Error as error:
            unreachable[store.name] = error
    chunks = tuple(
        ShownChunk(
            chunk_id,
            rows.get(chunk_id),
            places.get(rows[chunk_id].lake_key) if chunk_id in rows else None,
            {name: views[chunk_id] for name, views in held.items()},
        )
        for chunk_id in ids
    )
    return Shown(collection.generation.number, collection.generation.model, record, chunks, unreachable)


def _held(store: Store, ids: Sequence[str], rows: Mapping[str, ChunkRow]) -> dict[str, Held]:
    """What the store holds of the ids; the protocol's scan is the only place that tells a revision."""
    revisions: dict[str, int] = {}
    last = max(ids, default="")
    if store.published and ids:
        wanted = set(ids)
        with store.sink() as sink:
            for chunk_id, revision in sink.scan():
                if chunk_id > last:
                    break
                if chunk_id in wanted:
                    revisions[chunk_id] = revision
    present = [chunk_id for chunk_id in ids if chunk_id in revisions and chunk_id in rows]
    payloads = _payloads(store, present) if store.binding.text else {}
    equal = {name: payload.acl == rows[name].chunk.acl for name, payload in payloads.items()}
    return {chunk_id: Held(revisions.get(chunk_id), equal.get(chunk_id)) for chunk_id in ids}


def _payloads(store: Store, ids: Sequence[str]) -> dict[str, Payload]:
    found: dict[str, Payload] = {}
    for start in range(0, len(ids), _FETCHED):
        part = ids[start : start + _FETCHED]
        found |= store.ask(lambda searcher, part=part: searcher.fetch(part, Everything(), SECONDS))  # type: ignore[misc]
    return found

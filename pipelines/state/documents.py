"""Rows of the manifest: one per document and wave that changed it.

Parquet, kind `threefold.documents`, format 1 (`tables.py`), ascending by (shard, tenant, doc_id), text by its UTF-8
bytes; which files there are is `manifestfiles.py`'s:

    shard                uint16   first 8 bytes, big-endian, of sha256 of the JSON array [tenant, doc_id] (ASCII, no
                                  white space), modulo the number of shards
    tenant, doc_id       string   the document
    source               string   name of the source it came from
    content_hash, metadata_hash, acl_hash   string
    stamp                string   what the source's listing said (size, mtime or etag), to skip reading it
    chunk_ids            list of string    its chunks, in their order
    revision             int64    the run that wrote its rows; chunk rows are found by it (`chunks.py`)
    status               map of string to string   per store `done` (it has exactly these rows), `pending`, or `refused`
                                  (it has none of them, and will not take one: a dead letter says which)
    obsolete_chunk_ids   list of string    chunks it no longer has, which pending stores may still hold
    removed              bool     the document is gone; such a row stays while a store has still to delete its chunks
    run, wave            int32    the wave that wrote this row
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pipelines.state.files import canonical_json
from pipelines.state.manifestfiles import Wave
from pipelines.state.tables import TableKind

if TYPE_CHECKING:
    import pyarrow as pa

# A store will not take a row of the document, however often it is asked; it has none of them.
REFUSED = "refused"
# No source gives this stamp. A record has it that mixes two versions of its document (the rights of one, the text of
# another): if the source goes back to the one that had the old stamp, the next run must not take it for unchanged.
# (Without any stamp is what has to be read again because something of it is lost.)
MIXED = "mixed"
DocumentKey = tuple[str, str]
DOCUMENTS = TableKind("threefold.documents", 1)
COLUMNS = (
    "shard", "tenant", "doc_id", "source", "content_hash", "metadata_hash", "acl_hash", "stamp", "chunk_ids",
    "revision", "status", "obsolete_chunk_ids", "removed", "run", "wave",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """What is known of one document. `status` says per store "done" or "pending"."""

    tenant: str
    doc_id: str
    source: str
    content_hash: str
    metadata_hash: str
    acl_hash: str
    stamp: str
    chunk_ids: tuple[str, ...]
    revision: int
    status: Mapping[str, str] = field(default_factory=dict)
    obsolete_chunk_ids: tuple[str, ...] = ()
    removed: bool = False

    @property
    def key(self) -> DocumentKey:
        """(tenant, doc_id)."""
        return self.tenant, self.doc_id

    def waiting(self, lost: Collection[str] = ()) -> tuple[str, ...]:
        """Stores that lack some of its rows, or may hold chunks that it no longer has. `lost`: stores that are empty
        now, whatever the record says."""
        pending = {name for name, state in self.status.items() if state == "pending"}
        if self.obsolete_chunk_ids and not pending:
            return tuple(sorted(self.status))  # a repair wrote its rows; nobody deleted yet
        return tuple(sorted(pending | self.status.keys() & set(lost)))


def shard_of(key: DocumentKey, shards: int) -> int:
    """Shard of a document."""
    return int.from_bytes(hashlib.sha256(canonical_json(key)).digest()[:8], "big") % shards


def leaving(record: DocumentRecord) -> DocumentRecord:
    """The row of a document that is gone, while every store has still to delete its chunks."""
    return replace(record, status=dict.fromkeys(record.status, "pending"), removed=True)


def tombstone(key: DocumentKey, run: int) -> DocumentRecord:
    """The row of a document that is gone from every store."""
    return DocumentRecord(*key, "", "", "", "", "", (), run, removed=True)


def documents_table(rows: Sequence[DocumentRecord], shards: int, wave: Wave) -> pa.Table:
    """Rows of one wave as they are written, in their order."""
    import pyarrow as pa

    values: list[dict[str, Any]] = [
        {
            "shard": shard_of(row.key, shards),
            "tenant": row.tenant,
            "doc_id": row.doc_id,
            "source": row.source,
            "content_hash": row.content_hash,
            "metadata_hash": row.metadata_hash,
            "acl_hash": row.acl_hash,
            "stamp": row.stamp,
            "chunk_ids": list(row.chunk_ids),
            "revision": row.revision,
            "status": sorted(row.status.items()),
            "obsolete_chunk_ids": list(row.obsolete_chunk_ids),
            "removed": row.removed,
            "run": wave[0],
            "wave": wave[1],
        }
        for row in rows
    ]
    values.sort(key=itemgetter("shard", "tenant", "doc_id"))  # by code points, which is by UTF-8 bytes
    return pa.Table.from_pylist(values, schema=documents_schema())


def read_documents(rows: Sequence[dict[str, Any]]) -> Iterator[DocumentRecord]:
    """Records from rows as Arrow gives them."""
    for row in rows:
        for name in ("shard", "run", "wave"):
            del row[name]
        row["chunk_ids"] = tuple(row["chunk_ids"])
        row["obsolete_chunk_ids"] = tuple(row["obsolete_chunk_ids"])
        row["status"] = dict(row["status"])
        yield DocumentRecord(**row)


def newest(rows: pa.Table) -> pa.Table:
    """Of every document the newest row by (run, wave), in the order of the files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    key = ("shard", "tenant", "doc_id")
    order = [*((name, "ascending") for name in key), ("run", "descending"), ("wave", "descending")]
    rows = rows.take(pc.sort_indices(rows, order)).combine_chunks()
    if rows.num_rows < 2:
        return rows
    other = [pc.not_equal(rows.column(name)[1:], rows.column(name)[:-1]).combine_chunks() for name in key]
    first = pa.concat_arrays([pa.array([True]), pc.or_(pc.or_(other[0], other[1]), other[2])])
    return rows.filter(first)


def kept_rows(rows: pa.Table) -> pa.Table:
    """Rows that survive a compaction: documents that are there, and gone ones that a store has still to delete."""
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = rows.filter(rows.column("removed"))
    if not gone.num_rows:
        return rows
    pending = ["pending" in dict(status).values() for status in gone.column("status").to_pylist()]
    kept = pa.concat_tables(
        [rows.filter(pc.invert(rows.column("removed"))), gone.filter(pa.array(pending, pa.bool_()))]
    )
    return newest(kept)


def pending_by_store(rows: pa.Table) -> dict[str, int]:
    """How many rows each store has still to take or to delete."""
    import pyarrow as pa

    status = rows.column("status").combine_chunks()
    table = pa.table({"store": status.keys, "status": status.items})
    counts = table.group_by(["store", "status"]).aggregate([([], "count_all")]).to_pylist()
    return {row["store"]: row["count_all"] for row in counts if row["status"] == "pending"}


def refused_by_store(rows: pa.Table) -> dict[str, int]:
    """How many chunks belong to documents that each store refused."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    status = rows.column("status").combine_chunks()
    chunks = pc.list_value_length(rows.column("chunk_ids").combine_chunks()).to_numpy(zero_copy_only=False)
    per_store = np.repeat(chunks, np.diff(status.offsets.to_numpy()))
    table = pa.table({"store": status.keys, "status": status.items, "chunks": per_store})
    counts = table.filter(pc.field("status") == REFUSED).group_by("store").aggregate([("chunks", "sum")]).to_pylist()
    return {row["store"]: row["chunks_sum"] for row in counts}


def documents_schema() -> pa.Schema:
    """The columns."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    types = {
        "shard": pa.uint16(), "tenant": text, "doc_id": text, "source": text, "content_hash": text,
        "metadata_hash": text, "acl_hash": text, "stamp": text, "chunk_ids": texts, "revision": pa.int64(),
        "status": pa.map_(text, text), "obsolete_chunk_ids": texts, "removed": pa.bool_(), "run": pa.int32(),
        "wave": pa.int32(),
    }  # fmt: skip
    return pa.schema(list(types.items()))

"""From items of a source, or records of the manifest, to chunk rows: the part of embedding before the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from m3core.errors import DocumentError
from m3core.types import Chunk, Document
from pipelines.ingest.chunking import Chunker
from pipelines.ingest.ids import acl_hash, content_hash, metadata_hash, text_hash
from pipelines.ingest.listing import document_letter
from pipelines.ingest.sources import Source, SourceItem
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.lake import lake_key
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest
from pipelines.state.runs import DeadLetter

# `pending`: as it was, but a store lacks its rows. `kept`: the old version of a document whose new one failed.
Change = Literal["new", "changed", "unchanged", "pending", "kept"]


@dataclass(frozen=True)
class ItemGroup:
    """Items to read: about a megabyte of text."""

    items: tuple[SourceItem, ...]


@dataclass(frozen=True)
class RecordGroup:
    """Documents whose rows are in the state folder and wait for a store."""

    records: tuple[DocumentRecord, ...]


Group = ItemGroup | RecordGroup


@dataclass(frozen=True)
class Prepared:
    """A document whose chunks are on their way; `record` is what the manifest says once they are acknowledged."""

    record: DocumentRecord
    change: Change


@dataclass
class Chunked:
    """What became of one group."""

    documents: list[Prepared] = field(default_factory=list)
    rows: list[ChunkRow] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """A document that was read."""

    item: SourceItem
    document: Document

    @property
    def key(self) -> DocumentKey:
        return self.document.tenant, self.document.doc_id

    @cached_property
    def hashes(self) -> tuple[str, str, str]:
        """Content, metadata, acl."""
        return content_hash(self.document), metadata_hash(self.document.metadata), acl_hash(self.document.acl)

    def same_as(self, old: DocumentRecord) -> bool:
        return self.hashes == (old.content_hash, old.metadata_hash, old.acl_hash)


@dataclass(frozen=True)
class ReadStep:
    """What reading needs. `initial_status`: store name -> status of a document whose rows were acknowledged.

    `lost` says that a store has lost its rows: then a record's status proves nothing.
    """

    collection: str
    fingerprint: str
    run: int
    sources: Mapping[str, Source]
    chunker: Chunker
    manifest: Manifest
    chunk_files: ChunkFiles
    initial_status: Mapping[str, str]
    lost: bool = False

    def finished(self, record: DocumentRecord) -> bool:
        """Whether every store has the rows of this record, and no others of its document."""
        return not (self.lost or record.obsolete_chunk_ids or "pending" in record.status.values())


def prepare(group: Group, wave: int, step: ReadStep) -> Chunked:
    """Documents and chunk rows of a group; the rows are in a chunk file of the wave before they are returned.

    The file is named by its rows, so that a repeated group replaces it by the same.
    """
    chunked = chunks_of(group, step)
    if chunked.rows:
        names = "".join(row.chunk.id for row in chunked.rows)
        step.chunk_files.write(step.run, wave, text_hash(names)[:32], chunked.rows)
    return chunked


def chunks_of(group: Group, step: ReadStep) -> Chunked:
    """Documents and chunk rows of a group; nothing is written."""
    return _read(group, step) if isinstance(group, ItemGroup) else _restore(group.records, step)


def _read(group: ItemGroup, step: ReadStep) -> Chunked:
    chunked = Chunked()
    failed: list[DocumentKey] = []
    read: list[_Found] = []
    for item in group.items:
        source = step.sources[item.source]
        try:
            read.append(_Found(item, source.read(item)))
        except DocumentError as error:
            key = source.identify(item)
            chunked.letters.append(document_letter("read", item, key or ("", ""), error))
            failed += [key] if key else []
    known = step.manifest.find({found.key for found in read}) if read else {}
    changed = [found for found in read if not _note_unchanged(found, known.get(found.key), chunked, step)]
    for found, chunks in _chunk(changed, step):
        if isinstance(chunks, DocumentError):
            chunked.letters.append(document_letter("chunk", found.item, found.key, chunks))
            failed.append(found.key)
        else:
            _add(found, chunks, known.get(found.key), chunked, step)
    _keep_old_versions(failed, chunked, step)
    return chunked


def _chunk(found: list[_Found], step: ReadStep) -> list[tuple[_Found, list[Chunk] | DocumentError]]:
    """Chunks of each document, or why it has none; one call for all of them while none fails."""
    try:
        chunks = step.chunker.chunks_many([each.document for each in found], step.collection)
    except DocumentError as error:
        if len(found) == 1:
            return [(found[0], error)]
        return [pair for each in found for pair in _chunk([each], step)]
    return list(zip(found, chunks, strict=True))


def _note_unchanged(found: _Found, old: DocumentRecord | None, chunked: Chunked, step: ReadStep) -> bool:
    """Whether only the stamp differs, or less; then the record gets the new stamp and keeps its revision."""
    if old is None or not found.same_as(old) or not step.finished(old):
        return False
    record = replace(old, stamp=found.item.stamp, source=found.item.source)
    chunked.documents.append(Prepared(record, "unchanged"))
    return True


def _add(found: _Found, chunks: list[Chunk], old: DocumentRecord | None, chunked: Chunked, step: ReadStep) -> None:
    ids = tuple(chunk.id for chunk in chunks)
    content, metadata, acl = found.hashes
    record = DocumentRecord(
        tenant=found.key[0],
        doc_id=found.key[1],
        source=found.item.source,
        content_hash=content,
        metadata_hash=metadata,
        acl_hash=acl,
        stamp=found.item.stamp,
        chunk_ids=ids,
        revision=step.run,
        status=dict(step.initial_status),
        obsolete_chunk_ids=obsolete(old, ids),
    )
    change: Change = "new" if old is None else "pending" if found.same_as(old) else "changed"
    chunked.documents.append(Prepared(record, change))
    for chunk in chunks:
        key = lake_key(chunk.tenant, step.fingerprint, chunk.encoded_text)
        chunked.rows.append(ChunkRow(chunk, key, step.run))


def obsolete(old: DocumentRecord | None, ids: Collection[str]) -> tuple[str, ...]:
    """Chunk ids that stores may still hold for this document and that it no longer has.

    Those of the last version and those that a killed run had not deleted yet: a snapshot that was never published
    took its deletes with it.
    """
    if old is None:
        return ()
    return tuple(sorted({*old.chunk_ids, *old.obsolete_chunk_ids}.difference(ids)))


def _restore(records: Iterable[DocumentRecord], step: ReadStep) -> Chunked:
    """Rows of documents that are as they were, from the chunk files; this run becomes their revision."""
    chunked = Chunked()
    records = tuple(records)
    revisions = {chunk_id: record.revision for record in records for chunk_id in record.chunk_ids}
    rows = {row.chunk.id: row for row in step.chunk_files.read(revisions, revisions)}
    for record in records:
        if not all(chunk_id in rows for chunk_id in record.chunk_ids):
            chunked.letters.append(_lost_letter(record))
            continue
        renewed = replace(record, revision=step.run, status=dict(step.initial_status))
        chunked.documents.append(Prepared(renewed, "pending"))
        chunked.rows += [replace(rows[chunk_id], run=step.run) for chunk_id in record.chunk_ids]
    return chunked


def _lost_letter(record: DocumentRecord) -> DeadLetter:
    message = "its chunks are not in the state folder. Remedy: change or touch the document, then run m3 ingest again"
    return DeadLetter("restore", record.tenant, record.doc_id, record.source, "state", message)


def _keep_old_versions(keys: Collection[DocumentKey], chunked: Chunked, step: ReadStep) -> None:
    """A document whose new version failed keeps its old one: if that still waits for a store, it goes on its way."""
    waiting = [record for record in step.manifest.find(keys).values() if not step.finished(record)] if keys else []
    if waiting:
        old = _restore(waiting, step)
        chunked.rows += old.rows
        chunked.documents += [replace(prepared, change="kept") for prepared in old.documents]

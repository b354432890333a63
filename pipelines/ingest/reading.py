"""From items of a source, or records of the manifest, to chunk rows: the part of embedding before the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from m3core.errors import DocumentError
from m3core.types import Chunk, Document
from pipelines.ingest.chunking import Chunker
from pipelines.ingest.ids import acl_hash, content_hash, metadata_hash, text_hash
from pipelines.ingest.listing import document_letter
from pipelines.ingest.restoring import Restored, restore
from pipelines.ingest.sources import Source, SourceItem
from pipelines.ingest.stores import Standing
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.lake import lake_key
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest
from pipelines.state.runs import DeadLetter

# `pending`: as it was, but a store waits for it. `kept`: the old version of a document whose new one failed.
# `refused`: as it was, but a store that waited for it will not take it.
# `patched`: only metadata or rights changed.
Change = Literal["added", "changed", "patched", "unchanged", "pending", "kept", "refused"]


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
    """What became of one group. `targets`: chunk id -> stores that it is for, where these are not all."""

    documents: list[Prepared] = field(default_factory=list)
    rows: list[ChunkRow] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Chunk rows for some stores, or (None) for all."""

    rows: tuple[ChunkRow, ...]
    stores: tuple[str, ...] | None


def parts_of(rows: Iterable[ChunkRow], targets: Mapping[str, tuple[str, ...]]) -> Iterator[Rows]:
    """Rows by the stores that they are for; those without targets are for all."""
    parts: dict[tuple[str, ...] | None, list[ChunkRow]] = {}
    for row in rows:
        parts.setdefault(targets.get(row.chunk.id), []).append(row)
    yield from (Rows(tuple(group), stores) for stores, group in parts.items())


@dataclass(frozen=True)
class Found:
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

    def same_as(self, old: DocumentRecord | None) -> bool:
        if old is None or old.removed:
            return False
        return self.hashes == (old.content_hash, old.metadata_hash, old.acl_hash)

    def change_of(self, old: DocumentRecord | None) -> Change:
        if old is None or old.removed:
            return "added"
        if self.same_as(old):
            return "pending"
        return "patched" if self.hashes[0] == old.content_hash else "changed"


@dataclass(frozen=True)
class ReadStep:
    """What reading needs."""

    collection: str
    fingerprint: str
    run: int
    sources: Mapping[str, Source]
    chunker: Chunker
    manifest: Manifest
    chunk_files: ChunkFiles
    standing: Standing

    def known(self, keys: Collection[DocumentKey], *, removed: bool = False) -> dict[DocumentKey, DocumentRecord]:
        """Records of documents as they were before this run. See `Manifest.find`."""
        return self.manifest.find(keys, removed=removed, before=(self.run, 0))


def prepare(group: Group, wave: int, step: ReadStep) -> Chunked:
    """Documents and chunk rows of a group; new rows are in a chunk file of the wave before they are returned.

    The file is named by its rows, so that a repeated group replaces it by the same.
    """
    chunked = chunks_of(group, step)
    new = [row for row in chunked.rows if row.run == step.run]
    if new:
        names = "".join(row.chunk.id for row in new)
        step.chunk_files.write(step.run, wave, text_hash(names)[:32], new)
    return chunked


def chunks_of(group: Group, step: ReadStep) -> Chunked:
    """Documents and chunk rows of a group; nothing is written."""
    if isinstance(group, ItemGroup):
        return _read(group, step)
    chunked = Chunked()
    restored = restore(group.records, step.chunk_files, step.standing)
    _bring(restored, "pending", chunked)
    chunked.letters += [lost_letter(record) for record in restored.lost]
    return chunked


def _read(group: ItemGroup, step: ReadStep) -> Chunked:
    chunked = Chunked()
    failed: list[DocumentKey] = []
    read: list[Found] = []
    for item in group.items:
        source = step.sources[item.source]
        try:
            read.append(Found(item, source.read(item)))
        except DocumentError as error:
            key = source.identify(item)
            chunked.letters.append(document_letter("read", item, key or ("", ""), error))
            failed += [key] if key else []
    known = step.known({found.key for found in read}, removed=True)
    same = {found.key: found for found in read if found.same_as(known.get(found.key))}
    again = _note_same(same.values(), known, chunked, step)
    for found, chunks in _chunk([found for found in read if found.key not in same or found.key in again], step):
        if isinstance(chunks, DocumentError):
            chunked.letters.append(document_letter("chunk", found.item, found.key, chunks))
            failed.append(found.key)
        else:
            _add(found, chunks, known.get(found.key), chunked, step)
    _keep_old_versions(failed, chunked, step)
    return chunked


def _chunk(found: list[Found], step: ReadStep) -> list[tuple[Found, list[Chunk] | DocumentError]]:
    """Chunks of each document, or why it has none; one call for all of them while none fails."""
    try:
        chunks = step.chunker.chunks_many([each.document for each in found], step.collection)
    except DocumentError as error:
        if len(found) == 1:
            return [(found[0], error)]
        return [pair for each in found for pair in _chunk([each], step)]
    return list(zip(found, chunks, strict=True))


def _note_same(
    same: Iterable[Found], known: Mapping[DocumentKey, DocumentRecord], chunked: Chunked, step: ReadStep
) -> set[DocumentKey]:
    """Documents of which only the stamp differs, or less: their records get the new one and keep their revision.

    What a store waits for comes from the chunk files; returns the documents whose chunks are not there any more.
    """
    waiting: list[DocumentRecord] = []
    for found in same:
        record = replace(known[found.key], stamp=found.item.stamp, source=found.item.source)
        if step.standing.can_serve(record):
            waiting.append(record)
        else:
            chunked.documents.append(Prepared(record, "unchanged"))
    restored = restore(waiting, step.chunk_files, step.standing)
    _bring(restored, "pending", chunked)
    return {record.key for record in restored.lost}


def _bring(restored: Restored, change: Change, chunked: Chunked) -> None:
    chunked.documents += [Prepared(record, change) for record in restored.records]
    chunked.rows += restored.rows
    chunked.targets |= restored.targets


def _add(found: Found, chunks: list[Chunk], old: DocumentRecord | None, chunked: Chunked, step: ReadStep) -> None:
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
        status=dict.fromkeys(step.standing.names, "pending"),
        obsolete_chunk_ids=obsolete(old, ids),
    )
    chunked.documents.append(Prepared(record, found.change_of(old)))
    for chunk in chunks:
        key = lake_key(chunk.tenant, step.fingerprint, chunk.encoded_text)
        chunked.rows.append(ChunkRow(chunk, key, step.run))


def obsolete(old: DocumentRecord | None, ids: Collection[str]) -> tuple[str, ...]:
    """Chunk ids that stores may still hold for this document and that it no longer has.

    Those of the last version and those that were not deleted yet: a snapshot that was never published took its deletes
    with it, and a store that was down has still to be told.
    """
    if old is None:
        return ()
    return tuple(sorted({*old.chunk_ids, *old.obsolete_chunk_ids}.difference(ids)))


def lost_letter(record: DocumentRecord) -> DeadLetter:
    """The dead letter of a document whose rows cannot be restored."""
    message = "its chunks are not in the state folder. Remedy: change or touch the document, then run m3 ingest again"
    return DeadLetter("restore", record.tenant, record.doc_id, record.source, "state", message)


def _keep_old_versions(keys: Collection[DocumentKey], chunked: Chunked, step: ReadStep) -> None:
    """A document whose new version failed keeps its old one: if a store waits for that, it goes on its way."""
    restored = restore(step.known(keys).values(), step.chunk_files, step.standing)
    _bring(restored, "kept", chunked)
    chunked.letters += [lost_letter(record) for record in restored.lost]

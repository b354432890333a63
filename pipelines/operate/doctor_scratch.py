"""One row into a scratch collection of a store, found by every signal, deleted; the collection is removed at the end.

The live collection is never touched: the scratch one has a name of its own, on the same server or beside it on disk.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from connectors.filters.identity import identity_filter
from connectors.filters.tree import Everything
from connectors.protocol import EmbeddedSink, LoadingSink, Searcher, Sink, StoreOptions
from connectors.registry import open_searcher, open_sink
from m3core.errors import M3Error, StoreError
from m3core.types import Chunk, ChunkVectors, Identity, QueryVectors, Row, Signal
from pipelines.operate.doctor_check import Check, checked

SCRATCH_DIM = 64
_SECONDS = 30.0
# Stored vectors have 8 bits at the least, lexical candidates 9.
_TOLERANCE = 0.01
_WHO = Identity("doctor", ("doctor",))
_OTHERS = Identity("another tenant", ("doctor",))


def scratch_checks(kind: str, options: StoreOptions) -> Iterator[Check]:
    """The row's way in and out, then the removal, which is also tried if the first failed or was interrupted."""
    removed: list[Check] = []
    try:
        yield checked("row", lambda: _way(kind, options))
    finally:
        removed.append(checked("removed", lambda: _remove(kind, options)))
    yield from removed


def _way(kind: str, options: StoreOptions) -> str:
    start = time.perf_counter()
    row = _row()
    with closing(open_sink(kind, options)) as sink:
        sink.ensure(options.schema)
        result = sink.write([row])
        if result.failures:
            raise _wrong(options, f"a row was not taken: {result.failures[0].reason}")
        _publish(sink)
        asyncio.run(_find(kind, options, row))
        sink.delete([row.chunk.id])
        _publish(sink)
        if asyncio.run(_count(kind, options)):
            raise _wrong(options, "a row that was deleted is still found")
    return f"a row written, found and deleted in {time.perf_counter() - start:.1f} s"


def _publish(sink: Sink) -> None:
    sink.flush()
    if isinstance(sink, EmbeddedSink):
        sink.publish()
    if isinstance(sink, LoadingSink):
        sink.finish_loading()


async def _find(kind: str, options: StoreOptions, row: Row) -> None:
    searcher = open_searcher(kind, options)
    try:
        for signal in sorted(options.schema.signals):
            await _by_signal(searcher, signal, options, row)
        if options.schema.keeps_text:
            texts = await searcher.fetch([row.chunk.id], identity_filter(_WHO), _SECONDS)
            if {chunk_id: payload.text for chunk_id, payload in texts.items()} != {row.chunk.id: row.chunk.text}:
                raise _wrong(options, "the text of a row did not come back as it was written")
    finally:
        await searcher.aclose()


async def _by_signal(searcher: Searcher, signal: Signal, options: StoreOptions, row: Row) -> None:
    query = _query(row)
    hits = await searcher.search(signal, query, identity_filter(_WHO), 10, _SECONDS)
    if [hit.id for hit in hits] != [row.chunk.id]:
        raise _wrong(options, f"a search by {signal} found {len(hits)} rows, not the one that was written")
    if abs(hits[0].score - 1.0) > _TOLERANCE:
        raise _wrong(options, f"a {signal} score is {hits[0].score:.4f} where the formula gives 1")
    if await searcher.search(signal, query, identity_filter(_OTHERS), 10, _SECONDS):
        raise _wrong(options, f"a search by {signal} showed a row to another tenant")


async def _count(kind: str, options: StoreOptions) -> int:
    searcher = open_searcher(kind, options)
    try:
        return await searcher.count(Everything(), _SECONDS)
    finally:
        await searcher.aclose()


def _remove(kind: str, options: StoreOptions) -> str:
    try:
        with closing(open_sink(kind, options)) as sink:
            sink.drop()
        _remove_empty(options.root)
    except M3Error as failure:
        name = options.connection.prefix + options.schema.physical_name
        raise StoreError(
            f"store {options.name!r}: the scratch collection {name} may still be there: {failure.message}",
            f"{failure.remedy or 'see the store'}; then delete {name}",
        ) from None
    return "scratch collection removed"


def _remove_empty(folder: Path) -> None:
    """An embedded store's folders that were made for the row: the collection's, the store's, `stores`."""
    for path in (folder, folder.parent, folder.parent.parent):
        try:
            path.rmdir()
        except OSError:  # not there, or not empty: then it was there before
            return


def _wrong(options: StoreOptions, what: str) -> StoreError:
    return StoreError(f"store {options.name!r}: {what}", "do not use it before that is understood; see its log")


def _row() -> Row:
    unit = np.zeros(SCRATCH_DIM, np.float16)
    unit[0] = 1.0
    chunk = Chunk(
        id=str(uuid.uuid4()),
        tenant=_WHO.tenant,
        doc_id="doctor",
        ordinal=0,
        text="A row of m3 doctor.",
        context="",
        span=(0, 19),
        token_count=6,
        title="",
        language="en",
        metadata={},
        acl=_WHO.principals,
    )
    vectors = ChunkVectors(unit, np.array([7], np.uint32), np.ones(1, np.float32), np.stack([unit, -unit]))
    return Row(chunk, vectors, 1)


def _query(row: Row) -> QueryVectors:
    vectors = row.vectors
    return QueryVectors(
        dense=vectors.dense.astype(np.float32),
        lexical_ids=vectors.lexical_ids,
        lexical_weights=vectors.lexical_weights,
        multi=vectors.multi[:1].astype(np.float32),
    )

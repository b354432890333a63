"""What every searcher does alike: checks before the store is asked, order and shape of what comes back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from connectors.protocol import CollectionSchema, Payload, Scored
from m3core.errors import StoreError
from m3core.types import ChunkVectors, QueryVectors, Row, Signal


def check_signal(signal: Signal, query: QueryVectors, schema: CollectionSchema, store: str) -> None:
    """Raise StoreError if the store does not keep `signal` or the query was not encoded for it with its widths."""
    if signal not in schema.signals:
        raise StoreError(f"store {store!r} does not keep {signal} vectors", "ask the store that does")
    if signal is Signal.DENSE:
        _check_shape(query.dense, schema.dense_dim, signal)
    elif signal is Signal.MULTI:
        _check_shape(query.multi, schema.multi_dim, signal)
    elif query.lexical_ids is None or query.lexical_weights is None:
        raise _no_part(signal)


def check_text(schema: CollectionSchema, store: str) -> None:
    """Raise StoreError if the store does not keep the text."""
    if not schema.keeps_text:
        raise StoreError(f"store {store!r} does not keep texts", "fetch from the store with text = true")


def best_first(scores: Mapping[str, float], limit: int) -> list[Scored]:
    """The `limit` best, best first, ties by id."""
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Scored(chunk_id, score) for chunk_id, score in ordered[: max(0, limit)]]


def shares_signal(signal: Signal, query: QueryVectors, vectors: ChunkVectors) -> bool:
    """Whether a row is a candidate at all: lexical needs a shared token, multi a vector on both sides."""
    if signal is Signal.LEXICAL and query.lexical_ids is not None:
        return bool(np.isin(query.lexical_ids, vectors.lexical_ids, assume_unique=True).any())
    if signal is Signal.MULTI and query.multi is not None:
        return len(query.multi) > 0 and len(vectors.multi) > 0
    return True


def payload_of(row: Row) -> Payload:
    """The row without its vectors."""
    chunk = row.chunk
    return Payload(
        id=chunk.id,
        tenant=chunk.tenant,
        doc_id=chunk.doc_id,
        ordinal=chunk.ordinal,
        span=chunk.span,
        title=chunk.title,
        context=chunk.context,
        text=chunk.text,
        language=chunk.language,
        metadata=dict(chunk.metadata),
        acl=chunk.acl,
        revision=row.revision,
    )


def _check_shape(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None, dim: int, signal: Signal) -> None:
    if vector is None:
        raise _no_part(signal)
    if vector.shape[-1] != dim:
        raise StoreError(
            f"the query's {signal} vector is {vector.shape[-1]} wide, the store's {dim}",
            "encode the query with the model that the collection was built with",
        )


def _no_part(signal: Signal) -> StoreError:
    return StoreError(f"the query was not encoded for {signal}", f"encode it with the signal {signal}")

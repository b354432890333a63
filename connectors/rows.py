"""What every store asks of a schema and of a row before it takes them, and how a write's outcome is told row by row.

One bad row is a Failure and does not stop the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from connectors.filters.check import MAX_INTEGER, check_field_names
from connectors.ids import is_canonical
from connectors.protocol import Capabilities, CollectionSchema, Failure, FieldType, Patch, StoreOptions, WriteResult
from m3core.errors import StoreError
from m3core.types import Chunk, ChunkVectors, Metadata, MetadataValue, Row, Signal


def split_rows(
    rows: Sequence[Row], schema: CollectionSchema, capabilities: Capabilities
) -> tuple[list[Row], tuple[Failure, ...]]:
    """The rows that the store can keep exactly, and a Failure for each of the others."""
    good: list[Row] = []
    failures: list[Failure] = []
    for row in rows:
        vectors = len(row.vectors.multi)
        if Signal.MULTI in schema.signals and vectors > capabilities.max_vectors_per_row:
            reason = f"{vectors} vectors; the store keeps at most {capabilities.max_vectors_per_row} in a row"
            failures.append(Failure(row.chunk.id, "too-large", reason))
        elif problem := row_problem(row, schema):
            failures.append(Failure(row.chunk.id, "permanent", problem))
        else:
            good.append(row)
    return good, tuple(failures)


def check_opened_for(schema: CollectionSchema, options: StoreOptions) -> None:
    """Raise StoreError if the sink was opened for another schema, ConfigError for a field that filters cannot name."""
    if schema != options.schema:
        raise StoreError(
            f"store {options.name!r} was opened for another schema of {options.schema.physical_name}",
            "open it with the schema that is to be ensured",
        )
    check_field_names(schema.fields)


def last_of_each(rows: Sequence[Row]) -> list[Row]:
    """One row for each id: a request must not hold an id twice, or the order of shards decides which one wins."""
    return list({row.chunk.id: row for row in rows}.values())


def write_result(rows: Sequence[Row], refused: Sequence[Failure], failures: tuple[Failure, ...]) -> WriteResult:
    """The outcome for all `rows`, of which `last_of_each` was sent and speaks for the others; `failures` were not."""
    reasons = {failure.id: failure for failure in refused}
    lost = tuple(reasons[row.chunk.id] for row in rows if row.chunk.id in reasons)
    return WriteResult(len(rows) - len(lost), (*failures, *lost))


def require_changed(failures: Sequence[Failure], store: str) -> None:
    """Deletes and patches have no dead letters: raise StoreError if one was refused."""
    if failures:
        raise StoreError(
            f"store {store!r} refused to change {len(failures)} rows, {failures[0].id} first: {failures[0].reason}",
            "see the server's log; run again",
        )


def row_problem(row: Row, schema: CollectionSchema) -> str:
    """Why a row cannot be stored and read back exactly, without any of its text; empty if it can."""
    return (
        _id_problem(row.chunk.id)
        or _text_problem(row.chunk)
        or metadata_problem(row.chunk.metadata, schema.fields)
        or _vector_problem(row.vectors, schema)
    )


def metadata_problem(metadata: Metadata, fields: Mapping[str, FieldType]) -> str:
    """Why metadata cannot be stored exactly; empty if it can. Undeclared fields need a storable value only."""
    for name, value in metadata.items():
        kind = fields.get(name)
        if kind is not None and not _suits(value, FieldType(kind)):
            return f"metadata field {name!a} is declared as {kind} and holds a {type(value).__name__}"
        if not _storable(value):
            return f"metadata field {name!a} holds a value beyond 2^53, NaN, a lone surrogate or another type"
    return ""


def _suits(value: MetadataValue, kind: FieldType) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        FieldType.STRING: isinstance(value, str),
        FieldType.STRINGS: isinstance(value, tuple),
        FieldType.BOOLEAN: isinstance(value, bool),
        FieldType.INTEGER: number and isinstance(value, int),
        FieldType.NUMBER: number,
    }[kind]


def _storable(value: MetadataValue) -> bool:
    if isinstance(value, str):
        return _is_text(value)
    if isinstance(value, tuple):
        return all(isinstance(part, str) and _is_text(part) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) <= MAX_INTEGER


def _id_problem(chunk_id: str) -> str:
    return "" if is_canonical(chunk_id) else f"id {chunk_id[:40]!a} is not a UUID in its canonical form"


def _text_problem(chunk: Chunk) -> str:
    texts = (chunk.tenant, chunk.doc_id, chunk.text, chunk.context, chunk.title, chunk.language, *chunk.acl)
    if not all(map(_is_text, texts)) or not all(map(_is_text, chunk.metadata)):
        return "a text of the row has a lone surrogate, which is not a character"
    return ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _vector_problem(vectors: ChunkVectors, schema: CollectionSchema) -> str:
    problems = {
        Signal.DENSE: lambda: _dense_problem(vectors, schema.dense_dim),
        Signal.LEXICAL: lambda: _lexical_problem(vectors),
        Signal.MULTI: lambda: _multi_problem(vectors, schema.multi_dim),
    }
    return next((problem for signal in sorted(schema.signals) if (problem := problems[signal]())), "")


def _dense_problem(vectors: ChunkVectors, dim: int) -> str:
    if vectors.dense.shape != (dim,):
        return f"dense vector has shape {vectors.dense.shape}, not ({dim},)"
    return "" if np.isfinite(vectors.dense).all() else "dense vector has a value that is not finite"


def _lexical_problem(vectors: ChunkVectors) -> str:
    ids, weights = vectors.lexical_ids, vectors.lexical_weights
    if ids.ndim != 1 or ids.shape != weights.shape:
        return f"lexical ids and weights have shapes {ids.shape} and {weights.shape}"
    if not (ids[1:] > ids[:-1]).all():
        return "lexical ids are not ascending"
    return "" if (np.isfinite(weights) & (weights > 0)).all() else "a lexical weight is not positive and finite"


def _multi_problem(vectors: ChunkVectors, dim: int) -> str:
    if vectors.multi.ndim != 2 or vectors.multi.shape[1] != dim:
        return f"multi-vectors have shape {vectors.multi.shape}, not (T, {dim})"
    return "" if np.isfinite(vectors.multi).all() else "multi-vectors have a value that is not finite"


def checked_patches(patches: Sequence[Patch], schema: CollectionSchema) -> Sequence[Patch]:
    """The patches as they are; raises StoreError if one holds what the store cannot keep exactly."""
    for patch in patches:
        problem = metadata_problem(patch.metadata, schema.fields)
        if problem or not all(map(_is_text, (*patch.metadata, *patch.acl))):
            raise StoreError(f"patch of {patch.id[:40]!a}: {problem or 'lone surrogate'}", "correct the document")
    return patches

"""Rows and queries for the conformance suite: seeded, small, and of every kind of metadata."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from connectors.protocol import CollectionSchema, FieldType
from m3core.types import ALL_SIGNALS, Chunk, ChunkVectors, Float32Array, Identity, QueryVectors, Row

DENSE_DIM = 32
MULTI_DIM = 64
VOCABULARY = 80
FIELDS: Mapping[str, FieldType] = {
    "kind": FieldType.STRING,
    "tags": FieldType.STRINGS,
    "year": FieldType.INTEGER,
    "weight": FieldType.NUMBER,
    "public": FieldType.BOOLEAN,
    "größe": FieldType.INTEGER,
}
KINDS = ("notice", "faq", "rule", "")
TAGS = ("a", "b", "c", "true")
YEARS = (0, -1, 2023, 2024, 2**53, 2**53 - 1, -(2**53))
WEIGHTS: tuple[float, ...] = (0.0, -0.5, 1.5, 2, 1e300, 2**53)
LANGUAGES = ("", "de", "en", "日本語")
TENANTS = ("acme", "globex")
PRINCIPALS = ("everyone", "staff", "board")
SCHEMA = CollectionSchema(
    collection="docs",
    generation=1,
    signals=frozenset(ALL_SIGNALS),
    dense_dim=DENSE_DIM,
    multi_dim=MULTI_DIM,
    fields=FIELDS,
    keeps_text=True,
    encoder_fingerprint="float-" + "0" * 32,
)


def row_id(number: int) -> str:
    """Ids whose order is not the order of the numbers."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def make_rows(count: int, seed: int = 0, first: int = 0) -> list[Row]:
    """Rows `first` to `first + count`; every field is sometimes there, sometimes absent, sometimes empty."""
    return [make_row(number, np.random.default_rng((seed, number))) for number in range(first, first + count)]


def make_row(number: int, rng: np.random.Generator, revision: int = 1) -> Row:
    def some(values: Sequence[object]) -> list[object]:
        return [values[int(rng.integers(len(values)))]] if rng.random() < 0.7 else []

    choices = {"kind": KINDS, "year": YEARS, "weight": WEIGHTS, "public": (True, False), "größe": YEARS}
    metadata = {name: value for name, values in choices.items() for value in some(values)}
    if rng.random() < 0.7:
        metadata["tags"] = tuple(tag for tag in TAGS if rng.random() < 0.4)
    metadata["undeclared"] = number
    chunk = Chunk(
        id=row_id(number),
        tenant=TENANTS[int(rng.integers(2))],
        doc_id=f"doc-{number // 3}",
        ordinal=number % 3,
        text=f"text {number}",
        context="" if number % 2 else "Heading",
        span=(number, number + 9),
        token_count=9,
        title="" if number % 4 == 0 else f"Title {number % 5}",
        language=LANGUAGES[int(rng.integers(len(LANGUAGES)))],
        metadata=metadata,  # type: ignore[arg-type]  # built from mixed choices
        acl=tuple(name for name in PRINCIPALS if rng.random() < 0.5),
    )
    return Row(chunk, make_vectors(rng), revision)


def make_vectors(rng: np.random.Generator) -> ChunkVectors:
    ids = np.flatnonzero(rng.random(VOCABULARY) < 0.08).astype(np.uint32)
    if not len(ids):
        ids = np.array([VOCABULARY - 1], np.uint32)  # so that a query of every token finds every row
    return ChunkVectors(
        dense=unit(rng, DENSE_DIM).astype(np.float16),
        lexical_ids=ids,
        lexical_weights=(rng.random(len(ids)) + 0.01).astype(np.float32),
        multi=unit(rng, int(rng.integers(1, 24)), MULTI_DIM).astype(np.float16),
    )


def make_query(seed: int, tokens: int = 8) -> QueryVectors:
    rng = np.random.default_rng((1_000_003, seed))
    ids = np.sort(rng.choice(VOCABULARY, size=tokens, replace=False)).astype(np.uint32)
    weights = (rng.random(tokens) + 0.01).astype(np.float32)
    return QueryVectors(unit(rng, DENSE_DIM), ids, weights, unit(rng, tokens, MULTI_DIM))


def unit(rng: np.random.Generator, *shape: int) -> Float32Array:
    values = rng.standard_normal(shape).astype(np.float32)
    normed: Float32Array = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return normed


def with_chunk(row: Row, **changes: object) -> Row:
    return replace(row, chunk=replace(row.chunk, **changes))  # type: ignore[arg-type]


def someone(tenant: str = "acme", *principals: str) -> Identity:
    return Identity(tenant, principals or ("everyone",))

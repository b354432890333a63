"""Rows and queries for the tables of stores: a dev set through m3-small, and as many rows more as are wanted."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from connectors.protocol import CollectionSchema, FieldType
from m3core.encoder import Encoder, stored_vectors
from m3core.evaluate.beir import _qrels, _rows
from m3core.evaluate.matrices import MATRICES
from m3core.types import ALL_SIGNALS, Chunk, ChunkVectors, Float32Array, QueryVectors, Row, Signal

_FIELDS: Mapping[str, FieldType] = {"source": FieldType.STRING, "year": FieldType.INTEGER}


@dataclass(frozen=True)
class DevSet:
    """One dev set: a row per document, and what exact search in fp32 gives: `[Q, N]` of each signal."""

    name: str
    rows: Sequence[Row]
    queries: Sequence[QueryVectors]
    gains: Sequence[Mapping[int, int]]
    exact: Mapping[Signal, Float32Array]


def read_dev_set(encoder: Encoder, folder: Path, max_queries: int) -> DevSet:
    """Documents are whole: what is longer than the model reads is cut, in both forms alike."""
    documents = {
        row["_id"]: f"{row.get('title') or ''}\n{row['text']}".strip() for row in _rows(folder / "corpus.jsonl")
    }
    judged = _qrels(folder / "qrels.tsv")
    queries = [row for row in _rows(folder / "queries.jsonl") if row["_id"] in judged][:max_queries]
    place = {doc_id: index for index, doc_id in enumerate(documents)}
    texts = [query["text"] for query in queries]
    passages = encoder.encode(list(documents.values()), "passage")
    asked = encoder.encode(texts, "query")
    rows = [
        _row(number, text, vectors)
        for number, (text, vectors) in enumerate(zip(documents.values(), stored_vectors(passages), strict=True))
    ]
    gains = [{place[doc_id]: 1 for doc_id in judged[query["_id"]] if doc_id in place} for query in queries]
    exact = {signal: matrix(asked, passages) for signal, matrix in MATRICES.items()}
    return DevSet(folder.name, rows, [encoder.encode_query(text) for text in texts], gains, exact)


def more_rows(dev: DevSet, count: int) -> list[Row]:
    """`count` rows: those of the set again and again, each time with noise, so that no two score alike."""
    made = list(dev.rows[:count])
    while len(made) < count:
        number = len(made)
        base = dev.rows[number % len(dev.rows)]
        made.append(_row(number, base.chunk.text, _noisy(base.vectors, np.random.default_rng(number))))
    return made


def schema_of(dev: DevSet, signals: Sequence[Signal] = ALL_SIGNALS, *, keeps_text: bool = True) -> CollectionSchema:
    """A collection for the rows."""
    vectors = dev.rows[0].vectors
    return CollectionSchema(
        collection="bench",
        generation=1,
        signals=frozenset(signals),
        dense_dim=len(vectors.dense),
        multi_dim=vectors.multi.shape[1],
        fields=_FIELDS,
        keeps_text=keeps_text,
        encoder_fingerprint="float-" + "0" * 32,
    )


def _row(number: int, text: str, vectors: ChunkVectors) -> Row:
    chunk = Chunk(
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
        tenant="bench",
        doc_id=f"doc-{number}",
        ordinal=0,
        text=text,
        context="",
        span=(0, len(text)),
        token_count=len(vectors.multi),
        title="",
        language="",
        metadata={"source": f"source-{number % 20}", "year": 2000 + number % 25},
        acl=("everyone",),
    )
    return Row(chunk, vectors, 1)


def _noisy(vectors: ChunkVectors, rng: np.random.Generator) -> ChunkVectors:
    def near(values: np.ndarray) -> np.ndarray:
        moved = values.astype(np.float32) + rng.normal(0, 0.3 / np.sqrt(values.shape[-1]), values.shape)
        return (moved / np.linalg.norm(moved, axis=-1, keepdims=True)).astype(np.float16)

    weights = (vectors.lexical_weights * rng.uniform(0.7, 1.3, len(vectors.lexical_weights))).astype(np.float32)
    return replace(vectors, dense=near(vectors.dense), lexical_weights=weights, multi=near(vectors.multi))

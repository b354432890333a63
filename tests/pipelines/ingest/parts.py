"""Small chunks, rows and records for tests of single steps."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from connectors.protocol import Capabilities, CollectionSchema, Failure, Patch, Sink, StoreOptions, WriteResult
from connectors.registry import open_sink
from m3core.errors import StoreError
from m3core.types import ALL_SIGNALS, Chunk, ChunkVectors, Row
from pipelines.ingest.stores import Standing, Stores
from pipelines.state.chunks import ChunkRow
from pipelines.state.collection import Generation, StoreBinding
from pipelines.state.lake import Lake, lake_key
from pipelines.state.manifest import DocumentRecord
from pipelines.state.paths import StatePaths

FINGERPRINT = "float-" + "0" * 32
SCHEMA = CollectionSchema(
    collection="notes",
    generation=1,
    signals=frozenset(ALL_SIGNALS),
    dense_dim=4,
    multi_dim=2,
    fields={},
    keeps_text=True,
    encoder_fingerprint=FINGERPRINT,
)


def paths_in(folder: Path) -> StatePaths:
    return StatePaths.of(folder, "notes")


def chunk(text: str, doc_id: str = "a.md", tokens: int = 10) -> Chunk:
    """A chunk whose id follows from document and text."""
    return Chunk(
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{doc_id} {text}")),
        tenant="default",
        doc_id=doc_id,
        ordinal=0,
        text=text,
        context="",
        span=(0, len(text)),
        token_count=tokens,
        acl=("everyone",),
    )


def row_of(text: str, doc_id: str = "a.md", tokens: int = 10, run: int = 1) -> ChunkRow:
    made = chunk(text, doc_id, tokens)
    return ChunkRow(made, lake_key(made.tenant, FINGERPRINT, made.encoded_text), run)


def vectors(seed: int, tokens: int = 3) -> ChunkVectors:
    """Random vectors in the schema's dimensions."""
    chance = np.random.default_rng(seed)
    return ChunkVectors(
        dense=chance.normal(size=4).astype(np.float16),
        lexical_ids=np.arange(tokens, dtype=np.uint32),
        lexical_weights=chance.random(tokens, dtype=np.float32) + 0.1,
        multi=chance.normal(size=(tokens, 2)).astype(np.float16),
    )


def fill_lake(folder: Path, rows: Sequence[ChunkRow]) -> Lake:
    """A lake with vectors for the rows."""
    lake = Lake(paths_in(folder), FINGERPRINT)
    lake.write_unit([row.lake_key for row in rows], [vectors(number) for number in range(len(rows))])
    return lake


def record_of(doc_id: str, chunk_ids: Sequence[str] = (), **changed: object) -> DocumentRecord:
    values: dict[str, object] = {
        "tenant": "default",
        "doc_id": doc_id,
        "source": "docs",
        "content_hash": "c",
        "metadata_hash": "m",
        "acl_hash": "a",
        "stamp": "s",
        "chunk_ids": tuple(chunk_ids),
        "revision": 1,
        "status": {"main": "done"},
    }
    return DocumentRecord(**{**values, **changed})  # type: ignore[arg-type]


def stores_of(sinks: Mapping[str, Sink], *, down: Mapping[str, StoreError] | None = None) -> Stores:
    """Open stores of generation 1, for steps that ask nothing else of them."""
    names = sorted({*sinks, *(down or {})})
    bindings = tuple(StoreBinding(name, "memory", ("dense", "lexical", "multi"), True) for name in names)
    generation = Generation(
        number=1,
        collection_fingerprint="c",
        encoder_fingerprint=FINGERPRINT,
        model="tiny",
        dense_dim=4,
        multi_dim=2,
        fields={},
        stores=bindings,
        status="live",
        created="",
    )
    return Stores(generation, {}, Standing(tuple(names), absent=dict(down or {})), dict(sinks))


class PickySink:
    """A memory store that refuses or postpones rows as `judge` says: an answer per row, empty for a good one."""

    def __init__(self, folder: Path, judge: Callable[[Row], str]) -> None:
        self._sink = open_sink("memory", StoreOptions("main", folder, SCHEMA))
        self._sink.ensure(SCHEMA)
        self._judge = judge
        self.sizes: list[int] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._sink.capabilities

    def ensure(self, schema: CollectionSchema) -> None:
        self._sink.ensure(schema)

    def write(self, rows: Sequence[Row]) -> WriteResult:
        self.sizes.append(len(rows))
        failures = tuple(Failure(row.chunk.id, kind, "said so") for row in rows if (kind := self._judge(row)))
        refused = {failure.id for failure in failures}
        self._sink.write([row for row in rows if row.chunk.id not in refused])
        return WriteResult(len(rows) - len(failures), failures)

    def delete(self, ids: Sequence[str]) -> None:
        self._sink.delete(ids)

    def patch(self, patches: Sequence[Patch]) -> None:
        self._sink.patch(patches)

    def scan(self) -> Iterator[tuple[str, int]]:
        return self._sink.scan()

    def count(self) -> int:
        return self._sink.count()

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self._sink.close()


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

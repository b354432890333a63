"""A small world for the query side: random rows in memory stores, a fixed query, a router over them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from connectors.filters.tree import Filter
from connectors.protocol import (
    CollectionSchema,
    FieldType,
    Payload,
    Scored,
    Searcher,
    Sink,
    StoreOptions,
)
from connectors.registry import open_searcher, open_sink
from m3core.config.model import SearchSection
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.types import Chunk, ChunkVectors, Identity, Metadata, QueryVectors, Row, Signal
from pipelines.query.answer import Answer, Explanation
from pipelines.query.encoding import EncoderFacts
from pipelines.query.errors import CursorError
from pipelines.query.live import Pinned
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router
from pipelines.state.collection import Generation, StoreBinding
from tests.conformance.store import publish
from tests.servers.running import connection_of

DENSE_DIM, MULTI_DIM, VOCABULARY = 8, 4, 40
FIELDS = {"year": "integer", "topic": "string"}
FINGERPRINT = "float-00000000000000000000000000000000"
STAFF = Identity("acme", ("staff",))

# One store per signal, the text beside the dense vectors, and the embedded default: one store for all.
ONE_STORE = (StoreBinding("main", "memory", ("dense", "lexical", "multi"), True),)
THREE_STORES = (
    StoreBinding("vectors", "memory", ("dense",), True),
    StoreBinding("words", "memory", ("lexical",), False),
    StoreBinding("tokens", "memory", ("multi",), False),
)


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def random_vectors(rng: np.random.Generator) -> ChunkVectors:
    ids = np.sort(rng.choice(VOCABULARY, size=rng.integers(0, 7), replace=False)).astype(np.uint32)
    return ChunkVectors(
        dense=_unit(rng.normal(size=DENSE_DIM)).astype(np.float16),
        lexical_ids=ids,
        lexical_weights=rng.uniform(0.05, 0.5, size=len(ids)).astype(np.float32),
        multi=_unit(rng.normal(size=(int(rng.integers(1, 6)), MULTI_DIM))).astype(np.float16),
    )


def random_query(rng: np.random.Generator) -> QueryVectors:
    ids = np.sort(rng.choice(VOCABULARY, size=6, replace=False)).astype(np.uint32)
    return QueryVectors(
        dense=_unit(rng.normal(size=DENSE_DIM)).astype(np.float32),
        lexical_ids=ids,
        lexical_weights=rng.uniform(0.05, 0.5, size=6).astype(np.float32),
        multi=_unit(rng.normal(size=(3, MULTI_DIM))).astype(np.float32),
    )


@dataclass(frozen=True)
class RowFacts:
    """What a test wants to choose about a row; the rest is random or plain."""

    number: int
    doc_id: str = ""
    tenant: str = "acme"
    acl: tuple[str, ...] = ("staff",)
    metadata: Metadata = field(default_factory=dict)
    language: str = "en"
    text: str = ""


def make_row(facts: RowFacts, vectors: ChunkVectors) -> Row:
    chunk = Chunk(
        id=str(UUID(int=facts.number + 1)),
        tenant=facts.tenant,
        doc_id=facts.doc_id or f"doc-{facts.number}",
        ordinal=0,
        text=facts.text or f"text of row {facts.number}",
        context="",
        span=(0, 10),
        token_count=4,
        title=f"Title {facts.number}",
        language=facts.language,
        metadata=facts.metadata,
        acl=facts.acl,
    )
    return Row(chunk, vectors, 1)


class FixedEncoder:
    """A model whose every query has the same vectors."""

    def __init__(self, query: QueryVectors, presets: Mapping[str, Weights] = BUILT_IN_PRESETS) -> None:
        self.query = query
        self._presets = presets

    async def facts(self) -> EncoderFacts:
        return EncoderFacts(FINGERPRINT, self._presets)

    async def ready(self) -> None:
        """Nothing to load."""

    async def encode_query(self, query: str) -> QueryVectors:
        return self.query

    async def explain(self, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
        return [Explanation((), ()) for _ in texts]

    async def aclose(self) -> None:
        """Nothing to release."""


@dataclass
class FixedStores:
    """Stores that are open until the router is closed."""

    pinned: Pinned

    @asynccontextmanager
    async def pin(self) -> AsyncIterator[Pinned]:
        yield self.pinned

    @asynccontextmanager
    async def pin_texts(self, generation: int, created: str) -> AsyncIterator[Pinned]:
        known = self.pinned.generation
        if (known.number, known.created) != (generation, created):
            raise CursorError(f"generation {generation} of this cursor is gone")
        yield self.pinned

    async def aclose(self) -> None:
        for searcher in self.pinned.searchers.values():
            await searcher.aclose()


class Unreliable:
    """A searcher in front of another one that stalls or fails where it is told to.

    `faults` maps "search dense", "score lexical", "fetch", "count", "warm" to an exception, or to seconds of sleep.
    """

    def __init__(self, inner: Searcher, faults: Mapping[str, BaseException | float]) -> None:
        self.inner = inner
        self.faults = faults
        self.cancelled: list[str] = []
        self.capabilities = inner.capabilities

    async def _meet(self, place: str) -> None:
        fault = self.faults.get(place)
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            try:
                await asyncio.sleep(fault)
            except asyncio.CancelledError:
                self.cancelled.append(place)
                raise

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        await self._meet(f"search {signal}")
        return await self.inner.search(signal, query, where, limit, timeout)

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        await self._meet(f"score {signal}")
        return await self.inner.score(signal, query, ids, where, timeout)

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        await self._meet("fetch")
        return await self.inner.fetch(ids, where, timeout)

    async def count(self, where: Filter, timeout: float) -> int:
        await self._meet("count")
        return await self.inner.count(where, timeout)

    async def warm(self, timeout: float) -> None:
        await self._meet("warm")

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass
class World:
    """Rows, the query that is asked, and the stores that hold the rows."""

    rows: list[Row]
    query: QueryVectors
    generation: Generation
    searchers: dict[str, Searcher]
    search: SearchSection
    root: Path

    def router(self, faults: Mapping[str, Mapping[str, BaseException | float]] | None = None) -> Router:
        """A router over these stores; `faults` by store name."""
        searchers = {
            name: Unreliable(each, (faults or {})[name]) if name in (faults or {}) else each
            for name, each in self.searchers.items()
        }
        return Router(FixedStores(Pinned(self.generation, searchers)), FixedEncoder(self.query), self.search)

    def ask(
        self, request: SearchRequest, faults: Mapping[str, Mapping[str, BaseException | float]] | None = None
    ) -> Answer:
        """One answer of a fresh router."""
        return asyncio.run(self.router(faults).search(request))

    def sink(self, store: str) -> Sink:
        """The writing side of one store, for changes that the others do not get."""
        binding = next(each for each in self.generation.stores if each.name == store)
        return open_sink(binding.kind, _options(self.generation, binding, self.root))


def generation_of(stores: tuple[StoreBinding, ...]) -> Generation:
    return Generation(
        number=3,
        collection_fingerprint="c",
        encoder_fingerprint=FINGERPRINT,
        model="tiny",
        dense_dim=DENSE_DIM,
        multi_dim=MULTI_DIM,
        fields=FIELDS,
        stores=stores,
        status="live",
        created="2026-01-01T00:00:00Z",
    )


def _options(generation: Generation, binding: StoreBinding, root: Path, url: str = "") -> StoreOptions:
    schema = CollectionSchema(
        collection="handbook",
        generation=generation.number,
        signals=frozenset(Signal(signal) for signal in binding.signals),
        dense_dim=DENSE_DIM,
        multi_dim=MULTI_DIM,
        fields={name: FieldType(kind) for name, kind in FIELDS.items()},
        keeps_text=binding.text,
        encoder_fingerprint=FINGERPRINT,
    )
    connection = connection_of(binding.kind, root / binding.name, url)
    return StoreOptions(binding.name, root / binding.name, schema, min_free_bytes=1 << 20, connection=connection)


@dataclass(frozen=True)
class Kit:
    """Everything of this module that a test needs: test modules cannot import a conftest."""

    root: Path
    staff = STAFF
    fields = FIELDS
    one_store = ONE_STORE
    three_stores = THREE_STORES
    facts = RowFacts
    row = staticmethod(make_row)
    vectors = staticmethod(random_vectors)
    query = staticmethod(random_query)
    generation = staticmethod(generation_of)
    encoder = FixedEncoder
    stores = FixedStores

    def world(
        self,
        rows: Sequence[Row],
        query: QueryVectors,
        stores: tuple[StoreBinding, ...] = ONE_STORE,
        search: SearchSection | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> World:
        """Rows written to stores of their own. `urls`: by which way to a server the stores of a name are read."""
        root = Path(tempfile.mkdtemp(dir=self.root))
        generation = generation_of(stores)
        searchers: dict[str, Searcher] = {}
        for binding in stores:
            options = _options(generation, binding, root)
            sink = open_sink(binding.kind, options)
            sink.ensure(options.schema)
            assert not sink.write(rows).failures
            publish(sink)
            sink.close()
            reading = _options(generation, binding, root, (urls or {}).get(binding.name, ""))
            searchers[binding.name] = open_searcher(binding.kind, reading)
        return World(list(rows), query, generation, searchers, search or SearchSection(), root)

    def random_world(
        self,
        seed: int,
        count: int = 60,
        stores: tuple[StoreBinding, ...] = ONE_STORE,
        search: SearchSection | None = None,
    ) -> World:
        """`count` random rows of one tenant, a document each, and a random query."""
        rng = np.random.default_rng(seed)
        rows = [make_row(RowFacts(number), random_vectors(rng)) for number in range(count)]
        return self.world(rows, random_query(rng), stores, search)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)

"""The model on the query side: loaded once, at first use, and run on one thread beside the event loop.

Queries of several requests go through it together (batching), and one that was asked before is remembered (caching).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from m3core.config.model import ModelSection
from m3core.errors import EncodeMemoryError
from m3core.fusion import Weights
from m3core.types import Encoded, QueryVectors
from pipelines.query.answer import Explanation
from pipelines.query.batching import Outcome, QueryBatcher
from pipelines.query.caching import QueryCache

if TYPE_CHECKING:
    from m3core.checkpoint import ModelSpec
    from m3core.encoder import Encoder

Result = TypeVar("Result")


@dataclass(frozen=True)
class EncoderFacts:
    """The identity of a model's vectors, and its own presets, built-in ones included."""

    fingerprint: str
    presets: Mapping[str, Weights]


class QueryEncoder(Protocol):
    """What the router asks of a model."""

    async def facts(self) -> EncoderFacts:
        """What is known of it before its weights are in memory."""

    async def ready(self) -> None:
        """Returns when the weights are in memory: no deadline counts what happens once."""

    async def encode_query(self, query: str) -> QueryVectors:
        """All three signals of one query."""

    async def explain(self, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
        """Why each text met the query: shared tokens and alignments."""

    async def aclose(self) -> None:
        """Release the thread; idempotent."""


class ModelEncoder:
    """A `QueryEncoder` over m3core's encoder. One thread, so that requests queue instead of fighting for cores."""

    def __init__(self, model: ModelSection, base: Path) -> None:
        self._model = model
        self._base = base
        self._known: EncoderFacts | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="m3-encode")
        self._batcher = QueryBatcher(self._encode_batch)
        self._cache = QueryCache()

    async def facts(self) -> EncoderFacts:
        if self._known is None:
            self._known = await self._run(self._read_facts)
        return self._known

    async def ready(self) -> None:
        if "_encoder" not in vars(self):
            await self._run(lambda: self._encoder)

    async def encode_query(self, query: str) -> QueryVectors:
        fingerprint = (await self.facts()).fingerprint
        known = self._cache.get(fingerprint, query)
        if known is None:
            known = await self._batcher.vectors(query)
            self._cache.put(fingerprint, query, known)
        return known

    async def explain(self, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
        from pipelines.query.explain import explain_texts

        # One text after the other: queries that wait for the model go in between, and a caller who leaves stops it.
        explained: list[Explanation] = []
        for text in texts:
            explained += await self._run(partial(lambda one: explain_texts(self._encoder, query, vectors, [one]), text))
        return explained

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode_batch(self, queries: Sequence[str]) -> Sequence[Outcome]:
        return await self._run(lambda: encode_queries(self._encoder, queries))

    # What follows runs on the one thread only, which is what makes it load once.

    @cached_property
    def _spec(self) -> ModelSpec:
        from m3core.checkpoint import model_spec

        model = self._model
        return model_spec(model.name, model.revision, self._base, model.long_pooling, model.precision)

    def _read_facts(self) -> EncoderFacts:
        from m3core.fingerprint import encoder_fingerprint

        return EncoderFacts(encoder_fingerprint(self._spec), self._spec.presets)

    @cached_property
    def _encoder(self) -> Encoder:
        from m3core.encoder import Encoder

        return Encoder.load(self._spec.folder, **self._model.loading())

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def encode_queries(encoder: Encoder, queries: Sequence[str]) -> list[Outcome]:
    """Each query's vectors, from one forward pass; EncodeMemoryError for one that does not fit in memory even alone."""
    try:
        encoded = encoder.encode(list(queries), "query")
        failed: Mapping[int, EncodeMemoryError] = {}
    except EncodeMemoryError as error:
        if error.encoded is None:
            raise
        encoded, failed = error.encoded, dict.fromkeys(error.indices, error)
    return [failed.get(place) or query_vectors(encoded, place) for place in range(len(queries))]


def query_vectors(encoded: Encoded, place: int) -> QueryVectors:
    """One query of a batch; copies, so that what is kept of it does not hold the whole batch in memory."""
    ids, weights = (None, None) if encoded.lexical is None else encoded.lexical.row(place)
    return QueryVectors(
        dense=None if encoded.dense is None else encoded.dense[place].copy(),
        lexical_ids=None if ids is None else ids.copy(),
        lexical_weights=None if weights is None else weights.copy(),
        multi=None if encoded.multi is None else encoded.multi.row(place).copy(),
    )

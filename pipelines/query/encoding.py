"""The model on the query side: loaded once, at first use, and run on one thread beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from m3core.config.model import ModelSection
from m3core.fusion import Weights
from m3core.types import QueryVectors
from pipelines.query.answer import Explanation

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

    async def facts(self) -> EncoderFacts:
        if self._known is None:
            self._known = await self._run(self._read_facts)
        return self._known

    async def encode_query(self, query: str) -> QueryVectors:
        return await self._run(lambda: self._encoder.encode_query(query))

    async def explain(self, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
        from pipelines.query.explain import explain_texts

        return await self._run(lambda: explain_texts(self._encoder, query, vectors, texts))

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    # What follows runs on the one thread only, which is what makes it load once.

    @cached_property
    def _spec(self) -> ModelSpec:
        from m3core.checkpoint import model_spec

        model = self._model
        return model_spec(model.name, model.revision, self._base, model.long_pooling)

    def _read_facts(self) -> EncoderFacts:
        from m3core.fingerprint import encoder_fingerprint

        return EncoderFacts(encoder_fingerprint(self._spec), self._spec.presets)

    @cached_property
    def _encoder(self) -> Encoder:
        from m3core.encoder import Encoder

        return Encoder.load(self._spec.folder, **self._model.loading())

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

"""Store kinds by name: where each lives and how to install what it needs. Nothing is imported before it is opened."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from connectors.protocol import Searcher, Sink, StoreOptions
from m3core.errors import ConfigError, MissingExtraError
from m3core.nearest import did_you_mean
from m3core.types import ALL_SIGNALS, Signal

__all__ = ["StoreOptions", "is_embedded", "kinds", "needs_server", "open_searcher", "open_sink", "signals_of"]


@dataclass(frozen=True)
class _Kind:
    """`package:Class` of both sides; `needs` is the top-level module that the extra installs.

    `signals` are those that such a store can keep; `server`: it has an address.
    """

    sink: str
    searcher: str
    embedded: bool = False
    signals: tuple[Signal, ...] = ALL_SIGNALS
    server: bool = False
    needs: str = ""
    extra: str = ""


_KINDS = {
    "elasticsearch": _Kind(
        sink="connectors.elasticsearch.sink:ElasticsearchSink",
        searcher="connectors.elasticsearch.searcher:ElasticsearchSearcher",
        signals=(Signal.LEXICAL,),
        server=True,
        needs="elasticsearch",
        extra="elasticsearch",
    ),
    "milvus": _Kind(
        sink="connectors.milvus.sink:MilvusSink",
        searcher="connectors.milvus.searcher:MilvusSearcher",
        server=True,
        needs="pymilvus",
        extra="milvus",
    ),
    "milvus-lite": _Kind(
        sink="connectors.milvus.lite.sink:LiteSink",
        searcher="connectors.milvus.lite.searcher:LiteSearcher",
        embedded=True,
        needs="milvus_lite",
        extra="milvus-lite",
    ),
    "memory": _Kind(sink="connectors.memory.sink:MemorySink", searcher="connectors.memory.searcher:MemorySearcher"),
    "qdrant": _Kind(
        sink="connectors.qdrant.server.sink:QdrantSink",
        searcher="connectors.qdrant.server.searcher:QdrantSearcher",
        server=True,
        needs="qdrant_client",
        extra="qdrant-server",
    ),
    "qdrant-edge": _Kind(
        sink="connectors.qdrant.edge.sink:EdgeSink",
        searcher="connectors.qdrant.edge.searcher:EdgeSearcher",
        embedded=True,
        needs="qdrant_edge",
        extra="qdrant",
    ),
}


def kinds() -> tuple[str, ...]:
    """Names that `kind` may have in the configuration."""
    return tuple(sorted(_KINDS))


def is_embedded(kind: str) -> bool:
    """Whether stores of this kind are folders of snapshots, published at the end of a run."""
    return _kind(kind).embedded


def needs_server(kind: str) -> bool:
    """Whether stores of this kind are reached through an address."""
    return _kind(kind).server


def signals_of(kind: str) -> tuple[Signal, ...]:
    """The signals that stores of this kind can keep."""
    return _kind(kind).signals


def open_sink(kind: str, options: StoreOptions) -> Sink:
    """Open the writing side. Raises ConfigError for an unknown kind, MissingExtraError, StoreError."""
    sink: Sink = _load(kind, _kind(kind).sink)(options)
    return sink


def open_searcher(kind: str, options: StoreOptions) -> Searcher:
    """Open the reading side. Raises ConfigError for an unknown kind, MissingExtraError, StoreError."""
    searcher: Searcher = _load(kind, _kind(kind).searcher)(options)
    return searcher


def _kind(kind: str) -> _Kind:
    if kind not in _KINDS:
        raise ConfigError(f"no store is of kind {kind!r}", did_you_mean(kind, _KINDS))
    return _KINDS[kind]


def _load(kind: str, place: str) -> Callable[[StoreOptions], Any]:
    known = _kind(kind)
    if known.needs and importlib.util.find_spec(known.needs) is None:
        raise MissingExtraError(
            f"stores of kind {kind!r} need {known.needs}, which is not installed",
            f"pip install 'threefold[{known.extra}]'",
        )
    module, _, name = place.partition(":")
    opened: Callable[[StoreOptions], Any] = getattr(importlib.import_module(module), name)
    return opened

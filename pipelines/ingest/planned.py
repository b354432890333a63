"""What a plan says, as one frozen value; its JSON is a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.ingest.report import DocumentCounts
from pipelines.ingest.sizing import Basis

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Estimate:
    """A number, and the half-width of its 95 % interval: 0 where everything was counted."""

    value: float
    error: float = 0.0

    def as_json(self) -> dict[str, int]:
        """Rounded: nobody plans with half a chunk."""
        return {"value": round(self.value), "error": round(self.error)}


@dataclass(frozen=True)
class StoreBytes:
    """What the rows of new documents add to one store. `bytes` is None where nothing tells; `basis` says what did."""

    bytes: float | None
    basis: str

    def as_json(self) -> dict[str, Any]:
        """In the order of the fields."""
        return {"bytes": None if self.bytes is None else round(self.bytes), "basis": self.basis}


@dataclass(frozen=True)
class PlanReport:
    """The outcome of `m3 plan`. `documents` are counted as `m3 ingest` will count them.

    `reading`: the seconds that reading and chunking took here.
    """

    collection: str
    generation: int | None
    sampled: int | None
    documents: DocumentCounts
    chunks: Estimate
    tokens_new: Estimate
    tokens_cached: Estimate
    texts_new: Estimate
    lake_bytes: float
    stores: Mapping[str, StoreBytes]
    tokens_per_second: float
    rate_from: Basis
    reading: float
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def seconds(self) -> float:
        """Reading and encoding, one after the other."""
        encode = self.tokens_new.value / self.tokens_per_second if self.tokens_per_second else 0.0
        return self.reading + encode

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 plan --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "collection": self.collection,
            "generation": self.generation,
            "sample": self.sampled,
            "documents": self.documents.as_json(),
            "chunks": self.chunks.as_json(),
            "tokens": {"new": self.tokens_new.as_json(), "cached": self.tokens_cached.as_json()},
            "texts": {"new": self.texts_new.as_json()},
            "bytes": {
                "lake": round(self.lake_bytes),
                "stores": {name: store.as_json() for name, store in self.stores.items()},
            },
            "seconds": round(self.seconds, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "rate_from": self.rate_from,
            "notes": list(self.notes),
        }

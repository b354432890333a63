"""The data that flows: document, chunk, vectors, row. Frozen, picklable, free of any store or engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

MetadataValue = str | int | float | bool | tuple[str, ...]
Metadata = Mapping[str, MetadataValue]
TextKind = Literal["query", "passage"]
Markup = Literal["plain", "markdown"]

Float16Array = npt.NDArray[np.float16]
Float32Array = npt.NDArray[np.float32]
UInt32Array = npt.NDArray[np.uint32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class Signal(StrEnum):
    """The three representations that one forward pass gives."""

    DENSE = "dense"
    LEXICAL = "lexical"
    MULTI = "multi"


ALL_SIGNALS: tuple[Signal, ...] = (Signal.DENSE, Signal.LEXICAL, Signal.MULTI)


@dataclass(frozen=True, slots=True)
class Document:
    """One unit of the source. (tenant, doc_id) is its identity; an empty acl means that nobody may see it.

    `markup` says whether headings are to be looked for in the text.
    """

    tenant: str
    doc_id: str
    text: str
    title: str = ""
    language: str = ""
    metadata: Metadata = field(default_factory=dict)
    acl: tuple[str, ...] = ()
    markup: Markup = "plain"


@dataclass(frozen=True, slots=True)
class Chunk:
    """The stored unit. `span` counts code points of the document's text; `ordinal` is its place in the document."""

    id: str
    tenant: str
    doc_id: str
    ordinal: int
    text: str
    context: str
    span: tuple[int, int]
    token_count: int
    title: str = ""
    language: str = ""
    metadata: Metadata = field(default_factory=dict)
    acl: tuple[str, ...] = ()

    @property
    def encoded_text(self) -> str:
        """Heading context and body: what the encoder sees, without the model's own prefix."""
        return encoded_text(self.context, self.text)


def encoded_text(context: str, text: str) -> str:
    """Join heading context and body into the text that is encoded and hashed."""
    return f"{context}\n{text}" if context else text


@dataclass(frozen=True, slots=True)
class LexicalBatch:
    """Lexical weights of N texts in CSR form: row i is `ids[indptr[i]:indptr[i+1]]`, ascending, weights > 0."""

    indptr: Int64Array
    ids: UInt32Array
    weights: Float32Array

    def row(self, i: int) -> tuple[UInt32Array, Float32Array]:
        """Token ids and weights of text i, `[K]` each."""
        part = slice(int(self.indptr[i]), int(self.indptr[i + 1]))
        return self.ids[part], self.weights[part]


@dataclass(frozen=True, slots=True)
class MultiBatch:
    """Multi-vectors of N texts: text i is `values[offsets[i]:offsets[i+1]]`, `[T_i, D']`, each of norm 1."""

    offsets: Int64Array
    values: Float32Array

    def row(self, i: int) -> Float32Array:
        """Token vectors of text i, `[T_i, D']`."""
        return self.values[int(self.offsets[i]) : int(self.offsets[i + 1])]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one call of the encoder returns for N texts, in the order of the texts.

    `dense` is `[N, D]`, norm 1. `token_counts` `[N]` counts all tokens that went in, specials and prefix included;
    `truncated` `[N]` says which texts were longer than the model reads. A signal that was not asked for is None.
    """

    dense: Float32Array | None
    lexical: LexicalBatch | None
    multi: MultiBatch | None
    token_counts: Int32Array
    truncated: BoolArray

    def __len__(self) -> int:
        return len(self.token_counts)


@dataclass(frozen=True, slots=True)
class ChunkVectors:
    """The stored vectors of one text: dense f16 `[D]`, lexical ids u32 and weights f32 `[K]`, multi f16 `[T, D']`."""

    dense: Float16Array
    lexical_ids: UInt32Array
    lexical_weights: Float32Array
    multi: Float16Array


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """One encoded query: dense f32 `[D]`, lexical ids u32 and weights f32 `[K]`, multi f32 `[T, D']`; or None."""

    dense: Float32Array | None
    lexical_ids: UInt32Array | None
    lexical_weights: Float32Array | None
    multi: Float32Array | None


@dataclass(frozen=True, slots=True)
class Row:
    """What a store receives: a chunk, its vectors and the revision (run counter) that wrote it."""

    chunk: Chunk
    vectors: ChunkVectors
    revision: int


@dataclass(frozen=True, slots=True)
class Identity:
    """On whose behalf a request runs. Both are added to every filter, last, and cannot be lifted."""

    tenant: str
    principals: tuple[str, ...]

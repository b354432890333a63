"""Texts in, three signals out: one forward pass per text, in token-budget batches, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from m3core.batching import token_budget_batches
from m3core.checkpoint import ModelSpec, read_spec
from m3core.errors import ModelError, UsageError
from m3core.fingerprint import encoder_fingerprint
from m3core.heads import Linear, read_head
from m3core.layout import MULTI_HEAD, SPARSE_HEAD
from m3core.lexical import pool_token_weights
from m3core.model import (
    Backbone,
    check_head,
    dense_vectors,
    load_backbone,
    token_vectors,
    token_weights,
)
from m3core.tokenize import TextTokenizer
from m3core.types import (
    ALL_SIGNALS,
    ChunkVectors,
    Encoded,
    Float32Array,
    LexicalBatch,
    MultiBatch,
    QueryVectors,
    Signal,
    TextKind,
)
from m3core.zoo import resolve_model

DEFAULT_BATCH_TOKENS = 4096
# Paper and FlagEmbedding: queries are read up to 512 tokens, passages up to the model's limit.
QUERY_MAX_LENGTH = 512


@dataclass(frozen=True)
class _Part:
    """Results of one batch, in the order of its texts; `lengths` counts tokens."""

    indices: list[int]
    lengths: list[int]
    dense: Float32Array | None
    lexical: LexicalBatch | None
    multi: Float32Array | None


@dataclass(frozen=True)
class Encoder:
    """A loaded model. Safe to share between threads; one per process is enough."""

    spec: ModelSpec
    signals: tuple[Signal, ...]
    tokenizer: TextTokenizer
    backbone: Backbone
    sparse_head: Linear | None
    multi_head: Linear | None

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        signals: Collection[Signal] = ALL_SIGNALS,
        threads: int | None = None,
    ) -> Encoder:
        """Load `m3-small`, a model folder, or a hub id with its 40-hex revision.

        Raises ModelError if a head for one of `signals` is missing or a file is malformed; nothing is ever made up.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        spec = read_spec(resolve_model(str(name), revision), str(name))
        tokenizer = TextTokenizer.load(spec.folder)
        if tokenizer.vocabulary_size > spec.architecture.vocabulary:
            raise ModelError(
                f"{spec.folder}: the tokenizer has {tokenizer.vocabulary_size} ids, the backbone only "
                f"{spec.architecture.vocabulary}",
                "use the tokenizer.json that belongs to the model",
            )
        lexical = read_head(spec.folder, SPARSE_HEAD) if Signal.LEXICAL in signals else None
        multi = read_head(spec.folder, MULTI_HEAD) if Signal.MULTI in signals else None
        return cls(
            spec=spec,
            signals=tuple(signal for signal in ALL_SIGNALS if signal in signals),
            tokenizer=tokenizer,
            backbone=load_backbone(spec),
            sparse_head=lexical and check_head(lexical, SPARSE_HEAD, spec, 1),
            multi_head=multi and check_head(multi, MULTI_HEAD, spec, spec.multi_dim),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the vectors that this encoder makes: see m3core.fingerprint."""
        return encoder_fingerprint(self.spec)

    def encode(
        self,
        texts: Sequence[str],
        kind: TextKind = "passage",
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Encode texts; results are in their order. `progress` is told the tokens of each finished batch.

        A text longer than the model reads is cut (its eos stays) and marked in `truncated`.
        """
        if kind not in ("query", "passage"):
            raise UsageError(f"kind {kind!r} is neither query nor passage", "encode(texts, kind='query' or 'passage')")
        limit = min(QUERY_MAX_LENGTH, self.spec.max_length) if kind == "query" else self.spec.max_length
        token_ids, truncated = self.tokenizer.encode(texts, self.spec.prefix(kind), limit)
        lengths = [len(ids) for ids in token_ids]
        parts: list[_Part] = []
        for indices in token_budget_batches(lengths, batch_tokens):
            parts.append(self._forward(indices, [token_ids[index] for index in indices]))
            if progress is not None:
                progress(sum(parts[-1].lengths))
        return Encoded(
            dense=_gather_dense(parts, len(texts)) if Signal.DENSE in self.signals else None,
            lexical=_gather_lexical(parts, len(texts)) if Signal.LEXICAL in self.signals else None,
            multi=_gather_multi(parts, lengths, self.spec.multi_dim) if Signal.MULTI in self.signals else None,
            token_counts=np.asarray(lengths, dtype=np.int32),
            truncated=np.asarray(truncated, dtype=np.bool_),
        )

    def stream(
        self,
        texts: Iterable[str],
        kind: TextKind = "passage",
        window: int = 512,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> Iterator[Encoded]:
        """Encode any number of texts, `window` of them at a time: memory stays flat. Results are in order."""
        source = iter(texts)
        while part := list(islice(source, window)):
            yield self.encode(part, kind, batch_tokens)

    def encode_query(self, text: str) -> QueryVectors:
        """Encode one query."""
        encoded = self.encode([text], "query")
        ids, weights = encoded.lexical.row(0) if encoded.lexical is not None else (None, None)
        return QueryVectors(
            dense=None if encoded.dense is None else encoded.dense[0],
            lexical_ids=ids,
            lexical_weights=weights,
            multi=None if encoded.multi is None else encoded.multi.row(0),
        )

    @torch.inference_mode()
    def _forward(self, indices: list[int], token_ids: list[list[int]]) -> _Part:
        lengths = [len(ids) for ids in token_ids]
        packed = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.int64)
        states = self.backbone(packed, lengths)
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        dense = lexical = multi = None
        if Signal.DENSE in self.signals:
            dense = dense_vectors(states, starts, counts, self.spec.pooling).numpy()
        if self.sparse_head is not None:
            lexical = self._pool_lexical(packed, counts, token_weights(states, self.sparse_head))
        if self.multi_head is not None:
            multi = token_vectors(states, starts, self.multi_head).numpy()
        return _Part(indices, lengths, dense, lexical, multi)

    def _pool_lexical(self, packed: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> LexicalBatch:
        return pool_token_weights(
            rows=np.repeat(np.arange(len(counts), dtype=np.int64), counts.numpy()),
            token_ids=packed.numpy(),
            weights=weights.numpy(),
            dropped_ids=np.array(self.tokenizer.special.weightless, dtype=np.int64),
            texts=len(counts),
        )


def stored_vectors(encoded: Encoded) -> list[ChunkVectors]:
    """The vectors of each text as they are stored: dense and multi in float16, lexical weights exact.

    A signal that was not computed is stored empty.
    """
    rows = []
    empty = np.zeros((0, 0), dtype=np.float16)
    for i in range(len(encoded)):
        ids, weights = encoded.lexical.row(i) if encoded.lexical is not None else (_NO_IDS, _NO_WEIGHTS)
        rows.append(
            ChunkVectors(
                dense=empty[0:0].reshape(-1) if encoded.dense is None else encoded.dense[i].astype(np.float16),
                lexical_ids=ids.copy(),
                lexical_weights=weights.copy(),
                multi=empty if encoded.multi is None else encoded.multi.row(i).astype(np.float16),
            )
        )
    return rows


_NO_IDS = np.zeros(0, dtype=np.uint32)
_NO_WEIGHTS = np.zeros(0, dtype=np.float32)


def _gather_dense(parts: Sequence[_Part], texts: int) -> Float32Array:
    dense = [part.dense for part in parts if part.dense is not None]
    if not dense:
        return np.zeros((texts, 0), dtype=np.float32)
    gathered = np.empty((texts, dense[0].shape[1]), dtype=np.float32)
    for part, vectors in zip(parts, dense, strict=True):
        gathered[part.indices] = vectors
    return gathered


def _gather_lexical(parts: Sequence[_Part], texts: int) -> LexicalBatch:
    rows = [(_NO_IDS, _NO_WEIGHTS)] * texts
    for part in parts:
        if part.lexical is not None:
            for place, index in enumerate(part.indices):
                rows[index] = part.lexical.row(place)
    sizes = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
    return LexicalBatch(
        indptr=_cumulative(sizes),
        ids=np.concatenate([_NO_IDS, *(ids for ids, _ in rows)]),
        weights=np.concatenate([_NO_WEIGHTS, *(weights for _, weights in rows)]),
    )


def _gather_multi(parts: Sequence[_Part], lengths: Sequence[int], width: int) -> MultiBatch:
    offsets = _cumulative(np.asarray(lengths, dtype=np.int64) - 1)
    values = np.empty((int(offsets[-1]), width), dtype=np.float32)
    for part in parts:
        if part.multi is None:
            continue
        start = 0
        for index, length in zip(part.indices, part.lengths, strict=True):
            values[offsets[index] : offsets[index + 1]] = part.multi[start : start + length - 1]
            start += length - 1
    return MultiBatch(offsets, values)


def _cumulative(sizes: np.typing.NDArray[np.int64]) -> np.typing.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


__all__ = ["DEFAULT_BATCH_TOKENS", "QUERY_MAX_LENGTH", "Encoder", "stored_vectors"]

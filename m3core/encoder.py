"""Texts in, three signals out: one forward pass per text, in token-budget batches, as arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from m3core.batching import TokenBudget, forward_all
from m3core.checkpoint import ModelSpec, model_spec
from m3core.errors import EncodeMemoryError, UsageError
from m3core.fingerprint import encoder_fingerprint
from m3core.gathering import Part, gather_dense, gather_lexical, gather_multi
from m3core.gpu import own_stream, to_device, to_host
from m3core.heads import Linear, read_head
from m3core.lanes import Lanes, lane_count
from m3core.layout import MULTI_HEAD, SPARSE_HEAD
from m3core.lexical import pool_token_weights
from m3core.model import (
    Backbone,
    check_head,
    cls_places,
    dense_vectors,
    load_backbone,
    token_vectors,
    token_weights,
)
from m3core.precision import EXACT, Execution, bound_compiled_products, choose_execution
from m3core.tokenize import TextTokenizer, load_tokenizer
from m3core.types import ALL_SIGNALS, ChunkVectors, Encoded, Float32Array, LexicalBatch, QueryVectors, Signal, TextKind
from m3core.windows import WINDOW_TEXTS, WINDOW_TOKENS, Tokens, read_windows

# Tokens per forward pass: more make a CPU no faster; a GPU is only busy with more.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}
# While one batch is in the model the other's arrays are copied.
_GPU_LANES = 2
_Result = TypeVar("_Result")
# Told of a finished batch: the places of its texts among those that were given, and the tokens of all of them.
BatchProgress = Callable[[Sequence[int], int], None]


@dataclass(frozen=True)
class Encoder:
    """A loaded model. Safe to share between threads; one per process is enough."""

    spec: ModelSpec
    signals: tuple[Signal, ...]
    tokenizer: TextTokenizer
    backbone: Backbone
    sparse_head: Linear | None
    multi_head: Linear | None
    execution: Execution = EXACT
    budget: TokenBudget = field(default_factory=TokenBudget, compare=False)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        signals: Collection[Signal] = ALL_SIGNALS,
        threads: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        long_pooling: str | None = None,
    ) -> Encoder:
        """Load `m3-small`, a model folder, or a hub id with its 40-hex revision.

        `device` is auto, cpu, cuda or cuda:N; `precision` auto, float32, bfloat16, float16 or int8
        (m3core.precision; int8 vectors do not meet the others).
        `long_pooling="mcls"` puts a cls in front of every 256 tokens and averages them, for models that pool cls.
        Raises ModelError if a head for one of `signals` is missing or a file is malformed; nothing is ever made up.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        spec = model_spec(str(name), revision, long_pooling=long_pooling, precision=precision)
        bound_compiled_products()
        execution = choose_execution(device, precision)
        tokenizer = load_tokenizer(spec)
        lexical = read_head(spec.folder, SPARSE_HEAD) if Signal.LEXICAL in signals else None
        multi = read_head(spec.folder, MULTI_HEAD) if Signal.MULTI in signals else None
        encoder = cls(
            spec=spec,
            signals=tuple(signal for signal in ALL_SIGNALS if signal in signals),
            tokenizer=tokenizer,
            backbone=load_backbone(spec).on(execution),
            sparse_head=lexical and check_head(lexical, SPARSE_HEAD, spec, 1).on(execution.device),
            multi_head=multi and check_head(multi, MULTI_HEAD, spec, spec.multi_dim).on(execution.device),
            execution=execution,
        )
        if execution.device != "cpu":
            encoder.encode(["."])  # a GPU's libraries are loaded at their first use
        return encoder

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the vectors that this encoder makes: see m3core.fingerprint."""
        return encoder_fingerprint(self.spec)

    def encode(
        self,
        texts: Sequence[str],
        kind: TextKind = "passage",
        batch_tokens: int | None = None,
        progress: BatchProgress | None = None,
    ) -> Encoded:
        """Encode texts; results are in their order. `progress` is told of each finished batch.

        `batch_tokens` is what goes through the model at once; without it what suits the device (`tokens_at_once`).
        A text longer than the model reads is cut (its eos stays) and marked in `truncated`. Raises UsageError, naming
        its place, for what is no text; EncodeMemoryError, after all others are done, if texts do not fit in memory even
        alone: it names them and holds the rest.
        """
        return self._encode(self._tokenize(texts, kind), batch_tokens, progress)

    def stream(
        self,
        texts: Iterable[str],
        kind: TextKind = "passage",
        batch_tokens: int | None = None,
        progress: BatchProgress | None = None,
        *,
        window: int = WINDOW_TEXTS,
        window_tokens: int = WINDOW_TOKENS,
    ) -> Iterator[Encoded]:
        """Encode any number of texts, at most `window` texts or `window_tokens` tokens at a time: memory stays flat.

        Results are in order; one text with more tokens is a window of its own. A thread reads and tokenizes ahead while
        a window is in the model. `progress` is told of each finished batch, with places within its window. Raises as
        `encode`; the place of what is no text counts from the first text of all.
        """
        windows = read_windows(texts, window, window_tokens)
        read = 0

        def tokenize() -> Tokens:
            nonlocal read
            found = next(windows, [])
            tokens = self._tokenize(found, kind, read)
            read += len(found)
            return tokens

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="m3-tokenize") as ahead:
            waiting = ahead.submit(tokenize)
            while (tokens := waiting.result()).ids:
                waiting = ahead.submit(tokenize)
                for part in tokens.cut(window_tokens):
                    yield self._encode(part, batch_tokens, progress)

    def _tokenize(self, texts: Sequence[str], kind: TextKind, first: int = 0) -> Tokens:
        if kind not in ("query", "passage"):
            raise UsageError(f"kind {kind!r} is neither query nor passage", "encode(texts, kind='query' or 'passage')")
        for index, text in enumerate(texts, start=first):
            _check_text(index, text)
        spec = self.spec
        return Tokens(*self.tokenizer.encode(texts, spec.prefix(kind), spec.limit(kind), spec.cls_stride))

    def _encode(self, tokens: Tokens, batch_tokens: int | None, progress: BatchProgress | None) -> Encoded:
        telling = threading.Lock()

        def forward(indices: list[int]) -> Part:
            part = self._forward(indices, [tokens.ids[index] for index in indices])
            if progress is not None:
                with telling:
                    progress(indices, sum(tokens.lengths[index] for index in indices))
            return part

        parts, alone = self.run_batches(tokens.lengths, batch_tokens, forward)
        encoded = Encoded(
            dense=gather_dense(parts, len(tokens.ids), self.spec.dense_dim) if self._gives(Signal.DENSE) else None,
            lexical=gather_lexical(parts, len(tokens.ids)) if self._gives(Signal.LEXICAL) else None,
            multi=gather_multi(parts, len(tokens.ids), self.spec.multi_dim) if self._gives(Signal.MULTI) else None,
            token_counts=np.asarray(tokens.lengths, dtype=np.int32),
            truncated=np.asarray(tokens.truncated, dtype=np.bool_),
        )
        if alone:
            raise EncodeMemoryError.of(sorted(alone), [tokens.lengths[index] for index in sorted(alone)], encoded)
        return encoded

    def run_batches(
        self, lengths: Sequence[int], batch_tokens: int | None, forward: Callable[[list[int]], _Result]
    ) -> tuple[list[_Result], list[int]]:
        """`m3core.batching.forward_all`, side by side: a CPU's lanes share a batch's tokens, a GPU's do not."""
        at_once = self.tokens_at_once(batch_tokens)
        if self.execution.device == "cpu":
            lanes = lane_count(torch.get_num_threads(), at_once, sum(lengths))
            at_once //= lanes
        else:
            lanes = _GPU_LANES if sum(lengths) > at_once else 1
        side_by_side = partial(self._lanes.run, lanes=lanes) if lanes > 1 else None
        return forward_all(lengths, at_once, self.budget, forward, side_by_side)

    def tokens_at_once(self, asked: int | None) -> int:
        """Tokens of a batch: as asked for, or what suits this device."""
        return _BATCH_TOKENS[self.execution.device.split(":")[0]] if asked is None else asked

    @cached_property
    def _lanes(self) -> Lanes:
        return Lanes(max(_GPU_LANES, torch.get_num_threads()))

    def _gives(self, signal: Signal) -> bool:
        return signal in self.signals

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
    def _forward(self, indices: list[int], token_ids: list[list[int]]) -> Part:
        lengths = [len(ids) for ids in token_ids]
        packed = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.int64)
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        dropped = torch.zeros(len(packed), dtype=torch.bool)
        dropped[starts] = True
        if self.spec.pooling == "mcls":
            dropped |= cls_places(starts, counts, len(packed))
        kept = (~dropped).nonzero().squeeze(1)
        device = self.execution.device
        found: dict[Signal, torch.Tensor] = {}
        with own_stream(device):
            states = self.backbone(to_device(packed, device), lengths).float()
            if self._gives(Signal.DENSE):
                bounds = to_device(starts, device), to_device(counts, device)
                found[Signal.DENSE] = dense_vectors(states, *bounds, self.spec.pooling)
            if self.sparse_head is not None:
                found[Signal.LEXICAL] = token_weights(states, self.sparse_head)
            if self.multi_head is not None:
                found[Signal.MULTI] = token_vectors(states, to_device(kept, device), self.multi_head)
            host = dict(zip(found, (values.numpy() for values in to_host(found.values())), strict=True))
        rows = torch.repeat_interleave(torch.arange(len(lengths)), counts)
        return Part(
            indices,
            torch.bincount(rows[kept], minlength=len(lengths)).tolist(),
            host.get(Signal.DENSE),
            self._pool_lexical(packed, counts, host[Signal.LEXICAL]) if Signal.LEXICAL in host else None,
            host.get(Signal.MULTI),
        )

    def _pool_lexical(self, packed: torch.Tensor, counts: torch.Tensor, weights: Float32Array) -> LexicalBatch:
        return pool_token_weights(
            rows=np.repeat(np.arange(len(counts), dtype=np.int64), counts.numpy()),
            token_ids=packed.numpy(),
            weights=weights,
            dropped_ids=np.array(self.tokenizer.special.weightless, dtype=np.int64),
            texts=len(counts),
        )


def _check_text(index: int, text: str) -> None:
    if not isinstance(text, str):
        raise UsageError(f"text {index} is a {type(text).__name__}, not a str", "give texts")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"text {index} has a lone surrogate at {error.start}, which is no character", "replace or remove it"
        ) from None


def stored_vectors(encoded: Encoded) -> list[ChunkVectors]:
    """The vectors of each text as they are stored: dense and multi in float16, lexical weights exact.

    A signal that was not computed is stored empty.
    """
    rows = []
    empty = np.zeros((0, 0), dtype=np.float16)
    no_ids, no_weights = np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.float32)
    for i in range(len(encoded)):
        ids, weights = encoded.lexical.row(i) if encoded.lexical is not None else (no_ids, no_weights)
        rows.append(
            ChunkVectors(
                dense=empty[0:0].reshape(-1) if encoded.dense is None else encoded.dense[i].astype(np.float16),
                lexical_ids=ids.copy(),
                lexical_weights=weights.copy(),
                multi=empty if encoded.multi is None else encoded.multi.row(i).astype(np.float16),
            )
        )
    return rows


__all__ = ["BatchProgress", "Encoder", "stored_vectors"]

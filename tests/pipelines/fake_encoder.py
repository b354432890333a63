"""An encoder without a model: vectors that follow from the text, for tests and benchmarks of everything around it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from m3core.types import Encoded, LexicalBatch, MultiBatch
from pipelines.ingest.embed import LazyEncoder

_IDS = 600


class _NoHalvings:
    def new_halvings(self) -> int:
        return 0


@dataclass
class FakeEncoder:
    """The same text has the same vectors, in every process; a token is a word."""

    dense_dim: int
    multi_dim: int
    texts: int = 0
    budget: _NoHalvings = field(default_factory=_NoHalvings)

    def encode(
        self,
        texts: Sequence[str],
        kind: str = "passage",
        batch_tokens: int = 0,
        progress: Callable[[Sequence[int], int], None] | None = None,
    ) -> Encoded:
        """As Encoder.encode."""
        self.texts += len(texts)
        words = [np.array([zlib.crc32(word.encode()) for word in text.split()], np.uint32) for text in texts]
        counts = np.array([len(each) + 2 for each in words], np.int32)
        if progress is not None:
            progress(range(len(texts)), int(counts.sum()))
        ids = [np.unique(each % _IDS).astype(np.uint32) for each in words]
        return Encoded(
            dense=self._unit(np.array([zlib.crc32(text.encode()) for text in texts]), self.dense_dim),
            lexical=LexicalBatch(
                np.concatenate([[0], np.cumsum([len(each) for each in ids])]),
                np.concatenate(ids),
                np.ones(sum(map(len, ids)), np.float32),
            ),
            multi=MultiBatch(
                np.concatenate([[0], np.cumsum([len(each) for each in words])]),
                self._unit(np.concatenate(words), self.multi_dim),
            ),
            token_counts=counts,
            truncated=np.zeros(len(texts), bool),
        )

    @staticmethod
    def _unit(seeds: np.ndarray, width: int) -> np.ndarray:
        """`[N, width]` of norm 1, a row per seed."""
        mixed = (
            seeds[:, None].astype(np.uint64) * 2654435761 + np.arange(1, width + 1, dtype=np.uint64) * 40503
        ) % 65521
        values = mixed.astype(np.float32) - 32760.0
        return values / np.linalg.norm(values, axis=1, keepdims=True)


def install(patch: pytest.MonkeyPatch, dense_dim: int, multi_dim: int) -> FakeEncoder:
    """Every run of this process uses one of these."""
    encoder = FakeEncoder(dense_dim, multi_dim)
    patch.setattr(LazyEncoder, "get", lambda self: encoder)
    return encoder

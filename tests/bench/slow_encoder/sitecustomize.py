"""On a worker's path: its encoder is a fake one with a fixed cost per token that leaves the CPU to others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from m3core.types import Encoded
from pipelines.ingest.embed import LazyEncoder
from tests.pipelines.fake_encoder import FakeEncoder

_SECONDS_PER_TOKEN = float(os.environ["M3_BENCH_SECONDS_PER_TOKEN"])


class _Slow(FakeEncoder):
    def encode(
        self,
        texts: Sequence[str],
        kind: str = "passage",
        batch_tokens: int = 0,
        progress: Callable[[Sequence[int], int], None] | None = None,
    ) -> Encoded:
        encoded = super().encode(texts, kind, batch_tokens, progress)
        time.sleep(_SECONDS_PER_TOKEN * int(encoded.token_counts.sum()))
        return encoded


_encoder = _Slow(dense_dim=384, multi_dim=128)
LazyEncoder.get = lambda self: _encoder

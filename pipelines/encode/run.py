"""From texts to written vectors, a window at a time: memory does not grow with the number of texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m3core.errors import EncodeMemoryError, ModelError, UsageError
from m3core.types import Encoded, Float32Array, TextKind
from pipelines.encode.progress import Progress
from pipelines.encode.reading import Text
from pipelines.encode.writing import Writer

if TYPE_CHECKING:
    from m3core.encoder import Encoder


@dataclass
class Counts:
    """What was encoded so far. `limit` is the number of tokens at which texts were cut; None if none was."""

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    limit: int | None = None

    def add(self, encoded: Encoded) -> None:
        """Count the next texts."""
        self.texts += len(encoded)
        self.tokens += int(encoded.token_counts.sum())
        if encoded.truncated.any():
            self.truncated += int(encoded.truncated.sum())
            self.limit = int(encoded.token_counts[encoded.truncated].max())


def encode_texts(encoder: Encoder, texts: Iterable[Text], kind: TextKind, writer: Writer, progress: Progress) -> Counts:
    """Encode all texts into `writer`, in their order.

    Raises what reading `texts` raises, what the writer raises, ModelError if a vector is not finite, and UsageError if
    a text does not fit in memory even alone.
    """
    counts = Counts()
    for ids, encoded in _encoded(encoder, texts, kind, progress):
        _check_finite(encoded, ids)
        writer.add(ids, encoded)
        counts.add(encoded)
    return counts


def _encoded(
    encoder: Encoder, texts: Iterable[Text], kind: TextKind, progress: Progress
) -> Iterator[tuple[list[str], Encoded]]:
    """Ids and vectors of one window of texts after another; `progress` moves with every batch."""
    waiting: deque[tuple[str, int]] = deque()

    def batch_done(places: Sequence[int], tokens: int) -> None:
        progress.encoded(len(places), tokens, sum(waiting[place][1] for place in places))

    try:
        for encoded in encoder.stream(_strings(texts, waiting), kind, progress=batch_done):
            yield [waiting.popleft()[0] for _ in range(len(encoded))], encoded
    except EncodeMemoryError as error:
        # It counts from the first text of the window that failed, which is the first that still waits.
        name, _ = waiting[error.indices[0]]
        raise UsageError(
            f"text {name!r} alone does not fit in the device's memory", "shorten it, or use a device with more memory"
        ) from error


def _strings(texts: Iterable[Text], waiting: deque[tuple[str, int]]) -> Iterator[str]:
    """The texts alone; id and size in bytes of each wait until its vectors come."""
    for one in texts:
        waiting.append((one.id, len(one.text.encode())))
        yield one.text


def _check_finite(encoded: Encoded, ids: Sequence[str]) -> None:
    """JSON has no spelling for what is not finite, and no search has a use for it."""
    for i, name in enumerate(ids):
        if not all(np.isfinite(values).all() for values in _values(encoded, i)):
            raise ModelError(f"the vectors of text {name!r} are not finite", "use other weights; these are damaged")


def _values(encoded: Encoded, i: int) -> Iterator[Float32Array]:
    if encoded.dense is not None:
        yield encoded.dense[i]
    if encoded.lexical is not None:
        yield encoded.lexical.row(i)[1]
    if encoded.multi is not None:
        yield encoded.multi.row(i)

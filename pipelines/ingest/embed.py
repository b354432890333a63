"""The first half of an ingest: chunks whose vectors are not in the lake are encoded, one lake file per unit.

What comes out is references: chunk rows and the places of their vectors. Vectors never leave this half in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.errors import EncodeMemoryError
from pipelines.state.chunks import ChunkRow
from pipelines.state.lake import UNIT_BYTES, UNIT_TOKENS, Lake, LakeRef

if TYPE_CHECKING:
    from m3core.config.model import LoadOptions
    from m3core.encoder import Encoder


@dataclass(frozen=True)
class Reference:
    """Rows of one unit and where their vectors lie: all that passes from embedding to loading.

    They are for `stores`, or (None) for all.
    """

    rows: tuple[ChunkRow, ...]
    vectors: tuple[LakeRef, ...]
    stores: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Refused:
    """A chunk that the encoder or a store will not take, however often it is asked. `stage` is encode or load."""

    chunk_id: str
    stage: str
    reason: str
    store: str = ""


@dataclass(frozen=True)
class UnitLimits:
    """How much one unit, that is one lake file, may hold. `overhead`: tokens that specials and prefix add to a text."""

    dense_dim: int
    multi_dim: int
    overhead: int
    tokens: int = UNIT_TOKENS
    bytes: int = UNIT_BYTES

    def tokens_of(self, row: ChunkRow) -> int:
        """Tokens that the encoder reads for this row."""
        return row.chunk.token_count + self.overhead

    def bytes_of(self, row: ChunkRow) -> int:
        """Most bytes of its stored vectors: f16 dense and multi, u32 + f32 per lexical weight."""
        return 2 * self.dense_dim + self.tokens_of(row) * (2 * self.multi_dim + 8)


class LazyEncoder:
    """One model per process, loaded when the first text must be encoded; threads share it."""

    def __init__(self, folder: Path, options: LoadOptions) -> None:
        self._folder = folder
        self._options = options
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None

    @property
    def loaded(self) -> bool:
        """Whether anything had to be encoded yet."""
        return self._encoder is not None

    def get(self) -> Encoder:
        """The model; the first call reads it from disk."""
        with self._lock:
            if self._encoder is None:
                from m3core.encoder import Encoder

                self._encoder = Encoder.load(self._folder, **self._options)
            return self._encoder


@dataclass(frozen=True)
class EncodeStep:
    """What encoding a unit needs. `say(tokens, text_bytes)` is called after each forward pass."""

    encoder: LazyEncoder
    lake: Lake
    batch_tokens: int | None
    say: Callable[[int, int], None]


@dataclass(frozen=True)
class Work:
    """What encoding one unit took. `tokens` went through the model; `padded_tokens` are those that padding each batch
    to its longest text would have added (ours computes none); `oom_halvings`: batches that did not fit in memory.
    """

    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    oom_halvings: int = 0
    seconds: float = 0.0

    @property
    def counters(self) -> Mapping[str, int]:
        """Whole numbers by name and unit, as an engine adds them up."""
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "padded-tokens": self.padded_tokens,
            "truncated": self.truncated,
            "oom-halvings": self.oom_halvings,
            "encode-msec": round(1000 * self.seconds),
        }


@dataclass(frozen=True)
class Encoded:
    """One finished unit: its reference, what it took, and the chunks that do not fit in the device's memory."""

    reference: Reference
    work: Work = Work()
    refused: tuple[Refused, ...] = ()


def cut_units(rows: Iterable[ChunkRow], limits: UnitLimits) -> Iterable[tuple[ChunkRow, ...]]:
    """Cut rows, in order, into units within both limits; a row beyond them is a unit of its own."""
    unit: list[ChunkRow] = []
    tokens = size = 0
    for row in rows:
        row_tokens, row_bytes = limits.tokens_of(row), limits.bytes_of(row)
        if unit and (tokens + row_tokens > limits.tokens or size + row_bytes > limits.bytes):
            yield tuple(unit)
            unit, tokens, size = [], 0, 0
        unit.append(row)
        tokens, size = tokens + row_tokens, size + row_bytes
    if unit:
        yield tuple(unit)


def split_known(rows: Sequence[ChunkRow], lake: Lake) -> tuple[Reference, list[ChunkRow]]:
    """Rows whose vectors are in the lake, read and found sound, with their places; and the rows to be encoded."""
    places = lake.find({row.lake_key for row in rows}, verify=True)
    known = [row for row in rows if row.lake_key in places]
    new = [row for row in rows if row.lake_key not in places]
    return Reference(tuple(known), tuple(places[row.lake_key] for row in known)), new


def encode_unit(rows: Sequence[ChunkRow], step: EncodeStep) -> Encoded:
    """Encode the texts of one unit that the lake lacks, write one lake file, and refer to all rows.

    Run twice on the same rows, the second run finds every vector in the lake and encodes nothing.
    """
    places = dict(step.lake.find({row.lake_key for row in rows}, verify=True))
    texts = {row.lake_key: row.chunk.encoded_text for row in rows if row.lake_key not in places}
    work = _encode_texts(texts, places, step.encoder.get(), step) if texts else Work()
    done = [row for row in rows if row.lake_key in places]
    refused = [Refused(row.chunk.id, "encode", _TOO_LARGE) for row in rows if row.lake_key not in places]
    reference = Reference(tuple(done), tuple(places[row.lake_key] for row in done))
    return Encoded(reference, work, tuple(refused))


def _encode_texts(texts: dict[str, str], places: dict[str, LakeRef], encoder: Encoder, step: EncodeStep) -> Work:
    """Encode and keep; fills `places`."""
    from m3core.encoder import stored_vectors

    started = time.monotonic()
    keys, bodies = list(texts), list(texts.values())
    sizes = [len(body.encode()) for body in bodies]
    batches: list[Sequence[int]] = []
    missing: tuple[int, ...] = ()

    def batch_done(indices: Sequence[int], tokens: int) -> None:
        batches.append(indices)
        step.say(tokens, sum(sizes[i] for i in indices))

    try:
        encoded = encoder.encode(bodies, "passage", step.batch_tokens, progress=batch_done)
    except EncodeMemoryError as error:
        if error.encoded is None:
            raise
        encoded, missing = error.encoded, error.indices
    kept = [i for i in range(len(keys)) if i not in missing]
    vectors = stored_vectors(encoded)
    if kept:
        written = step.lake.write_unit([keys[i] for i in kept], [vectors[i] for i in kept])
        places.update(zip([keys[i] for i in kept], written, strict=True))
    counts = encoded.token_counts
    return Work(
        texts=len(kept),
        tokens=int(counts[kept].sum()),
        padded_tokens=sum(int(counts[batch].max() * len(batch) - counts[batch].sum()) for batch in batches),
        truncated=int(encoded.truncated[kept].sum()),
        oom_halvings=encoder.budget.new_halvings(),
        seconds=time.monotonic() - started,
    )


_TOO_LARGE = (
    "one text alone does not fit in the device's memory. Remedy: lower chunking.max_tokens, or use a device with more"
)

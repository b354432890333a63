"""Vectors as one npz archive, for `numpy.load`:

    ids             str    [N]
    dense           float32 [N, D]
    lexical_indptr  int64  [N + 1]: text i has lexical_ids[indptr[i]:indptr[i + 1]], and so its weights
    lexical_ids     uint32, ascending within a text
    lexical_weights float32
    multi_offsets   int64  [N + 1]: text i has multi[offsets[i]:offsets[i + 1]]
    multi           float32 [sum T, D']
    tokens          int32  [N]: all that the model read, specials and prefix included
    truncated       bool   [N]: the text was longer than that
    model, fingerprint, text_kind   str []

A signal that was not asked for has no arrays. An archive of arrays needs their sizes first, so everything is gathered
in memory, NPZ_BYTES at most, and joined at the end, which takes as much again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from m3core.errors import UsageError
from m3core.types import Encoded, Int64Array, LexicalBatch, MultiBatch, Signal
from pipelines.encode.origin import Origin

NPZ_BYTES = 2 << 30
# numpy gives every text of an array the room of the longest.
_CHARACTER_BYTES = 4

Arrays = dict[str, npt.NDArray[Any]]


class Npz:
    """A `Writer` that gathers everything. Raises UsageError beyond NPZ_BYTES."""

    def __init__(self, file: BinaryIO, origin: Origin) -> None:
        self._file = file
        self._labels = {name: np.array(value) for name, value in origin.labels.items()}
        self._ids: list[str] = []
        self._longest = 1
        self._bytes = 0
        self._parts = [_arrays(_nothing(origin))]

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        """Keep the vectors."""
        self._ids += ids
        self._longest = max([self._longest, *map(len, ids)])
        self._parts.append(_arrays(encoded))
        self._bytes += sum(array.nbytes for array in self._parts[-1].values())
        if self._bytes + _CHARACTER_BYTES * self._longest * len(self._ids) > NPZ_BYTES:
            raise UsageError(
                f"npz is gathered in memory, {NPZ_BYTES >> 20:,} MiB at most; {len(self._ids):,} texts have more",
                "use --format parquet, which has no limit, or encode fewer texts",
            )

    def finish(self) -> None:
        """Write the archive."""
        joined = {name: _joined(name, [part[name] for part in self._parts]) for name in self._parts[0]}
        np.savez(self._file, allow_pickle=False, ids=np.array(self._ids, dtype=np.str_), **joined, **self._labels)


def _nothing(origin: Origin) -> Encoded:
    """The encoding of no text: its arrays have the shapes and dtypes of any."""
    none = np.zeros(1, np.int64)
    lexical = LexicalBatch(none, np.zeros(0, np.uint32), np.zeros(0, np.float32))
    multi = MultiBatch(none, np.zeros((0, origin.multi_dim), np.float32))
    return Encoded(
        dense=np.zeros((0, origin.dense_dim), np.float32) if Signal.DENSE in origin.signals else None,
        lexical=lexical if Signal.LEXICAL in origin.signals else None,
        multi=multi if Signal.MULTI in origin.signals else None,
        token_counts=np.zeros(0, np.int32),
        truncated=np.zeros(0, np.bool_),
    )


def _arrays(encoded: Encoded) -> Arrays:
    arrays: Arrays = {}
    if encoded.dense is not None:
        arrays["dense"] = encoded.dense
    if encoded.lexical is not None:
        arrays["lexical_indptr"] = encoded.lexical.indptr
        arrays |= {"lexical_ids": encoded.lexical.ids, "lexical_weights": encoded.lexical.weights}
    if encoded.multi is not None:
        arrays |= {"multi_offsets": encoded.multi.offsets, "multi": encoded.multi.values}
    return {**arrays, "tokens": encoded.token_counts, "truncated": encoded.truncated}


def _joined(name: str, parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return _joined_offsets(parts) if name in ("lexical_indptr", "multi_offsets") else np.concatenate(parts)


def _joined_offsets(parts: Sequence[Int64Array]) -> Int64Array:
    """Offsets of parts, each from 0, as offsets of the whole."""
    starts = np.cumsum([0, *(part[-1] for part in parts)])[:-1]
    tails = [part[1:] + start for part, start in zip(parts, starts, strict=True)]
    return np.concatenate([np.zeros(1, np.int64), *tails])

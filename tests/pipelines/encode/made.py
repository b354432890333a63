"""Encodings made up of any numbers, and what is compared of two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from m3core.types import ALL_SIGNALS, Encoded, Float32Array, Int64Array, LexicalBatch, MultiBatch, Signal
from pipelines.encode.origin import Origin

DENSE_DIM, MULTI_DIM = 5, 3
_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def origin(signals: Sequence[Signal] = ALL_SIGNALS) -> Origin:
    """The origin of encodings made here."""
    return Origin("made", "float-00", "passage", tuple(signals), DENSE_DIM, MULTI_DIM)


def _floats(draw: st.DrawFn, *shape: int) -> Float32Array:
    return draw(arrays.arrays(np.float32, shape, elements=_FLOATS))


@st.composite
def encodings(draw: st.DrawFn, signals: Sequence[Signal] = ALL_SIGNALS) -> Encoded:
    """Of 0 to 4 texts, with rows that may be empty."""
    texts = draw(st.integers(0, 4))
    rows = [sorted(draw(st.sets(st.integers(0, 2**32 - 1), max_size=3))) for _ in range(texts)]
    vectors = draw(st.lists(st.integers(0, 3), min_size=texts, max_size=texts))
    kept = sum(map(len, rows))
    ids = np.array([token for row in rows for token in row], np.uint32)
    return Encoded(
        dense=_floats(draw, texts, DENSE_DIM) if Signal.DENSE in signals else None,
        lexical=LexicalBatch(_offsets(map(len, rows)), ids, _floats(draw, kept)) if Signal.LEXICAL in signals else None,
        multi=MultiBatch(_offsets(vectors), _floats(draw, sum(vectors), MULTI_DIM))
        if Signal.MULTI in signals
        else None,
        token_counts=np.arange(texts, dtype=np.int32) + 2,
        truncated=np.array(draw(st.lists(st.booleans(), min_size=texts, max_size=texts)), np.bool_),
    )


def _offsets(sizes: object) -> Int64Array:
    return np.cumsum([0, *list(sizes)], dtype=np.int64)  # type: ignore[call-overload]


def names(encoded: Encoded, start: int = 0) -> list[str]:
    """An id for each text; some are no ASCII."""
    return [f'Ж"{start + i}' if i % 2 else str(start + i) for i in range(len(encoded))]


def row(encoded: Encoded, i: int) -> dict[str, object]:
    """Everything about one text, as lists to compare; exact, since a float32 fits into a float."""
    values: dict[str, object] = {}
    if encoded.dense is not None:
        values["dense"] = encoded.dense[i].tolist()
    if encoded.lexical is not None:
        ids, weights = encoded.lexical.row(i)
        values["lexical"] = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    if encoded.multi is not None:
        values["multi"] = encoded.multi.row(i).tolist()
    return {**values, "tokens": int(encoded.token_counts[i]), "truncated": bool(encoded.truncated[i])}

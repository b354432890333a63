"""Vectors as JSON lines, one object a text:

    {"id": "7", "dense": [...], "lexical": {"<token id>": weight}, "multi": [[...], ...], "tokens": 12,
     "truncated": false}

`dense` has D values, `multi` one list of D' values a token, `tokens` counts all that the model read, specials and
prefix included; `truncated` says that the text was longer than that. A signal that was not asked for has no field.
Values have 9 digits: what a float32 needs to come back the same. ASCII only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from m3core.types import Encoded, Float32Array


class JsonLines:
    """A `Writer` that never holds more than one line; `write` takes text."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        """A line for each text."""
        for i, name in enumerate(ids):
            self._write(f"{_object(name, encoded, i)}\n")


def _object(name: str, encoded: Encoded, i: int) -> str:
    fields = {"id": json.dumps(name)}
    if encoded.dense is not None:
        fields["dense"] = _numbers(encoded.dense[i])
    if encoded.lexical is not None:
        ids, weights = (part.tolist() for part in encoded.lexical.row(i))
        fields["lexical"] = _braced({str(token): f"{weight:.9g}" for token, weight in zip(ids, weights, strict=True)})
    if encoded.multi is not None:
        fields["multi"] = _bracketed([_numbers(vector) for vector in encoded.multi.row(i)])
    fields["tokens"] = str(int(encoded.token_counts[i]))
    fields["truncated"] = "true" if encoded.truncated[i] else "false"
    return _braced(fields)


def _braced(values: dict[str, str]) -> str:
    return "{" + ",".join([f'"{name}":{value}' for name, value in values.items()]) + "}"


def _numbers(vector: Float32Array) -> str:
    return _bracketed([f"{value:.9g}" for value in vector.tolist()])


def _bracketed(values: Sequence[str]) -> str:
    return "[" + ",".join(values) + "]"

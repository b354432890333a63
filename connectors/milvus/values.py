"""Filterable values as Milvus keeps them and is asked for them: digests of strings, ordered integers of numbers.

No string of a row or of a caller ever stands in an expression, only hexadecimal digits and integers that are made here.
(Expression templates would keep values apart as well, but Milvus Lite 3.2 ignores them.) Nothing is ever null, because
servers do not agree on what a negation of null is: what is absent has a value of its own, which no real value has.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping

from connectors.filters.tree import FilterValue
from connectors.protocol import FieldType
from m3core.types import Metadata, MetadataValue

ABSENT_TEXT = ""
# Below the key of every finite number; -2^63 itself cannot be written as a literal.
ABSENT_NUMBER = -(2**63 - 1)
# 128 bits: finding a second string with the digest of a given one takes 2^128 attempts.
DIGEST_LENGTH = 32
_ROW_FIELDS = ("tenant", "acl", "doc_id", "language", "title")
_TEXTS = (FieldType.STRING, FieldType.STRINGS)


def text_key(text: str) -> str:
    """The first 128 bits of the string's SHA-256, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def list_key(texts: Iterable[str]) -> str:
    """Digests of a list's strings with a bar between them: `LIKE '%digest%'` finds each. Empty for an empty list."""
    return "|".join(text_key(text) for text in texts)


def number_key(value: float | int) -> int:
    """An integer that orders as the numbers do, exact for every float64 (IEEE 754, 5.10: bits of magnitudes ascend).

    Booleans are 0.0 and 1.0, -0.0 is 0.0, and integers within 2^53 are floats exactly.
    """
    bits: int = struct.unpack("<q", struct.pack("<d", abs(float(value))))[0]
    return -bits if value < 0 else bits


def value_key(value: FilterValue) -> str | int:
    """A single value as a column holds it."""
    return text_key(value) if isinstance(value, str) else number_key(value)


def columns_of(fields: Mapping[str, FieldType]) -> dict[str, str]:
    """Declared fields to columns `f0`, `f1`, ..: a column's name is ASCII, a field's need not be."""
    return {name: f"f{place}" for place, name in enumerate(sorted(fields))}


def column_of(name: str, fields: Mapping[str, FieldType]) -> str:
    """The column of a filterable field of a row, or of a declared one."""
    return name if name in _ROW_FIELDS else columns_of(fields)[name]


def holds_text(kind: FieldType) -> bool:
    """Whether a field of this type lies in a column of digests; the others lie in one of integers."""
    return FieldType(kind) in _TEXTS


def field_values(metadata: Metadata, fields: Mapping[str, FieldType]) -> dict[str, str | int]:
    """Values of the columns of all declared fields."""
    return {column: _stored(metadata.get(name), FieldType(fields[name])) for name, column in columns_of(fields).items()}


def _stored(value: MetadataValue | None, kind: FieldType) -> str | int:
    if value is None:
        return ABSENT_TEXT if holds_text(kind) else ABSENT_NUMBER
    return list_key(value) if isinstance(value, tuple) else value_key(value)

"""Which fields of JSON lines or Parquet rows are id, text and metadata: a guess from the first rows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3core.config.model import RESERVED_FIELDS, FieldKind
from pipelines.ingest.values import field_kind

# Usual names, most telling first.
_ID_NAMES = ("doc_id", "id", "_id", "docid", "document_id", "uuid", "key", "slug", "url", "path", "name")
_TEXT_NAMES = ("text", "body", "content", "contents", "passage", "document", "article", "abstract", "description")
_LONGEST_ID = 512
_LONGEST_FILTERED = 200
_SHORTEST_TEXT = 20.0


@dataclass(frozen=True)
class Columns:
    """What the first rows suggest. `unused` fields stay outside the collection; `own_acl`: some rows have an acl."""

    id_field: str
    text_field: str
    fields: Mapping[str, FieldKind]
    unused: tuple[str, ...]
    own_acl: bool


def guess_columns(rows: Sequence[Mapping[str, Any]]) -> Columns | None:
    """The fields of `rows`; None if no field can be an id or none can be the text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text_field = _text_field(rows, names)
    id_field = _id_field(rows, [name for name in names if name != text_field])
    if text_field is None or id_field is None:
        return None
    fields = _fields(rows, [name for name in names if name not in {id_field, text_field} | RESERVED_FIELDS])
    nested = [row["metadata"] for row in rows if isinstance(row.get("metadata"), Mapping)]
    inner = list(dict.fromkeys(name for metadata in nested for name in metadata if name not in RESERVED_FIELDS))
    fields |= {name: kind for name, kind in _fields(nested, inner).items() if name not in names}
    known = {id_field, text_field, "title", "language", "tenant", "acl", "metadata", *fields}
    unused = tuple(name for name in names if name not in known)
    return Columns(id_field, text_field, fields, unused, any(row.get("acl") is not None for row in rows))


def _text_field(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> str | None:
    strings = [name for name in names if _kinds(rows, name) == {"string"}]
    for name in _TEXT_NAMES:
        if name in strings:
            return name
    lengths = {name: _mean_length(rows, name) for name in strings if name not in RESERVED_FIELDS - {"text"}}
    longest = max(lengths, key=lambda name: lengths[name], default=None)
    return longest if longest is not None and lengths[longest] >= _SHORTEST_TEXT else None


def _id_field(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> str | None:
    ranked = [name for name in _ID_NAMES if name in names]
    ranked += [name for name in names if name not in ranked and name not in RESERVED_FIELDS]
    return next((name for name in ranked if _identifies(rows, name)), None)


def _identifies(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    usable = all(isinstance(value, str | int) and not isinstance(value, bool) and value != "" for value in values)
    return usable and len({str(value) for value in values}) == len(values) and _longest(rows, name) <= _LONGEST_ID


def _fields(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> dict[str, FieldKind]:
    """The fields whose values are all of one type that can be filtered on; long strings are no filter values."""
    found: dict[str, FieldKind] = {}
    for name in names:
        kinds = _kinds(rows, name)
        if kinds == {"integer", "number"}:
            kinds = {"number"}
        if len(kinds) == 1 and (kinds != {"string"} or _longest(rows, name) <= _LONGEST_FILTERED):
            kind = kinds.pop()
            if kind is not None:
                found[name] = kind
    return found


def _kinds(rows: Sequence[Mapping[str, Any]], name: str) -> set[FieldKind | None]:
    """Types of the values that are there; None stands for one that no field has."""
    return {field_kind(row[name]) for row in rows if row.get(name) not in (None, [], ())}


def _mean_length(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(len(str(row.get(name) or "")) for row in rows) / len(rows)


def _longest(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return max((len(str(row.get(name))) for row in rows), default=0)

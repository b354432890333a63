"""The filter tree as Elasticsearch queries, meaning exactly what `connectors.filters.evaluate` says.

Values are always JSON values of term, terms and range queries; no query language of strings is involved. Negations are
pushed down to the conditions (the tree is two-valued), which keeps the nesting low: the server refuses 30 levels. What
is still deeper goes into a `wrapper` query, whose levels the server counts anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from connectors.filters.bounds import tightest
from connectors.filters.check import check_filter
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or
from connectors.protocol import FieldType

Query = dict[str, Any]

_ROW_FIELDS = ("tenant", "acl", "doc_id", "language", "title")
# Lucene refuses terms beyond 32,766 bytes; a long one is compared by its hash.
_TERM_BYTES = 1024
_HASHED = "\x01sha256:"
_LEVELS = 12


def es_filter(where: Filter, fields: Mapping[str, FieldType]) -> Query:
    """`where` as a query for filter context. Raises FilterError for what no store answers."""
    check_filter(where, fields, by_identity=True)
    return _query(where, negated=False, level=1)


def field_path(name: str) -> str:
    """Where a filterable field of a row, or a declared one, is indexed."""
    return name if name in _ROW_FIELDS else f"fields.{name}"


def indexed_value(value: FilterValue) -> FilterValue:
    """A value as it is indexed and asked for: -0.0 is 0.0, and long text is a hash of itself."""
    if isinstance(value, str):
        return _term(value)
    return value + 0.0 if isinstance(value, float) else value


def _term(text: str) -> str:
    raw = text.encode()
    if len(raw) <= _TERM_BYTES and not text.startswith(_HASHED):
        return text
    return _HASHED + hashlib.sha256(raw).hexdigest()


def _query(where: Filter, *, negated: bool, level: int) -> Query:
    match where:
        case Everything():
            return _constant(not negated)
        case Not(part=part):
            return _query(part, negated=not negated, level=level)
        case And(parts=parts):
            return _joined(parts, "should" if negated else "filter", negated, level)
        case Or(parts=parts):
            return _joined(parts, "filter" if negated else "should", negated, level)
        case _:
            condition = _condition(where)
            return {"bool": {"must_not": [condition]}} if negated else condition


def _joined(parts: tuple[Filter, ...], clause: str, negated: bool, level: int) -> Query:
    if not parts:
        return _constant(clause == "filter")
    if len(parts) == 1:
        return _query(parts[0], negated=negated, level=level)
    deep = level == _LEVELS
    queries = [_query(part, negated=negated, level=1 if deep else level + 1) for part in parts]
    joined: Query = {"bool": {clause: queries}}
    if clause == "should":
        joined["bool"]["minimum_should_match"] = 1
    return {"wrapper": {"query": base64.b64encode(json.dumps(joined).encode()).decode()}} if deep else joined


def _constant(every: bool) -> Query:
    return {"match_all": {}} if every else {"match_none": {}}


def _condition(where: Equals | AnyOf | Between | Exists) -> Query:
    path = field_path(where.field)
    match where:
        case Equals(value=value):
            return {"term": {path: {"value": indexed_value(value)}}}
        case AnyOf(values=values):
            return {"terms": {path: [indexed_value(value) for value in values]}} if values else _constant(False)
        case Between():
            one = tightest(where)
            bounds = {"gt": one.gt, "gte": one.gte, "lt": one.lt, "lte": one.lte}
            given = {name: indexed_value(bound) for name, bound in bounds.items() if bound is not None}
            return {"range": {path: given}} if given else {"exists": {"field": path}}
        case Exists():
            return {"exists": {"field": path}}

"""The filter tree as a Milvus expression, meaning exactly what `connectors.filters.evaluate` says.

An expression is made of column names, digests and integers only (`values.py`), so there is nothing to escape; columns
have no nulls, so `not` is two-valued on every server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from connectors.filters.bounds import tightest
from connectors.filters.check import check_filter, field_type
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or
from connectors.milvus.values import ABSENT_NUMBER, ABSENT_TEXT, column_of, holds_text, number_key, value_key
from connectors.protocol import FieldType

# Every row has an id.
EVERY_ROW = 'id != ""'
_NO_ROW = 'id == ""'
# A chunk's id, or a part's.
_ID = re.compile(r"[0-9a-f-]{36}(/[0-9]+)?")


def milvus_filter(where: Filter, fields: Mapping[str, FieldType]) -> str:
    """`where` as an expression. Raises FilterError for what no store answers."""
    check_filter(where, fields, by_identity=True)
    return _expression(where, fields)


def among(ids: Sequence[str], conditions: str = EVERY_ROW, column: str = "id") -> str:
    """Rows of `ids` that pass `conditions`. Raises ValueError for an id that `known_form` does not let through."""
    for chunk_id in ids:
        if not _ID.fullmatch(chunk_id):
            raise ValueError("ids are checked by known_form before they stand in an expression")
    listed = f"{column} in {_listed(ids)}"
    return listed if conditions == EVERY_ROW else f"{listed} and ({conditions})"


def _expression(where: Filter, fields: Mapping[str, FieldType]) -> str:
    match where:
        case Everything():
            return EVERY_ROW
        case Not(part=part):
            return f"not ({_expression(part, fields)})"
        case And(parts=parts):
            return _joined(" and ", [_expression(part, fields) for part in parts]) or EVERY_ROW
        case Or(parts=parts):
            return _joined(" or ", [_expression(part, fields) for part in parts]) or _NO_ROW
        case _:
            kind = field_type(where.field, fields, by_identity=True)
            return _condition(where, kind, column_of(where.field, fields))


def _joined(word: str, parts: Iterable[str]) -> str:
    return word.join(f"({part})" for part in parts)


def _condition(where: Equals | AnyOf | Between | Exists, kind: FieldType, column: str) -> str:
    match where:
        case Exists():
            return f'{column} != "{ABSENT_TEXT}"' if holds_text(kind) else f"{column} > {ABSENT_NUMBER}"
        case Equals(value=value):
            return _any_of(column, kind, (value,))
        case AnyOf(values=values):
            return _any_of(column, kind, values)
        case Between():
            return _between(column, tightest(where))


def _any_of(column: str, kind: FieldType, values: tuple[FilterValue, ...]) -> str:
    keys = list(dict.fromkeys(value_key(value) for value in values))
    if not keys:
        return _NO_ROW
    if kind is FieldType.STRINGS:
        return _joined(" or ", [f"{column} like '%{key}%'" for key in keys])
    return f"{column} in {_listed(keys)}"


def _between(column: str, where: Between) -> str:
    """Bounds on the keys of numbers. Without one below, what is absent has to be excluded."""
    bounds = ((">", where.gt), (">=", where.gte), ("<", where.lt), ("<=", where.lte))
    parts = [f"{column} {sign} {number_key(bound)}" for sign, bound in bounds if bound is not None]
    if where.gt is None and where.gte is None:
        parts.append(f"{column} > {ABSENT_NUMBER}")
    return " and ".join(parts)


def _listed(keys: Iterable[str | int]) -> str:
    return "[" + ", ".join(f'"{key}"' if isinstance(key, str) else str(key) for key in keys) + "]"

"""The part of Milvus's expression language that we compile filters to; anything else is refused, as a server would.

    or:         and ("or" and)*
    and:        factor ("and" factor)*
    factor:     "not" factor | "(" or ")" | condition
    condition:  column ("==" | "!=" | "<" | "<=" | ">" | ">=") value | column "in" "[" values "]" | column "like" text

No column has nulls, so there is nothing to say about them.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
Predicate = Callable[[Row], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"\\]*"|'[^'\\]*')|(?P<number>-?\d+)|(?P<sign>==|!=|<=|>=|<|>|[(),\[\]])|(?P<name>[A-Za-z_]\w*))"""
)
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_LEAST, _MOST = -(2**63) + 1, 2**63 - 1


def predicate(expression: str, types: Mapping[str, type]) -> Predicate:
    """What the expression says of a row; no expression says yes. Raises ValueError for one that is malformed, names a
    column that is not in `types`, or compares one with a value of another type."""
    if not expression:
        return lambda row: True
    parser = _Parser(expression, types)
    found = parser.disjunction()
    parser.expect("")
    return found


class _Parser:
    def __init__(self, expression: str, types: Mapping[str, type]) -> None:
        self._tokens = _tokens(expression)
        self._types = types
        self._at = 0

    def disjunction(self) -> Predicate:
        parts = self._joined("or", self._conjunction)
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def expect(self, text: str) -> None:
        if self._take()[1] != text:
            raise ValueError(f"{text or 'the end'} is expected")

    def _conjunction(self) -> Predicate:
        parts = self._joined("and", self._factor)
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _joined(self, word: str, part: Callable[[], Predicate]) -> list[Predicate]:
        parts = [part()]
        while self._is(word):
            self._take()
            parts.append(part())
        return parts

    def _factor(self) -> Predicate:
        if self._is("not"):
            self._take()
            inner = self._factor()
            return lambda row: not inner(row)
        if self._is("("):
            self._take()
            inner = self.disjunction()
            self.expect(")")
            return inner
        return self._condition()

    def _condition(self) -> Predicate:
        kind, column = self._take()
        if kind != "name" or column not in self._types:
            raise ValueError(f"{column!r} is no column")
        sign = self._take()[1]
        if sign == "in":
            values = frozenset(self._values(column))
            return lambda row: row[column] in values
        if sign == "like":
            return _like(column, self._value(column))
        if sign not in _SIGNS:
            raise ValueError(f"{sign!r} is no operator")
        compare, value = _SIGNS[sign], self._value(column)
        return lambda row: compare(row[column], value)

    def _values(self, column: str) -> list[Any]:
        self.expect("[")
        values = [self._value(column)]
        while self._is(","):
            self._take()
            values.append(self._value(column))
        self.expect("]")
        return values

    def _value(self, column: str) -> Any:
        kind, text = self._take()
        if kind not in ("text", "number"):
            raise ValueError(f"{text!r} is no value")
        value = text[1:-1] if kind == "text" else int(text)
        if not isinstance(value, self._types[column]):
            raise ValueError(f"column {column} is compared with {type(value).__name__}")
        if isinstance(value, int) and not _LEAST <= value <= _MOST:
            raise ValueError(f"{value} is beyond 64 bits")
        return value

    def _is(self, text: str) -> bool:
        return self._tokens[self._at][0] != "text" and self._tokens[self._at][1] == text

    def _take(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at += 1
        return token


def _tokens(expression: str) -> list[tuple[str, str]]:
    """(kind, text) of each, and of the end."""
    found: list[tuple[str, str]] = []
    at, end = 0, len(expression.rstrip())
    while at < end:
        match = _TOKEN.match(expression, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"unexpected character {json.dumps(expression[at])}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return [*found, ("end", "")]


def _like(column: str, pattern: str) -> Predicate:
    inner = pattern[1:-1]
    if len(pattern) < 3 or pattern[0] != "%" or pattern[-1] != "%" or "%" in inner or "_" in inner:
        raise ValueError("only '%text%' is known here")
    return lambda row: inner in row[column]

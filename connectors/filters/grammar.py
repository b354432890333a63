"""The filter language: text to tree. Grammar, loosest binding first:

    filter     = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | "(" filter ")" | "true" | "false" | condition
    condition  = "exists" "(" field ")" | field operator value | field ["not"] "in" "(" [ value { "," value } ] ")"
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">="
    value      = "text" | 'text' | number | "true" | "false"

Words of the language are read in any case, field names exactly. Escapes in text are \\\\ \\" \\' \\n \\r \\t and
\\uXXXX. `true` matches every row, `false` none. An absent field, null and an empty list are the same, so
`year != 2024` and `not year > 2024` match rows without a year.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from connectors.filters.check import KEYWORDS, MAX_DEPTH, check_condition, check_filter, field_type
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or
from connectors.protocol import FieldType
from m3core.errors import FilterError

MAX_BYTES = 4096

_T = TypeVar("_T")

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<word>[^\W\d][\w-]*)
    | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<mark>!=|<=|>=|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_EXAMPLE = 'a filter looks like: language = "de" and year >= 2024'


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """The lower-cased word if this is a word of the language, else nothing."""
        lowered = self.text.casefold()
        return lowered if self.kind == "word" and lowered in KEYWORDS else ""


def parse_filter(text: str, fields: Mapping[str, FieldType]) -> Filter:
    """Read a filter over the declared `fields` and the built-in ones.

    Raises FilterError with the position (characters, from 1), the value, the rule and the nearest name.
    """
    size = len(_utf8(text))
    if size > MAX_BYTES:
        raise FilterError(f"the filter has {size} bytes; at most {MAX_BYTES} are allowed", "shorten it")
    where = _Parser(text, fields).parse()
    check_filter(where, fields)
    return where


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FilterError(
            f"filter, character {error.start + 1}: a lone surrogate is not a character", "send valid Unicode text"
        ) from None


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, fields: Mapping[str, FieldType]) -> None:
        self._tokens = _tokens(text)
        self._fields = fields
        self._next = 0
        self._depth = 0

    def parse(self) -> Filter:
        where = self._disjunction()
        if self._peek().kind != "end":
            raise _error(self._peek(), "'and', 'or' or the end of the filter")
        return where

    def _disjunction(self) -> Filter:
        parts = self._joined(self._conjunction, "or")
        return parts[0] if len(parts) == 1 else Or(parts)

    def _conjunction(self) -> Filter:
        parts = self._joined(self._negation, "and")
        return parts[0] if len(parts) == 1 else And(parts)

    def _joined(self, part: Callable[[], Filter], word: str) -> tuple[Filter, ...]:
        parts = [part()]
        while self._peek().word == word:
            self._take()
            parts.append(part())
        return tuple(parts)

    def _negation(self) -> Filter:
        token = self._peek()
        if token.word == "not":
            self._take()
            return self._deeper(token, lambda: Not(self._negation()))
        if token.text == "(" and token.kind == "mark":
            self._take()
            where = self._deeper(token, self._disjunction)
            self._expect(")")
            return where
        if token.word in ("true", "false"):
            self._take()
            return Everything() if token.word == "true" else Or(())
        return self._condition()

    def _deeper(self, token: _Token, part: Callable[[], Filter]) -> Filter:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FilterError(
                f"filter, character {token.at}: nested deeper than {MAX_DEPTH} levels",
                "write it flatter, with in (...) lists",
            )
        where = part()
        self._depth -= 1
        return where

    def _condition(self) -> Filter:
        token = self._take()
        if token.word == "exists":
            self._expect("(")
            name, _ = self._field(self._take())
            self._expect(")")
            return Exists(name)
        name, kind = self._field(token)
        operator = self._take()
        if operator.word == "not" and self._peek().word == "in":
            self._take()
            return Not(self._any_of(name, kind))
        if operator.word == "in":
            return self._any_of(name, kind)
        return self._comparison(name, kind, operator)

    def _field(self, token: _Token) -> tuple[str, FieldType]:
        if token.kind == "text":
            raise FilterError(
                f"filter, character {token.at}: {_shown(token)} stands where a field belongs",
                "write the field without quotes, its value after it",
            )
        if token.kind != "word" or token.word:
            raise _error(token, "a field, 'not', 'exists' or '('")
        return token.text, _at(token, lambda: field_type(token.text, self._fields))

    def _comparison(self, name: str, kind: FieldType, operator: _Token) -> Filter:
        build = _OPERATORS.get(operator.text) if operator.kind == "mark" else None
        if build is None:
            remedy = _OPERATOR_REMEDIES.get(operator.text.casefold())
            raise _error(operator, "=, !=, <, <=, >, >=, 'in' or 'not in'", remedy)
        token = self._peek()
        condition, negated = build(name, self._value())
        _at(token, lambda: check_condition(condition, kind))
        return Not(condition) if negated else condition

    def _any_of(self, name: str, kind: FieldType) -> AnyOf:
        self._expect("(")
        values: list[FilterValue] = []
        while self._peek().text != ")" or self._peek().kind != "mark":
            if values:
                self._expect(",", "',' or ')'")
            token = self._peek()
            values.append(self._value())
            _at(token, lambda: check_condition(Equals(name, values[-1]), kind))
        self._take()
        return AnyOf(name, tuple(values))

    def _value(self) -> FilterValue:
        token = self._take()
        if token.word in ("true", "false"):
            return token.word == "true"
        if token.kind == "number":
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        if token.kind == "text":
            return _unquoted(token)
        if token.word == "null":
            raise _error(token, "a value", "there is no null: write not exists(field)")
        remedy = f'put text in quotes: "{token.text}"' if token.kind == "word" else None
        raise _error(token, "a value", remedy)

    def _expect(self, mark: str, wanted: str = "") -> None:
        token = self._take()
        if token.kind != "mark" or token.text != mark:
            raise _error(token, wanted or repr(mark))

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token


def _between(bound: str) -> Callable[[str, FilterValue], tuple[Between, bool]]:
    # Whether the value is a number at all is for check_condition to say.
    return lambda name, value: (Between(name, **{bound: value}), False)  # type: ignore[arg-type]


_OPERATORS: Mapping[str, Callable[[str, FilterValue], tuple[Equals | Between, bool]]] = {
    "=": lambda name, value: (Equals(name, value), False),
    "!=": lambda name, value: (Equals(name, value), True),
    "<": _between("lt"),
    "<=": _between("lte"),
    ">": _between("gt"),
    ">=": _between("gte"),
}
_OPERATOR_REMEDIES = {
    "==": "write =",
    "is": "write =, or not exists(field) for fields that are not there",
    "like": "filters compare whole values; words are the query's",
}


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise _unreadable(text, at + len(text[at:]) - len(text[at:].lstrip()))
        tokens.append(_Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1))
        at = found.end()
    return [*tokens, _Token("end", "", len(text) + 1)]


def _unreadable(text: str, at: int) -> FilterError:
    place = f"filter, character {at + 1}"
    if text[at] in "\"'":
        return FilterError(f"{place}: a text starts here and does not end", f"close it with {text[at]}")
    if text[at].isdigit() or text[at] in "+-.":
        return FilterError(f"{place}: {text[at : at + 20]!a} is not a number", "put text in quotes")
    return FilterError(f"{place}: {text[at]!a} is not part of the filter language", _EXAMPLE)


def _unquoted(token: _Token) -> str:
    def plain(found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) == 5:
            code = int(escape[1:], 16)
            if not 0xD800 <= code < 0xE000:
                return chr(code)
        elif escape in _ESCAPES:
            return _ESCAPES[escape]
        raise FilterError(
            f"filter, character {token.at + found.start() + 1}: {found[0]!a} is not an escape",
            r"use \\ \" \' \n \r \t or \uXXXX (no surrogates)",
        )

    return _ESCAPE.sub(plain, token.text[1:-1])


def _at(token: _Token, check: Callable[[], _T]) -> _T:
    try:
        return check()
    except FilterError as error:
        raise FilterError(f"filter, character {token.at}: {error.message}", error.remedy) from None


def _error(token: _Token, wanted: str, remedy: str | None = None) -> FilterError:
    found = "the filter ends" if token.kind == "end" else f"{_shown(token)} stands"
    return FilterError(f"filter, character {token.at}: {found} where {wanted} belongs", remedy or _EXAMPLE)


def _shown(token: _Token) -> str:
    text = token.text if token.text.isprintable() else ascii(token.text)[1:-1]
    return f"'{text}'" if len(text) <= 40 else f"'{text[:37]}...'"

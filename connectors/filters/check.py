"""Which filters are allowed: declared fields, matching types, exact numbers, bounded size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from connectors.filters.tree import (
    BUILT_IN_FIELDS,
    IDENTITY_FIELDS,
    And,
    AnyOf,
    Between,
    Equals,
    Everything,
    Exists,
    Filter,
    FilterValue,
    Not,
    Or,
)
from connectors.protocol import FieldType
from m3core.errors import ConfigError, FilterError
from m3core.nearest import did_you_mean

MAX_DEPTH = 32
MAX_VALUES = 1000
# Beyond it neighbouring integers become one float64, and stores that compare as floats match the wrong row.
MAX_INTEGER = 2**53

KEYWORDS = frozenset({"and", "or", "not", "in", "exists", "true", "false", "null"})
NAME_PATTERN = re.compile(r"[^\W\d][\w-]{0,63}")

_RANGED = (FieldType.INTEGER, FieldType.NUMBER)
_BUILT_IN_TYPES: Mapping[str, FieldType] = dict.fromkeys(BUILT_IN_FIELDS, FieldType.STRING)
_IDENTITY_TYPES: Mapping[str, FieldType] = {"tenant": FieldType.STRING, "acl": FieldType.STRINGS}


def check_field_names(fields: Mapping[str, FieldType]) -> None:
    """Every declared field can be named in a filter; raises ConfigError otherwise."""
    for name in fields:
        if not NAME_PATTERN.fullmatch(name):
            raise ConfigError(
                f"field {_shown(name)} cannot be named in a filter: a name is a letter, then letters, digits, _ or -",
                "rename the metadata field",
            )
        if name.casefold() in KEYWORDS or name in BUILT_IN_FIELDS or name in IDENTITY_FIELDS:
            raise ConfigError(f"field {name!r} is a word of the filter language itself", "rename the metadata field")


def check_filter(where: Filter, fields: Mapping[str, FieldType], *, by_identity: bool = False) -> None:
    """Raise FilterError unless every store can answer `where` exactly.

    `fields` are the declared ones. `by_identity` allows tenant and acl as well: for filters that
    `connectors.filters.identity` completed, never for what a user wrote.
    """
    values = 0
    for condition, depth in _walk(where, 1):
        if depth > MAX_DEPTH:
            raise FilterError(
                f"the filter is nested deeper than {MAX_DEPTH} levels", "write it flatter, with in (...) lists"
            )
        if isinstance(condition, Everything | Not | And | Or):
            continue
        kind = field_type(condition.field, fields, by_identity=by_identity)
        check_condition(condition, kind)
        values += 0 if condition.field in IDENTITY_FIELDS else len(_values(condition))
    if values > MAX_VALUES:
        raise FilterError(f"the filter has {values} values; at most {MAX_VALUES} are allowed", "split the request")


def field_type(name: str, fields: Mapping[str, FieldType], *, by_identity: bool = False) -> FieldType:
    """Type of a field that may be filtered on; raises FilterError for any other name."""
    known = {**_BUILT_IN_TYPES, **fields}
    if by_identity:
        known |= _IDENTITY_TYPES
    elif name in IDENTITY_FIELDS:
        raise FilterError(
            f"{name} cannot be filtered on: it comes from the caller's identity", "leave it out of the filter"
        )
    if name not in known:
        raise FilterError(f"field {_shown(name)} is not declared", did_you_mean(name, known))
    return FieldType(known[name])


def check_condition(condition: Equals | AnyOf | Between | Exists, kind: FieldType) -> None:
    """Raise FilterError if the condition does not suit a field of type `kind`."""
    if isinstance(condition, Exists):
        return
    if isinstance(condition, Between) and kind not in _RANGED:
        raise FilterError(
            f"field {condition.field!r} is of type {kind}, and <, <=, >, >= need an integer or a number",
            "compare it with =, != or in",
        )
    for value in _values(condition):
        _check_value(condition.field, kind, value)


def _check_value(name: str, kind: FieldType, value: FilterValue) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    suits = {
        FieldType.STRING: isinstance(value, str),
        FieldType.STRINGS: isinstance(value, str),
        FieldType.BOOLEAN: isinstance(value, bool),
        FieldType.INTEGER: number and isinstance(value, int),
        FieldType.NUMBER: number,
    }[kind]
    if not suits:
        raise FilterError(f"field {name!r} is of type {kind}; {_shown(value)} is not", f"write {_EXAMPLES[kind]}")
    if isinstance(value, str) and not _is_unicode(value):
        raise FilterError(f"{_shown(value)} has a lone surrogate, which is not a character", "send valid Unicode text")
    if number and not (isinstance(value, int) or math.isfinite(float(value))):
        raise FilterError(f"{_shown(value)} is not a finite number", "use a number that a float64 holds")
    if number and isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise FilterError(
            f"integer {_shown(value)} is beyond 2^53, where stores no longer tell neighbours apart",
            "keep such identifiers in a string field",
        )


def _is_unicode(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


_EXAMPLES = {
    FieldType.STRING: 'text in quotes, such as "de"',
    FieldType.STRINGS: 'text in quotes, such as "de"',
    FieldType.BOOLEAN: "true or false",
    FieldType.INTEGER: "a whole number, such as 2024",
    FieldType.NUMBER: "a number, such as 0.5",
}


def _values(condition: Equals | AnyOf | Between | Exists) -> tuple[FilterValue, ...]:
    match condition:
        case Equals(value=value):
            return (value,)
        case AnyOf(values=values):
            return values
        case Between(gt=gt, gte=gte, lt=lt, lte=lte):
            return tuple(bound for bound in (gt, gte, lt, lte) if bound is not None)
        case Exists():
            return ()


def _walk(where: Filter, depth: int) -> Iterator[tuple[Filter, int]]:
    """Every node with its depth; goes one level beyond the limit and no deeper."""
    pending = [(where, depth)]
    while pending:
        node, level = pending.pop()
        yield node, level
        if isinstance(node, Not):
            pending.append((node.part, level + 1))
        elif isinstance(node, And | Or):
            pending.extend((part, level + 1) for part in node.parts)


def _shown(value: FilterValue) -> str:
    """The value as an error shows it: quoted, on one line, at most 60 characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""The canonical text of a filter: what logs, plans and cursors show, and what the grammar reads back."""

from __future__ import annotations

from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or

_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# How tightly a text binds: a part is put in parentheses where it binds looser than its place asks.
_OR, _AND, _UNARY = 0, 1, 2


def format_filter(where: Filter) -> str:
    """Text that `parse_filter` reads as an equal filter (the same tree, if that came from `parse_filter`)."""
    return _format(where)[0]


def _format(where: Filter) -> tuple[str, int]:
    match where:
        case Everything() | And(parts=()):
            return "true", _UNARY
        case Or(parts=()):
            return "false", _UNARY
        case Not(part=Equals(field=name, value=value)):
            return f"{name} != {_value(value)}", _UNARY
        case Not(part=part):
            return f"not {_placed(part, _UNARY)}", _UNARY
        case And(parts=(only,)) | Or(parts=(only,)):
            return _format(only)
        case And(parts=parts):
            return " and ".join(_placed(part, _UNARY) for part in parts), _AND
        case Or(parts=parts):
            return " or ".join(_placed(part, _AND) for part in parts), _OR
        case _:
            return _condition(where)


def _placed(part: Filter, least: int) -> str:
    text, binds = _format(part)
    return text if binds >= least else f"({text})"


def _condition(where: Equals | AnyOf | Between | Exists) -> tuple[str, int]:
    match where:
        case Exists(field=name):
            return f"exists({name})", _UNARY
        case Equals(field=name, value=value):
            return f"{name} = {_value(value)}", _UNARY
        case AnyOf(field=name, values=values):
            return f"{name} in ({', '.join(_value(value) for value in values)})", _UNARY
        case Between(field=name, gt=gt, gte=gte, lt=lt, lte=lte):
            bounds = ((">", gt), (">=", gte), ("<", lt), ("<=", lte))
            parts = [f"{name} {sign} {_value(bound)}" for sign, bound in bounds if bound is not None]
            return " and ".join(parts) or f"exists({name})", _UNARY if len(parts) < 2 else _AND


def _value(value: FilterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_character(character) for character in value) + '"'
    return repr(value)


def _character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    return character if character.isprintable() or ord(character) > 0xFFFF else f"\\u{ord(character):04x}"

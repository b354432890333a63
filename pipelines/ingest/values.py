"""Checks of values that several fields share. Messages name the field, the rule and the place, never the value."""

from __future__ import annotations

import json
import re
from typing import Any

from m3core.config.model import FieldKind
from m3core.errors import DocumentError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_REFUSED_IN_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def check_characters(text: str, name: str) -> None:
    """Refuse NUL and lone surrogates, which no store and no tokenizer takes. Raises DocumentError."""
    found = _REFUSED_IN_TEXT.search(text)
    if found:
        code = ord(found.group())
        what = "NUL" if code == 0 else "a lone surrogate"
        raise DocumentError(f"{name} has U+{code:04X} ({what}) at code point {found.start()}", "clean the text")


def short_string(value: str, name: str, limit: int) -> str:
    """The value, if it has 1 to `limit` code points, not all blank, none a control. Raises DocumentError."""
    if not value or value.isspace():
        raise DocumentError(f"{name} is empty", f"give a {name} of 1 to {limit} code points")
    if len(value) > limit:
        raise DocumentError(
            f"{name} has {len(value):,} code points; at most {limit} are allowed", f"shorten the {name}"
        )
    found = _CONTROL.search(value)
    if found:
        code = ord(found.group())
        raise DocumentError(f"{name} has control character U+{code:04X} at code point {found.start()}", "remove it")
    return value


def parse_json(data: str | bytes, what: str) -> Any:
    """A JSON value; stricter than the standard library, which lets NaN and repeated keys pass.

    Raises:
        DocumentError: `data` is not JSON, with the place of the fault.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        raise DocumentError(f"{what} is not UTF-8 at byte {error.start}", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DocumentError(f"{what} is not JSON at code point {error.pos}: {error.msg}", "correct it") from None
    except RecursionError:
        raise DocumentError(f"{what} is nested too deeply", "flatten it") from None
    except ValueError:
        raise DocumentError(f"{what} has an integer of more digits than are read", "give it as a string") from None


def _refuse_constant(name: str) -> None:
    raise DocumentError(f"{name} is no JSON number", "leave the field out")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise DocumentError("a field is given twice in one object", "give it once")
    return values


def kind_of(value: object) -> str:
    """What a value is, in words for a message."""
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "an integer", float: "a number", list: "a list", tuple: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def field_kind(value: object) -> FieldKind | None:
    """The type under which a metadata field with this value is declared; None if no field can hold it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return "strings"
    return None

"""What is wrong with a configuration, in our words: where it stands, the key, its value, the rule and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from m3core.config.keys import field_at, is_list, is_table, known_keys, type_at
from m3core.config.positions import KeyPath
from m3core.config.toml import toml_value
from m3core.errors import ConfigError
from m3core.nearest import did_you_mean
from m3core.terminal import plain

_SHOWN_LENGTH = 60
_PYDANTIC_KEY_MARK = "[key]"


@dataclass(frozen=True)
class Origins:
    """Where each key of one configuration came from."""

    file: str
    lines: Mapping[KeyPath, int]
    variables: Mapping[KeyPath, str]

    def of(self, path: KeyPath) -> str:
        """`m3.toml:14`, `environment M3_SEARCH__LIMIT` or `default`, for the key itself."""
        if path in self.variables:
            return f"environment {self.variables[path]}"
        if path in self.lines:
            return f"{self.file}:{self.lines[path]}"
        return "default"

    def near(self, path: KeyPath) -> str:
        """The same for the key or the innermost table around it that was written down; else the file."""
        while path:
            origin = self.of(path)
            if origin != "default":
                return origin
            path = path[:-1]
        return self.file


def config_error(error: ValidationError, origins: Origins) -> ConfigError:
    """The first problem of `error` as one line; the others are counted."""
    # A wrong entry of a list also makes the list too short for pydantic; one problem a key is enough.
    details = list({_key_path(detail["loc"]): detail for detail in reversed(error.errors(include_url=False))}.values())
    first = describe(details[-1], origins)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return ConfigError(first.message + more, first.remedy)


def describe(detail: ErrorDetails, origins: Origins) -> ConfigError:
    """One problem that pydantic found."""
    kind, context = detail["type"], detail.get("ctx", {})
    path = _key_path(detail["loc"])
    if kind == "extra_forbidden":
        return _unknown_key(path, origins)
    if kind == "missing":
        return _missing_key(path, origins)
    if kind == "broken_rule":
        path = tuple(context["at"].split("."))
        return ConfigError(f"{origins.near(path)} {context['at']} {context['rule']}", context["remedy"])
    if _PYDANTIC_KEY_MARK in detail["loc"]:
        return ConfigError(
            f"{origins.near(path)} {dotted(path)}: {path[-1]!r} is no name", _pattern_remedy(context["pattern"])
        )
    return bad_value(
        path, detail["input"], _rule(kind, context, path, detail["msg"]), _remedy(kind, context, detail), origins
    )


def bad_value(path: KeyPath, value: object, rule: str, remedy: str, origins: Origins) -> ConfigError:
    """`m3.toml:14 search.limit = 0: must be at least 1`, with its remedy."""
    shown = plain(toml_value(value))
    if len(shown) > _SHOWN_LENGTH:
        shown = shown[: _SHOWN_LENGTH - 1] + "…"
    return ConfigError(f"{origins.near(path)} {dotted(path)} = {shown}: {rule}", remedy or _default_remedy(path))


def dotted(path: KeyPath) -> str:
    """The key as errors name it."""
    return ".".join(plain(part) for part in path)


def _key_path(location: tuple[int | str, ...]) -> KeyPath:
    return tuple(part for part in location if isinstance(part, str) and part != _PYDANTIC_KEY_MARK)


def _unknown_key(path: KeyPath, origins: Origins) -> ConfigError:
    # Its value is not shown: what stands under a name that we do not know may be a secret.
    remedy = did_you_mean(path[-1], known_keys(path[:-1]))
    return ConfigError(f"{origins.near(path)} {dotted(path)}: no such key", remedy)


def _missing_key(path: KeyPath, origins: Origins) -> ConfigError:
    annotation = type_at(path)
    if is_table(annotation):
        remedy = f"add a table [{dotted(path)}]" if known_keys(path) else f"add a table [{dotted(path)}.NAME]"
    else:
        remedy = f"add {path[-1]} to [{dotted(path[:-1])}]"
    return ConfigError(f"{origins.near(path)} {dotted(path)} is missing", remedy)


def _rule(kind: str, context: Mapping[str, Any], path: KeyPath, message: str) -> str:
    template = _RULES.get(kind)
    if template is not None:
        return template(context, path)
    return message[:1].lower() + message[1:]


def _plural(n: object, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


_Template = Callable[[Mapping[str, Any], KeyPath], str]
_RULES: dict[str, _Template] = {
    "int_type": lambda _, __: "must be a whole number",
    "int_from_float": lambda _, __: "must be a whole number",
    "float_type": lambda _, __: "must be a number",
    "finite_number": lambda _, __: "must be a finite number",
    "bool_type": lambda _, __: "must be true or false",
    "string_type": lambda _, __: "must be a string",
    "path_type": lambda _, __: "must be a string",
    "tuple_type": lambda _, __: "must be a list",
    "dict_type": lambda _, __: "must be a table",
    "model_type": lambda _, __: "must be a table",
    "greater_than_equal": lambda context, _: f"must be at least {_number(context['ge'])}",
    "greater_than": lambda context, _: f"must be more than {_number(context['gt'])}",
    "less_than_equal": lambda context, _: f"must be at most {_number(context['le'])}",
    "string_too_short": lambda context, _: f"must have at least {_plural(context['min_length'], 'character')}",
    "string_too_long": lambda context, _: f"must have at most {_plural(context['max_length'], 'character')}",
    "string_pattern_mismatch": lambda context, _: f"must match {context['pattern']}",
    "too_short": lambda context, path: (
        f"must have at least {_plural(context['min_length'], 'entry' if is_list(type_at(path)) else 'table')}"
    ),
    "literal_error": lambda context, _: f"must be one of {context['expected'].replace(chr(39), '')}",
}


def _remedy(kind: str, context: Mapping[str, Any], detail: ErrorDetails) -> str:
    if kind == "literal_error" and isinstance(detail["input"], str):
        names = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return did_you_mean(detail["input"], names)
    if kind == "string_pattern_mismatch":
        return _pattern_remedy(context["pattern"])
    return ""


def _pattern_remedy(pattern: str) -> str:
    if pattern.startswith("^[a-z]"):
        signs = "digits, _ and -" if "-]" in pattern else "digits and _"
        return f"begin with a letter from a to z and go on with such letters, {signs}"
    return "write a full 40-digit commit in lower-case hexadecimal"


def _default_remedy(path: KeyPath) -> str:
    field = field_at(path)
    if field is None or field.default is PydanticUndefined or is_table(field.annotation):
        return "`m3 config schema` describes every key"
    return f"leave it out for the default {toml_value(field.default)}"

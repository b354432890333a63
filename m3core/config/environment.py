"""Overrides from the environment: `M3_<SECTION>__<KEY>`, for example `M3_SEARCH__LIMIT=5`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from m3core.config.keys import allows_none, is_list, known_keys, members, type_at
from m3core.config.positions import KeyPath
from m3core.errors import ConfigError
from m3core.nearest import nearest

PREFIX = "M3_"
SEPARATOR = "__"


@dataclass(frozen=True)
class Override:
    """One variable that sets one key."""

    variable: str
    path: KeyPath
    value: object


def overrides(env: Mapping[str, str], data: Mapping[str, object]) -> Iterator[Override]:
    """Every override in `env`, by variable name; `data` is the parsed file, whose names of stores and sources count.

    Variables without a double underscore (`M3_HOME`, `M3_CONFIG`) are not overrides. Raises ConfigError for a variable
    that names no known key.
    """
    for variable in sorted(env):
        if variable.startswith(PREFIX) and SEPARATOR in variable.removeprefix(PREFIX):
            path = _path(variable, data)
            yield Override(variable, path, _typed(env[variable], type_at(path)))


def variable_name(path: KeyPath) -> str:
    """The variable that overrides the key at `path`."""
    return PREFIX + SEPARATOR.join(part.upper().replace("-", "_") for part in path)


def _path(variable: str, data: Mapping[str, object]) -> KeyPath:
    path: KeyPath = ()
    table: object = data
    parts = variable.removeprefix(PREFIX).split(SEPARATOR)
    for i, part in enumerate(parts):
        known = known_keys(path) or (tuple(table) if isinstance(table, Mapping) else ())
        name = next((key for key in known if _fold(key) == _fold(part)), part.lower())
        table = table.get(name) if isinstance(table, Mapping) else None
        if type_at((*path, name)) is None:
            guess = nearest(name, known_keys(path))
            remedy = f'did you mean "{variable_name((*path, guess, *parts[i + 1 :]))}"?' if guess else "unset it"
            raise ConfigError(f"environment {variable}: no such key {'.'.join((*path, name))}", remedy)
        path = (*path, name)
    return path


def _typed(raw: str, annotation: object) -> object:
    """`raw` as the type of its key; left as it is where it does not fit, for the model to refuse."""
    options = members(annotation)
    if is_list(annotation):
        return _listed(raw)
    if allows_none(annotation) and raw == "":
        return None
    if bool in options and raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    for number in (int, float):
        if number in options:
            try:
                return number(raw)
            except ValueError:
                continue
    return raw


def _listed(raw: str) -> object:
    """A TOML list, or names separated by commas."""
    if not raw.lstrip().startswith("["):
        return [part.strip() for part in raw.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")

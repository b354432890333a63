"""A TOML file and the environment -> `Config`, knowing where every value came from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from m3core.config.environment import overrides
from m3core.config.model import Config
from m3core.config.positions import KeyPath, key_lines
from m3core.config.problems import Origins, bad_value, config_error, dotted
from m3core.errors import ConfigError
from m3core.nearest import did_you_mean

MAX_BYTES = 1 << 20
DEFAULT_NAME = "m3.toml"
CONFIG_VARIABLE = "M3_CONFIG"
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True)
class LoadedConfig:
    """A valid configuration. Its relative paths are relative to `base`, the folder of `file`.

    `origins` names for each dotted key `default`, `m3.toml:14` or `environment M3_SEARCH__LIMIT`.
    """

    config: Config
    file: Path
    base: Path
    origins: Mapping[str, str]


def load_config(path: Path | None, env: Mapping[str, str], *, store_kinds: Collection[str] = ()) -> LoadedConfig:
    """Read the configuration at `path`, else at `$M3_CONFIG`, else `./m3.toml`; `env` overrides single keys.

    `store_kinds` are the kinds of store that exist; without them any is taken. Raises ConfigError.
    """
    file = path or Path(env.get(CONFIG_VARIABLE) or DEFAULT_NAME)
    text = _read(file)
    data, lines = _parse(text, file)
    variables: dict[KeyPath, str] = {}
    for override in overrides(env, data):
        _set(data, override.path, override.value)
        variables[override.path] = override.variable
    origins = Origins(str(file), lines, variables)
    try:
        # Strict JSON: a list is a tuple and a string a path, but "5" is no number and 1 is not true.
        config = Config.model_validate_json(to_json(data, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        raise config_error(error, origins) from None
    _check_store_kinds(config, store_kinds, origins)
    named = {dotted(key): origins.of(key) for key, _ in flat(config)}
    return LoadedConfig(config, file, file.absolute().parent, named)


def flat(section: BaseModel | Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Every key of a configuration that holds a value, with it, in the order of the model."""
    for name, value in section.items() if isinstance(section, Mapping) else section:
        path = (*above, name)
        if isinstance(value, BaseModel | Mapping):
            yield from flat(value, path)
        else:
            yield path, value


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            raise ConfigError(f"no configuration at {file}", "write one with: m3 init ./docs")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{file} has {size:,} bytes, more than {MAX_BYTES:,}", "pass the configuration with -c")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "check the path and its permissions") from None


def _parse(text: str, file: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        line = (place and place[1]) or str(text.count("\n") + 1)
        rule = _TOML_PLACE.sub("", str(error))
        raise ConfigError(
            f"{file}:{line}: no valid TOML: {rule}", "strings need quotes, tables need [brackets]"
        ) from None
    except RecursionError:
        raise ConfigError(f"{file}: tables or lists are nested too deeply", "four levels are enough") from None


def _set(data: dict[str, Any], path: KeyPath, value: object) -> None:
    for part in path[:-1]:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # the file has a plain value where a table belongs; the model refuses it
        data = inner
    data[path[-1]] = value


def _check_store_kinds(config: Config, known: Collection[str], origins: Origins) -> None:
    for name, store in config.stores.items():
        if known and store.kind not in known:
            remedy = did_you_mean(store.kind, known)
            raise bad_value(("stores", name, "kind"), store.kind, "no such store", remedy, origins)

"""Secrets by reference: a configuration says where a key is, never the key."""

from __future__ import annotations

import os
from pathlib import Path

from m3core.errors import ConfigError

_RULE = 'write "env:NAME" for a variable or "file:PATH" for a file'
_MOST_BYTES = 64 << 10


def read_secret(reference: str, key: str) -> str:
    """The secret that `reference` (`env:NAME` or `file:PATH`) stands for, without blanks and newlines around it.

    `key` is the name of the setting, for errors: neither they nor anything else here shows a secret, or a reference
    that may be one. Raises ConfigError.
    """
    kind, _, place = reference.partition(":")
    if kind == "env" and place:
        found = os.environ.get(place, "")
        missing = f"{key}: the variable {place!a} is not set or empty"
    elif kind == "file" and place:
        found = _read(Path(place), key)
        missing = f"{key}: the file {place!a} is empty"
    else:
        raise ConfigError(f"{key} is no reference to a secret", _RULE)
    if not found.strip():
        raise ConfigError(missing, "put the secret there")
    return found.strip()


def _read(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: the file {str(path)!a} is not UTF-8", "write the key alone into it") from None
    except OSError as error:
        raise ConfigError(f"{key}: the file {str(path)!a}: {error.strerror}", "check path and permissions") from None

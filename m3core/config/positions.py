"""On which line of a TOML file each key stands; `tomllib` reads values but does not say where they were."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

KeyPath = tuple[str, ...]

# Only a line with one of these can end a statement that goes over several lines.
_ENDINGS = ("]", "}", '"""', "'''")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every table and key of `text`, which `tomllib` accepts.

    A statement is the fewest lines that parse on their own: an open string or list does not parse before its end. So
    the parser itself finds the keys, whatever their quoting.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for first, statement in _statements(text):
        header = statement.lstrip().startswith("[")
        paths = list(_paths(tomllib.loads(statement)))
        if header and paths:
            table = paths[-1]
            for path in paths:
                lines.setdefault(path, first)
            continue
        for path in paths:
            lines.setdefault(table + path, first)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    pending: list[str] = []
    first = 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not pending:
            first = number
        pending.append(line)
        if len(pending) > 1 and not any(ending in line for ending in _ENDINGS):
            continue
        statement = "\n".join(pending)
        if _parses(statement):
            yield first, statement
            pending = []


def _parses(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _paths(table: dict[str, object], above: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key of the nested tables, outer before inner."""
    for key, value in table.items():
        path = (*above, key)
        yield path
        inner = value[-1] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            yield from _paths(inner, path)

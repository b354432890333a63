"""Files of an evaluation: a place is checked before the work, and a file gets its name when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from m3core.errors import StateError, UsageError
from pipelines.state.files import atomic_file


def check_folder(option: str, path: Path) -> None:
    """Raise UsageError, before any work, if `option` names what can be no folder."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option} {path}: it is no folder", "name a folder; it is made if it is not there")


@contextmanager
def new_file(path: Path) -> Iterator[BufferedRandom]:
    """A file that replaces what was there at the end. Raises DiskFullError, UsageError if it may not be written."""
    try:
        with atomic_file(path) as file:
            yield file
    except StateError as error:
        raise UsageError(error.message, error.remedy) from error

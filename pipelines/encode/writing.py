"""Where vectors go: a file that gets its name when it is whole, in one of the formats (one module each)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Literal, Protocol

from m3core.errors import DiskFullError, StateError, UsageError
from m3core.types import Encoded
from pipelines.encode.jsonl import JsonLines
from pipelines.encode.npz import Npz
from pipelines.encode.origin import Origin
from pipelines.encode.parquet import parquet_into
from pipelines.state.files import atomic_file

Format = Literal["jsonl", "parquet", "npz"]


class Writer(Protocol):
    """Takes the vectors of texts part by part, in order."""

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        """The next texts."""


def check_file(option: str, path: Path) -> None:
    """Raise UsageError, before any work, if `option` names what can be no file."""
    if path.is_dir():
        raise UsageError(f"{option} {path}: it is a folder", "name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} is not there", f"mkdir -p {path.parent}")


@contextmanager
def open_writer(form: Format, path: Path, origin: Origin) -> Iterator[Writer]:
    """A writer of a file that replaces what was there, at the end; nothing is left if the block raises.

    Raises DiskFullError if there is no room, UsageError if the folder may not be written.
    """
    with _file(path) as file:
        if form == "parquet":
            with parquet_into(file, origin) as parquet:
                yield parquet
        elif form == "npz":
            npz = Npz(file, origin)
            yield npz
            npz.finish()
        else:
            yield JsonLines(lambda line: file.write(line.encode("ascii")))


@contextmanager
def _file(path: Path) -> Iterator[BufferedRandom]:
    """`atomic_file`, with errors for somebody who named this one file."""
    try:
        with atomic_file(path) as file:
            yield file
    except DiskFullError as error:
        raise DiskFullError(error.message, "free some space, or name an --output on a larger disk") from error
    except StateError as error:
        raise UsageError(error.message, error.remedy) from error

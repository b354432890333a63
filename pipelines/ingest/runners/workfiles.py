"""What launcher and workers of one run tell each other: small files in `runs/<run>/work`, gone when the run ends.

splits, wave-<n>    lines of JSON: one split, or one group of a wave, each
*.index             where each line begins, 8 bytes each
committed-<n>.json  what the commit of a wave did
workers/*.json      signs of life of the worker processes, and what they have done so far
failures/*.json     what went wrong in a worker
stop                asks the workers to come to an end
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.state.files import make_folder, read_json, write_json

FORMAT = 1
_START = struct.Struct("<q")


@dataclass(frozen=True)
class WorkFiles:
    """The folder of one run."""

    folder: Path

    def write_lines(self, name: str, values: Iterable[Any]) -> int:
        """Write plain values, one a line; how many there are."""
        count = 0
        with (self.folder / name).open("wb") as lines, (self.folder / f"{name}.index").open("wb") as index:
            for value in values:
                index.write(_START.pack(lines.tell()))
                lines.write(json.dumps(value).encode() + b"\n")
                count += 1
        return count

    def read_line(self, name: str, number: int) -> Any:
        """The value of that number, from 0."""
        with (self.folder / f"{name}.index").open("rb") as index:
            index.seek(number * _START.size)
            (start,) = _START.unpack(index.read(_START.size))
        with (self.folder / name).open("rb") as lines:
            lines.seek(start)
            return json.loads(lines.readline())

    def write(self, name: str, body: Mapping[str, Any]) -> None:
        """Replace one file."""
        write_json(self.folder / f"{name}.json", "threefold.work", FORMAT, body)

    def read(self, name: str) -> dict[str, Any] | None:
        """What a file says; None if it is not there."""
        try:
            return read_json(self.folder / f"{name}.json", "threefold.work", FORMAT)
        except FileNotFoundError:
            return None

    def tell(self, kind: str, body: Mapping[str, Any], name: str = "") -> None:
        """Add a file to `workers` or `failures`, or replace the one of that name."""
        make_folder(self.folder / kind)
        self.write(f"{kind}/{name or secrets.token_hex(8)}", body)

    def told(self, kind: str, known: Container[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and content of the files of `workers` or `failures`, oldest first, without those that are known."""
        new = [path for path in (self.folder / kind).glob("*.json") if path.stem not in known]
        for path in sorted(new, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            if (body := self.read(f"{kind}/{path.stem}")) is not None:
                yield path.stem, body

    def ask_to_stop(self) -> None:
        """Let the workers come to an end: what is finished is committed."""
        (self.folder / "stop").touch()

    @property
    def stopping(self) -> bool:
        """Whether the workers are to come to an end."""
        return (self.folder / "stop").exists()

"""What launcher and workers of one run tell each other: small files in `runs/<run>/work/exchange`, gone when the run
ends. They are in the folder that all share, or in the bucket that keeps the state (`pipelines.state.mirror`).

splits, wave-<n>    lines of JSON: one split, or one group of a wave, each
*.index             where each line begins, 8 bytes each
committed-<n>.json  what the commit of a wave did
workers/*.json      signs of life of the worker processes, and what they have done so far
failures/*.json     what went wrong in a worker, named by the time
listed, seen        what listing a split found (`splits.py`)
stop                asks the workers to come to an end
"""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.ingest.session import WORK
from pipelines.state.files import atomic_file, create_if_absent, make_folder, read_json, write_json
from pipelines.state.mirror import EXCHANGE, fetch, refresh
from pipelines.state.paths import StatePaths

FORMAT = 1
_START = struct.Struct("<q")


@dataclass(frozen=True)
class WorkFiles:
    """The folder of one run."""

    folder: Path

    @classmethod
    def of(cls, paths: StatePaths, run: int) -> WorkFiles:
        """Those of a run; the folder need not be there yet."""
        return cls(paths.run(run) / WORK / EXCHANGE)

    def write_lines(self, name: str, values: Iterable[Any]) -> int:
        """Write plain values, one a line; how many there are."""
        count = 0
        make_folder(self.folder)
        with atomic_file(self.folder / name) as lines, atomic_file(self.folder / f"{name}.index") as index:
            for value in values:
                index.write(_START.pack(lines.tell()))
                lines.write(json.dumps(value).encode() + b"\n")
                count += 1
        return count

    def read_line(self, name: str, number: int) -> Any:
        """The value of that number, from 0."""
        for part in (name, f"{name}.index"):
            fetch(self.folder / part)
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
        path = self.folder / f"{name}.json"
        fetch(path)
        try:
            return read_json(path, "threefold.work", FORMAT)
        except FileNotFoundError:
            return None

    def tell(self, kind: str, body: Mapping[str, Any], name: str = "") -> None:
        """Add a file to `workers` or `failures`, or replace the one of that name."""
        make_folder(self.folder / kind)
        self.write(f"{kind}/{name or f'{time.time_ns():020d}-{secrets.token_hex(4)}'}", body)

    def told(self, kind: str, known: Container[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and content of the files of a kind, by name, without those that are known."""
        refresh(self.folder / kind, "*.json")
        for path in sorted((self.folder / kind).glob("*.json")):
            if path.stem not in known and (body := self.read(f"{kind}/{path.stem}")) is not None:
                yield path.stem, body

    def ask_to_stop(self) -> None:
        """Let the workers come to an end: what is finished is committed."""
        create_if_absent(self.folder / "stop", b"")

    @property
    def stopping(self) -> bool:
        """Whether the workers are to come to an end."""
        fetch(self.folder / "stop")
        return (self.folder / "stop").exists()

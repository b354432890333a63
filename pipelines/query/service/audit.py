"""Who searched when: one JSON line per request that was let in, in a file a day. The query's text only if asked for.

`<storage.path>/service/<collection>/audit/<date>.jsonl`, mode 0600. Lines of several processes do not mix: each is one
write to a file opened for appending. A request whose line cannot be written is not answered.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.state.clock import stamp
from pipelines.state.files import make_folder, reporting_write_errors

# Left out of a line where there is nothing to say.
_OPTIONAL = ("query", "subject")


@dataclass(frozen=True)
class AuditLine:
    """One request. `hits` are the documents that were shown; `query` is None unless texts are logged.

    `key` is the caller's key, or a digest of the token's subject; `subject` is whom the token names ("": no token).
    """

    request_id: str
    key: str
    tenant: str
    principals: tuple[str, ...]
    acted: bool
    action: str
    outcome: str
    hits: int = 0
    generation: int | None = None
    subject: str = ""
    query: str | None = None


class AuditLog:
    """Appends lines. Called in a thread: a slow disk must not hold up the loop."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def write(self, line: AuditLine) -> None:
        """Append one line. Raises DiskFullError or StateError if the disk does not take it."""
        now = stamp(self._clock())
        fields = {name: value for name, value in asdict(line).items() if name not in _OPTIONAL or value}
        data = (json.dumps({"time": now, **fields}, ensure_ascii=True) + "\n").encode()
        make_folder(self._folder)
        path = self._folder / f"{now[:10]}.jsonl"
        with reporting_write_errors(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

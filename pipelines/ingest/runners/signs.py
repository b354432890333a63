"""Signs of life: what a worker process says of itself, about once a second while it works, and what that adds up to."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

from pipelines.ingest.progress import NoProgress, Progress
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.state.clock import utc_now

_SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    """What was done so far: `tokens` went through the model; `texts`, with `encoded` tokens, are in finished units."""

    tokens: int = 0
    text_bytes: int = 0
    reused_tokens: int = 0
    reused_bytes: int = 0
    rows: int = 0
    texts: int = 0
    encoded: int = 0
    reused_texts: int = 0
    reused: int = 0
    encode_msec: int = 0

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Done:
        """From a sign."""
        return cls(**{one.name: body[one.name] for one in fields(cls)})

    def plus(self, other: Done) -> Done:
        """Both together."""
        return Done(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def tell(self, before: Done, progress: Progress) -> None:
        """Say what has come since."""
        if self.tokens > before.tokens:
            progress.encoded(self.tokens - before.tokens, self.text_bytes - before.text_bytes)
        if self.reused_tokens > before.reused_tokens:
            progress.reused(self.reused_tokens - before.reused_tokens, self.reused_bytes - before.reused_bytes)
        if self.rows > before.rows:
            progress.loaded(self.rows - before.rows)


class Sign(NoProgress):
    """The progress of a worker process, told through the work files; threads share it."""

    def __init__(self, files: WorkFiles) -> None:
        super().__init__()
        self._files = files
        self._name = secrets.token_hex(8)
        self._done = Done()
        self._told = 0.0
        self._lock = threading.Lock()

    def give(self) -> None:
        """Say that this process is there."""
        self._files.tell("workers", {"host": socket.gethostname(), "now": utc_now(), **asdict(self._done)}, self._name)
        self._told = time.monotonic()

    def reused(self, tokens: int, text_bytes: int) -> None:
        """Texts whose vectors were in the lake."""
        self.add(Done(reused_tokens=tokens, reused_bytes=text_bytes))

    def encoded(self, tokens: int, text_bytes: int) -> None:
        """Texts that went through the model."""
        self.add(Done(tokens=tokens, text_bytes=text_bytes))

    def loaded(self, rows: int) -> None:
        """Rows that every store acknowledged."""
        self.add(Done(rows=rows))

    def add(self, done: Done, *, at_once: bool = False) -> None:
        """Count, and say so now or when the last word is a second old."""
        with self._lock:
            self._done = self._done.plus(done)
            if at_once or time.monotonic() - self._told >= _SECONDS:
                self.give()


@dataclass(frozen=True)
class Told:
    """The sums of a worker process, told unit by unit. See `pipelines.ingest.shared.Counting`."""

    sign: Sign

    def encoded(self, texts: int, tokens: int, seconds: float) -> None:
        """Count one unit."""
        self.sign.add(Done(texts=texts, encoded=tokens, encode_msec=round(1000 * seconds)), at_once=True)

    def reused(self, texts: int, tokens: int) -> None:
        """Count texts whose vectors were in the lake; `Sign.reused` is told of them too."""
        self.sign.add(Done(reused_texts=texts, reused=tokens), at_once=True)

"""What the steps of one run share inside one process: looked up by name in a DoFn's setup, never pickled."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from m3core.errors import DiskFullError
from pipelines.ingest.commit import CommitStep, Committed, Outcome, commit_wave
from pipelines.ingest.embed import EncodeStep, UnitLimits
from pipelines.ingest.load import LoadStep
from pipelines.ingest.progress import Progress
from pipelines.ingest.reading import Group, ReadStep
from pipelines.ingest.stop import Stopping
from pipelines.state.runs import DeadLetter

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Counting(Protocol):
    """Where the work of a run is summed up."""

    def encoded(self, texts: int, tokens: int, seconds: float) -> None:
        """Count one unit."""

    def reused(self, texts: int, tokens: int) -> None:
        """Count texts whose vectors were in the lake."""


@dataclass
class Totals:
    """Sums over the waves of a run. See `Counting`."""

    texts_encoded: int = 0
    texts_reused: int = 0
    tokens_encoded: int = 0
    tokens_reused: int = 0
    encode_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def encoded(self, texts: int, tokens: int, seconds: float) -> None:
        """Count one unit."""
        with self.lock:
            self.texts_encoded += texts
            self.tokens_encoded += tokens
            self.encode_seconds += seconds

    def reused(self, texts: int, tokens: int) -> None:
        """Count texts whose vectors were in the lake."""
        with self.lock:
            self.texts_reused += texts
            self.tokens_reused += tokens


@dataclass
class Shared:
    """What the steps of a run work with inside one process.

    `groups` are those of the running wave, `committed` what became of it.
    """

    name: str
    read: ReadStep
    limits: UnitLimits
    encode: EncodeStep
    load: LoadStep
    commit: CommitStep
    progress: Progress
    stop: Stopping
    totals: Counting = field(default_factory=Totals)
    wave: int = 0
    groups: Sequence[Group] = ()
    committed: Committed | None = None
    error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Remember the first failure and stop: Beam would turn it into text. The run raises it after the wave."""
        if self.error is None:
            self.error = disk_full(error) or error
        self.stop.set()

    def take(self, number: int) -> Iterable[Group | DeadLetter]:
        """The groups of that number, and what could not be taken."""
        return (self.groups[number],)

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Commit the wave. A bundle may run twice; a wave is committed once."""
        if self.committed is None:
            self.committed = commit_wave(self.wave, outcomes, self.commit)

    def close(self) -> None:
        """A step is done with it; what is in here the run closes."""


class Sharing(Protocol):
    """How a step finds what it works with, in whatever process it runs; travels with the step."""

    def open(self, step: str) -> Shared:
        """For the step of that name."""


@dataclass(frozen=True)
class Here:
    """The run is in this process, under this name."""

    name: str

    def open(self, step: str) -> Shared:
        """What the run shares; KeyError outside of it."""
        return shared_by(self.name)


_shared: dict[str, Shared] = {}


@contextmanager
def sharing(shared: Shared) -> Iterator[Shared]:
    """Make `shared` known to the steps of this process while entered."""
    _shared[shared.name] = shared
    try:
        yield shared
    finally:
        del _shared[shared.name]


def shared_by(name: str) -> Shared:
    """What the run of that name shares; KeyError outside of it."""
    return _shared[name]


def disk_full(error: BaseException) -> DiskFullError | None:
    """A DiskFullError if that is what `error` means; DuckDB and Arrow say it in words."""
    if isinstance(error, DiskFullError):
        return error
    if (isinstance(error, OSError) and error.errno in _NO_SPACE) or "No space left on device" in str(error):
        return DiskFullError(
            "the disk is full; everything that was committed is kept", "free some space, then run m3 ingest again"
        )
    return None

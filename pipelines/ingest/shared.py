"""What the steps of one run share inside one process: looked up by name in a DoFn's setup, never pickled."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from m3core.errors import DiskFullError
from pipelines.ingest.commit import CommitStep, Committed
from pipelines.ingest.embed import EncodeStep, UnitLimits
from pipelines.ingest.load import LoadStep
from pipelines.ingest.progress import Progress
from pipelines.ingest.reading import Group, ReadStep
from pipelines.ingest.stop import StopFlag

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass
class Totals:
    """Sums over the waves of a run."""

    tokens_encoded: int = 0
    tokens_reused: int = 0
    encode_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def encoded(self, tokens: int, seconds: float) -> None:
        """Count one unit."""
        with self.lock:
            self.tokens_encoded += tokens
            self.encode_seconds += seconds

    def reused(self, tokens: int) -> None:
        """Count texts whose vectors were in the lake."""
        with self.lock:
            self.tokens_reused += tokens


@dataclass
class Shared:
    """Steps, flags and sums of one run. `groups` are those of the running wave, `committed` what became of it."""

    name: str
    read: ReadStep
    limits: UnitLimits
    encode: EncodeStep
    load: LoadStep
    commit: CommitStep
    progress: Progress
    stop: StopFlag
    totals: Totals = field(default_factory=Totals)
    wave: int = 0
    groups: Sequence[Group] = ()
    committed: Committed | None = None
    error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Remember the first failure and stop: Beam would turn it into text. The run raises it after the wave."""
        if self.error is None:
            self.error = disk_full(error) or error
        self.stop.set()


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

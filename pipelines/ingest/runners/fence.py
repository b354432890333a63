"""The run's lease and its wish to stop, as a worker sees them: through the state folder, a second old at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from m3core.errors import LockedError
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.state.clock import seconds_of
from pipelines.state.lease import read_lease
from pipelines.state.paths import StatePaths

T = TypeVar("T")

_SECONDS = 1.0


@dataclass
class Recent(Generic[T]):
    """A value that is asked for often and read again when it is a second old."""

    read: Callable[[], T]
    clock: Callable[[], float] = time.monotonic
    _value: T | None = field(default=None, init=False)
    _until: float = field(default=float("-inf"), init=False)

    def get(self) -> T:
        """The value; what `read` raises."""
        if self.clock() >= self._until or self._value is None:
            self._value = self.read()
            self._until = self.clock() + _SECONDS
        return self._value


@dataclass
class LeaseSeen:
    """The lease that the launcher holds. A worker writes only while it runs: the launcher renews it, so a launcher that
    died takes its workers with it when it ends."""

    paths: StatePaths
    token: str
    wall: Callable[[], float] = time.time
    _recent: Recent[bool] = field(init=False)

    def __post_init__(self) -> None:
        self._recent = Recent(self._read)

    def check(self) -> None:
        """LockedError if the run has lost it."""
        self._recent.get()

    def _read(self) -> bool:
        record = read_lease(self.paths)
        if record is None or record.token != self.token or not record.held:
            raise LockedError(
                f"the lease of collection {self.paths.collection} is not this run's any more: a worker stopped",
                "run it again; nothing committed is lost",
            )
        if self.wall() >= seconds_of(record.expires):
            raise LockedError(
                f"the lease of collection {self.paths.collection} ran out at {record.expires}: its launcher is gone",
                "run it again; nothing committed is lost",
            )
        return True


class StopSeen:
    """Whether the launcher asked to stop."""

    def __init__(self, files: WorkFiles) -> None:
        self._set = False
        self._recent = Recent(lambda: files.stopping)

    def __bool__(self) -> bool:
        return self._set or self._recent.get()

    def set(self, name: str | None = None) -> None:
        """Stop the steps of this process."""
        self._set = True

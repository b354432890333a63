"""What the launcher looks at while an engine works: signs of life, failures, the lease, signals, the deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from m3core.errors import ExitCode, M3Error
from pipelines.ingest.runners.failures import failures
from pipelines.ingest.runners.signs import Done
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.ingest.session import Session
from pipelines.ingest.shared import Totals
from pipelines.state.clock import seconds_of
from pipelines.state.lease import Lease

CLOCKS_APART = 5.0
# After a signal or the deadline the workers have so long to finish their units and commit.
GRACE_SECONDS = 300.0


class WorkersError(M3Error):
    """No worker reported, or their clocks are apart: the job can never end well."""

    code = "workers"
    exit_code = ExitCode.UNREACHABLE


class DeadlineError(M3Error):
    """The run took longer than it may."""

    code = "deadline"
    exit_code = ExitCode.UNREACHABLE


@dataclass
class Watch:
    """One run under observation, job after job; it counts its time from `started`, or from now."""

    files: WorkFiles
    session: Session
    lease: Lease
    clock: Callable[[], float] = time.monotonic
    started: float | None = None
    wall: Callable[[], float] = time.time
    _started: float = field(default=0.0, init=False)
    _running: float | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)
    _asked: float | None = field(default=None, init=False)
    _seen: set[str] = field(default_factory=set, init=False)
    _old: set[str] = field(default_factory=set, init=False)
    _done: Done = field(default_factory=Done, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock() if self.started is None else self.started
        self._looked = self.wall()
        self._old = {name for name, _ in self.files.told("workers")}  # of a job before this one

    def begin(self) -> None:
        """The engine runs the job: from now on its workers are waited for."""
        self._running = self.clock()

    def look(self) -> None:
        """Look once; cheap, call it every second or so.

        Raises what ends the job: LockedError, a fatal failure of a worker, WorkersError, DeadlineError.
        """
        self.lease.check()
        for error in failures(self.files, fatal_only=True):
            raise error
        self._look_at_workers()
        self._look_at_time()

    def check_deadline(self) -> None:
        """DeadlineError if the workers were told to end because the time was up; what they had finished is in."""
        if self._asked is not None and not self.session.stop.signal:
            raise self._overdue("what was finished is committed")

    @property
    def begun(self) -> bool:
        """Whether workers are waited for."""
        return self._running is not None

    @property
    def asked(self) -> bool:
        """Whether the workers were told to come to an end."""
        return self._asked is not None

    def _overdue(self, consequence: str) -> DeadlineError:
        return DeadlineError(
            f"the run was not done after {self.session.config.runner.deadline:g} s (runner.deadline); {consequence}",
            "run it again: what was encoded is in the lake; raise runner.deadline if the work is right",
        )

    def sum_up(self, totals: Totals) -> None:
        """What the workers have encoded and reused, in the sums of the run; also of a job that failed."""
        done = reduce(Done.plus, (Done.of(body) for _, body in self.files.told("workers")), Done())
        totals.texts_encoded, totals.texts_reused = done.texts, done.reused_texts
        totals.tokens_encoded, totals.tokens_reused = done.encoded, done.reused
        totals.encode_seconds = done.encode_msec / 1000

    def _look_at_workers(self) -> None:
        now, done = self.wall(), Done()
        for name, body in self.files.told("workers"):
            if name not in self._seen | self._old:
                self._check_clock(body, now)
                self._seen.add(name)
            done = done.plus(Done.of(body))
        self._looked = now
        done.tell(self._done, self.session.progress)
        self._done = done
        runner = self.session.config.runner
        if self._running is not None and not self._seen and self.clock() - self._running > runner.first_sign:
            raise WorkersError(
                f"no worker has reported within {runner.first_sign:g} s: the engine runs the job, but nothing that it "
                f"starts works for it ({self._environment()})",
                "see the log of the worker pool (or of the TaskManager): `python` there must have threefold, the "
                f"workers must see the state folder ({self.session.paths.root}) and reach the TaskManager",
            )

    def _check_clock(self, body: Mapping[str, Any], now: float) -> None:
        """A sign that came since the last look must bear a time since then."""
        told = seconds_of(body["now"])
        apart = max(0.0, self._looked - told, told - now)
        if apart > CLOCKS_APART:
            raise WorkersError(
                f"the clock of worker {body['host']} is {apart:.0f} s apart from the launcher's; a lease needs clocks "
                f"that agree within {CLOCKS_APART:g} s",
                "synchronise them (NTP), then run again",
            )

    def _look_at_time(self) -> None:
        stop = self.session.stop
        late = self.clock() - self._started > self.session.config.runner.deadline
        if (stop or late) and self._asked is None:
            self._asked = self.clock()
            self.files.ask_to_stop()
            stop.announce(self.session.progress.stopping)
        if self._asked is not None and self.clock() - self._asked > GRACE_SECONDS:
            if late:
                raise self._overdue("it was told to end, did not, and was cancelled")
            raise WorkersError(
                f"the job was told to end ({stop.signal}) and did not within {GRACE_SECONDS:g} s",
                "see the workers' log; what was encoded is in the lake",
            )

    def _environment(self) -> str:
        runner = self.session.config.runner
        what = {"external": f" at {runner.worker}", "process": f", command {runner.worker[:60]!r}"}
        return f"environment {runner.environment}{what.get(runner.environment, '')}"

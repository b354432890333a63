"""Flink: submitted through Beam's job server, watched and cancelled through the JobManager's REST.

The REST is the truth: the job server may go away while a job runs, and the job goes on. A job whose workers cannot
start stays RUNNING for ever in Flink's eyes; the watch notices that nobody reports and the job is cancelled. Progress
is told by the workers' signs, as on every engine: REST has Beam's counters as one opaque text.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from m3core.config.runner import RunnerSection
from m3core.errors import ConfigError, M3Error
from pipelines.ingest.runners.engine import Build, EngineError
from pipelines.ingest.runners.flink_rest import FlinkRest, NoAnswerError
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.portable import (
    ENDED_ILL,
    check_pool,
    check_settings,
    finish,
    flags,
    state_of,
    submit,
    why_it_ended,
)
from pipelines.ingest.runners.reachable import check_reachable
from pipelines.ingest.runners.watch import Watch

# What Beam has runners for, from the oldest that its job servers of today speak to.
VERSIONS = ("1.19", "1.20", "2.0", "2.1", "2.2")
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
# A worker stays so long without a step, and its model with it.
_KEEP_MILLIS = 10_000
_NO_CLASS = ("ClassNotFoundException", "NoClassDefFoundError", "InvalidClassException")
_ENDED = ("FINISHED", "FAILED", "CANCELED")


@dataclass(frozen=True)
class FlinkEngine:
    """One cluster. `sleep` waits between two looks."""

    section: RunnerSection
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @property
    def rest(self) -> FlinkRest:
        """The JobManager."""
        return FlinkRest(self.section.flink_rest)

    def check(self) -> None:
        """Settings, versions, slots, job server, and the pool where it can be seen from here."""
        section = self.section
        check_settings(section)
        if not section.flink_rest:
            raise ConfigError("runner.flink_rest is missing", "set it to the JobManager's REST, http://HOST:8081")
        self._check_version()
        self._check_slots()
        check_reachable(
            "runner.job_endpoint",
            section.job_endpoint,
            "start Beam's job server of the cluster's Flink version (infra/flink), or correct the address",
        )
        check_pool(section, urlsplit(section.flink_rest).hostname or "")

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        """Submit, and follow the job to its end. Whatever ends the run ends the job too."""
        submission = _Submission(build, order, self._flags(order))
        job: str | None = None
        try:
            job = self._find(order, submission, watch)
            state = self._follow(job, watch)
            watch.look()
        except BaseException:
            self._cancel(job or self._known(order))
            raise
        if self.section.environment == "loopback":
            submission.finish()
        if state != "FINISHED":
            raise _why(order, state, self.rest.cause(job))

    def _flags(self, order: Order) -> list[str]:
        return flags(
            order,
            parallelism=self.section.parallelism,
            environment_cache_millis=_KEEP_MILLIS,
        )

    def _find(self, order: Order, submission: _Submission, watch: Watch) -> str:
        """The job's id, once Flink knows it."""
        submission.start()
        while (job := self._known(order)) is None:
            if (refused := submission.refused()) is not None:
                raise _why(order, "before it began", refused)
            watch.look()
            self.sleep(_POLL_SECONDS)
        return job

    def _follow(self, job: str, watch: Watch) -> str:
        watch.begin()
        silent_since: float | None = None
        while True:
            watch.look()
            try:
                state = self.rest.state(job)
                silent_since = None
            except NoAnswerError:
                silent_since = silent_since or self.clock()
                if self.clock() - silent_since > _PATIENCE_SECONDS:
                    raise
                state = ""
            if state in _ENDED:
                return state
            self.sleep(_POLL_SECONDS)

    def _known(self, order: Order) -> str | None:
        try:
            return self.rest.find(order.name)
        except NoAnswerError:
            return None

    def _cancel(self, job: str | None) -> None:
        if job is None:
            return
        try:
            self.rest.cancel(job)
            for _ in range(int(_PATIENCE_SECONDS / _POLL_SECONDS)):
                if self.rest.state(job) in _ENDED:
                    return
                self.sleep(_POLL_SECONDS)
        except NoAnswerError:
            return  # what ended the run matters; the workers lose the lease with it

    def _check_version(self) -> None:
        version = self.rest.version()
        if not version.startswith(tuple(f"{known}." for known in VERSIONS)):
            raise EngineError(
                f"runner.flink_rest: {self.section.flink_rest} is Flink {version or 'of no known version'}; Beam runs "
                f"on {', '.join(VERSIONS)}",
                "use a cluster of one of these, and Beam's job server of the same version",
            )

    def _check_slots(self) -> None:
        total, free = self.rest.slots()
        if free >= self.section.parallelism:
            return
        have = f"{total} slots" if total < self.section.parallelism else f"{free} free slots of {total}"
        raise EngineError(
            f"runner.parallelism is {self.section.parallelism} and the cluster has {have}",
            "start TaskManagers, wait for or cancel the other job, or lower runner.parallelism",
        )


def _why(order: Order, state: str, said: str) -> M3Error:
    """The error of a job that ended ill; a class that is missing is the cluster's fault, and no worker can tell."""
    missing = next((line.strip() for line in said.splitlines() if any(name in line for name in _NO_CLASS)), "")
    if missing:
        return EngineError(
            f"the job ended {state}: the cluster has not the classes of Beam that the job server has ({missing[:200]})",
            "put the jars of Beam's Flink runner on Flink's class path, its lib folder (infra/flink), or use a job "
            "server that is one jar with all of them; both for the same version of Flink",
        )
    return why_it_ended(order, state, said or "see the JobManager's log")


class _Submission:
    """Submitting blocks until the job server has staged the job: it happens beside the watch."""

    def __init__(self, build: Build, order: Order, beam_flags: list[str]) -> None:
        self._work = lambda: submit(build, order, beam_flags)
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="m3-submit", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def refused(self) -> str | None:
        """What the job server says of a job that it could not give to Flink. Raises what submitting raised."""
        if self._error is not None:
            raise self._error
        if self._result is None or state_of(self._result) not in ENDED_ILL:
            return None
        return finish(self._result)

    def finish(self) -> None:
        """The job has ended: stop what served it in this process."""
        if self._result is not None:
            finish(self._result)

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised by `refused`, in the thread that waits
            self._error = error

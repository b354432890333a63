"""The last runs of a collection, and who is writing it now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m3core.errors import ExitCode
from pipelines.state.clock import seconds_of
from pipelines.state.lease import read_lease
from pipelines.state.paths import StatePaths
from pipelines.state.runs import RunFolder, list_runs

_COUNTS = (
    *("listed", "added", "changed", "patched", "deleted", "unchanged", "failed", "pending"),
    *("encoded_texts", "reused_texts", "chunks", "tokens", "rows"),
)


@dataclass(frozen=True)
class Writer:
    """The process that holds the lease."""

    pid: int
    host: str
    since: str
    expires: str

    def as_json(self) -> dict[str, object]:
        """In the order of the fields."""
        return {"pid": self.pid, "host": self.host, "since": self.since, "expires": self.expires}


@dataclass(frozen=True)
class PastRun:
    """One run. `outcome`: ok, dead-letters, pending, terminated, running, killed, or the code of its error."""

    run: int
    command: str
    started: str
    ended: str | None
    outcome: str
    message: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """How long it took, by the clock on the wall."""
        return None if self.ended is None else seconds_of(self.ended) - seconds_of(self.started)

    @property
    def failed(self) -> bool:
        """Whether it did not come to its end."""
        return self.outcome not in ("ok", "dead-letters", "pending", "running", "terminated")

    def as_json(self) -> dict[str, object]:
        """Counts as the run reported them."""
        return {
            "run": self.run,
            "command": self.command,
            "started": self.started,
            "ended": self.ended,
            "outcome": self.outcome,
            "message": self.message or None,
            **self.counts,
        }


def current_writer(paths: StatePaths) -> Writer | None:
    """Who holds the lease; None if it may be taken."""
    record = read_lease(paths)
    if record is None or record.is_free(time.time()):
        return None
    return Writer(record.owner.pid, record.owner.host, record.acquired, record.expires)


def last_runs(paths: StatePaths, count: int, writer: Writer | None) -> list[PastRun]:
    """The newest `count` runs, newest first."""
    numbers = list_runs(paths)
    return [_past(RunFolder(paths, n), running=writer is not None and n == numbers[-1]) for n in numbers[::-1][:count]]


def _past(folder: RunFolder, *, running: bool) -> PastRun:
    try:
        started, ended = folder.read_times()
    except FileNotFoundError:  # killed between making its folder and writing into it
        return PastRun(folder.number, "ingest", "", None, "running" if running else "killed")
    report = folder.read_report()
    if report is None:
        return PastRun(folder.number, "ingest", started, None, "running" if running else "killed")
    outcome, message = _outcome(report)
    counts = {name: report[name] for name in _COUNTS if name in report}
    return PastRun(folder.number, str(report.get("command", "ingest")), started, ended, outcome, message, counts)


def _outcome(report: Mapping[str, Any]) -> tuple[str, str]:
    error = report.get("error")
    if error:
        return str(error["code"]), str(error["message"])
    return _NAMES.get(int(report.get("exit_code", 0)), "failed"), ""


_NAMES: Mapping[int, str] = {
    ExitCode.OK: "ok",
    ExitCode.DEAD_LETTERS: "dead-letters",
    ExitCode.PENDING: "pending",
    ExitCode.TERMINATED: "terminated",
}

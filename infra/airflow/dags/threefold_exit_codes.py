"""What an exit code of `m3` means to a scheduler. Plain Python, so that it is tested without Airflow.

A run is safe to repeat whatever ended it: ids are made from content, what was committed is not done again, and one
lease keeps two runs apart. So the question is only whether repeating it can help.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What the task does."""

    SUCCESS = "success"
    # Somebody else has to end or come back first: try again after a while, without holding a worker.
    WAIT = "wait"
    # The process was ended from outside, or broke: try again at once, a few times.
    RETRY = "retry"
    # It would come to the same again: somebody has to look.
    FAIL = "fail"


@dataclass(frozen=True)
class Meaning:
    """An outcome, and what to tell."""

    outcome: Outcome
    text: str


MEANINGS = {
    0: Meaning(Outcome.SUCCESS, "done"),
    1: Meaning(Outcome.RETRY, "internal error; if it stays, infra/RUNBOOK.md, 'Exit codes'"),
    2: Meaning(Outcome.FAIL, "usage or configuration: mend it, then clear this task"),
    3: Meaning(Outcome.SUCCESS, "done; some documents failed: m3 dead-letters list"),
    4: Meaning(Outcome.WAIT, "rows wait for a store that is down: m3 status"),
    5: Meaning(Outcome.FAIL, "refused by a safety rule or the quality gate: read the line above and decide"),
    6: Meaning(Outcome.WAIT, "another run writes"),
    7: Meaning(Outcome.WAIT, "a store or source cannot be reached, or the disk is full"),
    8: Meaning(Outcome.FAIL, "the stores differ from the manifest: m3 repair --dry-run"),
    143: Meaning(Outcome.RETRY, "stopped by SIGTERM; what was finished is committed"),
}


def meaning_of(code: int) -> Meaning:
    """What an exit code means; a negative one is the signal that ended the process."""
    if code < 0:
        return Meaning(Outcome.RETRY, f"ended by signal {-code}; out of memory ends with 9")
    return MEANINGS.get(code, Meaning(Outcome.RETRY, "not an exit code of m3"))

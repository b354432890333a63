"""One thing that `m3 doctor` looked at: what it found, and what failed or could be better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m3core.errors import M3Error

_SCARCE = 0.1


@dataclass(frozen=True)
class Finding:
    """What a check found; `advice` is what could be better, with its `remedy`, and fails nothing."""

    text: str
    advice: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """The outcome of one check: a finding or a failure."""

    name: str
    finding: Finding = Finding("")
    failure: M3Error | None = None

    def as_json(self) -> dict[str, Any]:
        """`status` is ok, advice or failed."""
        finding, failure = self.finding, self.failure
        problem = None
        if failure is not None:
            problem = {"code": failure.code, "message": failure.message, "remedy": failure.remedy}
        elif finding.advice:
            problem = {"code": "advice", "message": finding.advice, "remedy": finding.remedy}
        status = "failed" if failure is not None else "advice" if finding.advice else "ok"
        return {"name": self.name, "status": status, "found": finding.text, "problem": problem}


def checked(name: str, look: Callable[[], Finding | str]) -> Check:
    """Run one check; an error of ours is its failure, any other one goes on."""
    try:
        found = look()
    except M3Error as failure:
        return Check(name, failure=failure)
    return Check(name, found if isinstance(found, Finding) else Finding(found))


def scarce(free: int, total: int) -> Finding:
    """How much of a disk is free; advice if it is little."""
    share = free / total if total else 0.0
    text = f"{share:.0%} of its disk free"
    if share >= _SCARCE:
        return Finding(text)
    return Finding(text, f"only {share:.0%} of its disk is free", "free some space: below 5 % servers stop writes")

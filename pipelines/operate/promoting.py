"""The live pointer moved to another generation that has proved itself: `m3 generations promote`, `rollback`.

The flip is one replacement of `collection.json`: a search that began before it ends in the old generation, one that
begins after it in the new. Every check of `proving.py` must pass before. A rollback goes back in time on purpose: that
documents are missing in it, or older, does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from m3core.errors import ExitCode, RefusedError, UsageError
from pipelines.operate.collection import Collection, Place
from pipelines.operate.generations import generation_of, state_of
from pipelines.operate.proving import Asked, Check, Gate, checks_of
from pipelines.state.clock import utc_now
from pipelines.state.collection import CollectionState, Generation, swap_collection
from pipelines.state.lease import acquire_lease
from pipelines.state.tombstones import require_applied

SCHEMA_VERSION = 1
DEFAULT_SAMPLE = 200


@dataclass(frozen=True)
class PromoteRequest:
    """What is asked. `number`: the generation, or None for the one that is being built. `accept_missing`: documents
    that the live generation has, and this one not, are no reason to stay; `sample`: rows whose vectors are compared;
    `gates`: further checks, made after the others."""

    place: Place
    number: int | None = None
    dry_run: bool = False
    accept_missing: bool = False
    sample: int = DEFAULT_SAMPLE
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class Promoted:
    """What came of it. `before` is the generation that was live; `flipped` whether the pointer was moved."""

    collection: str
    generation: int
    before: int | None
    flipped: bool
    checks: tuple[Check, ...]
    dry_run: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    @property
    def exit_code(self) -> ExitCode:
        """5 if a check failed."""
        return ExitCode.OK if self.passed else ExitCode.REFUSED

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 generations promote --json` and `rollback --json` print."""
        return {
            "schema_version": SCHEMA_VERSION,
            "collection": self.collection,
            "generation": self.generation,
            "before": self.before,
            "promoted": self.flipped,
            "dry_run": self.dry_run,
            "checks": [check.as_json() for check in self.checks],
            "exit_code": int(self.exit_code),
        }


def promote(request: PromoteRequest) -> Promoted:
    """Make a generation live that is not, if every check passes.

    UsageError if there is none, or it is live or dropped; LockedError while a run is at work.
    """
    return _move(request, lambda state: _building(state, request.number))


def rollback(request: PromoteRequest) -> Promoted:
    """Make the generation live again that was it last. UsageError if none is retained."""
    return _move(replace(request, accept_missing=True), lambda state: _retained(state, request.number))


def _move(request: PromoteRequest, choose: Callable[[CollectionState], Generation]) -> Promoted:
    place = request.place
    state_of(place)
    with acquire_lease(place.paths) as lease:
        require_applied(place.paths)
        state = state_of(place)
        target = Collection(place, state, choose(state))
        asked = Asked(
            accept_missing=request.accept_missing,
            sample=request.sample,
            gates=request.gates,
            finish_loading=not request.dry_run,
            before_request=lease.check,
        )
        checks = tuple(checks_of(target, asked))
        flipped = all(check.passed for check in checks) and not request.dry_run
        if flipped:
            lease.check()
            swap_collection(place.paths, state, _flipped(state, target.generation))
        return Promoted(place.name, target.generation.number, state.live, flipped, checks, request.dry_run)


def _building(state: CollectionState, number: int | None) -> Generation:
    if number is None:
        found = [one for one in state.generations if one.status == "building"]
        if not found:
            raise UsageError(f"collection {state.collection!r} builds no generation", "m3 generations build")
        return found[-1]
    chosen = generation_of(state, number)
    if chosen.status in ("live", "dropped"):
        raise UsageError(f"generation {number} is {chosen.status}: it cannot be promoted", "m3 generations list")
    return chosen


def _retained(state: CollectionState, number: int | None) -> Generation:
    found = sorted((one for one in state.generations if one.status == "retired"), key=lambda one: one.retired)
    if number is not None:
        found = [one for one in found if one.number == generation_of(state, number).number]
    if not found:
        which = "no generation is retained" if number is None else f"generation {number} is not a retained one"
        raise UsageError(f"collection {state.collection!r}: {which}", "m3 generations list")
    return found[-1]


def _flipped(state: CollectionState, target: Generation) -> CollectionState:
    changed = [replace(target, status="live", retired="")]
    if state.live_generation is not None:
        changed.append(replace(state.live_generation, status="retired", retired=utc_now()))
    return replace(state.with_generations(*changed), live=target.number)


def refusal(done: Promoted) -> RefusedError:
    """The first check that failed, as an error."""
    failed = next(check for check in done.checks if not check.passed)
    return RefusedError(f"generation {done.generation} stays as it is: {failed.name}: {failed.detail}", failed.remedy)

"""`m3 repair` whole: lease, audit or a written plan, thresholds, and the plan carried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.operate.audit import Audit, audit, work_folder
from pipelines.operate.collection import Collection, Place
from pipelines.operate.repair import Repaired, carry_out, check_deletes
from pipelines.operate.repair_plan import Plan, read_plan, write_plan
from pipelines.state.lease import acquire_lease


@dataclass(frozen=True)
class RepairRequest:
    """What is asked. `plan`: a file to carry out, or, new and with `dry_run`, to write. `max_delete_fraction` bounds
    the rows that each store may lose; `sample`: rows whose vectors the audit compares."""

    place: Place
    plan: Path | None = None
    dry_run: bool = False
    max_delete_fraction: float = 0.05
    sample: int = 0


def repair(request: RepairRequest) -> tuple[Plan, Repaired | None]:
    """The plan and what came of it (None: a dry run).

    LockedError while a run is at work, also for a dry run: what a run changes meanwhile would be taken for drift.
    RefusedError for too many deletes, StoreError if a store that is to be mended, or compared, does not answer.
    """
    place = request.place
    Collection.open(place)
    with acquire_lease(place.paths) as lease, work_folder(place) as folder:
        collection = Collection.open(place)
        if request.plan is not None and (request.plan.exists() or not request.dry_run):
            plan = read_plan(request.plan, collection)
        else:
            found = audit(place, folder, sample=max(0, request.sample), own_run=True)
            _require_answers(found)
            target = folder / "plan.jsonl" if request.plan is None else request.plan
            plan = write_plan(target, collection, found.findings)
        check_deletes(collection, plan, request.max_delete_fraction)
        if request.dry_run:
            return plan, None
        return plan, carry_out(collection, plan, lease)


def _require_answers(found: Audit) -> None:
    """Raise what stopped the comparison of a store: half a comparison is no plan."""
    for store in found.stores:
        if store.error is not None:
            raise store.error

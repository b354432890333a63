"""The other generations follow: what a run took away from one, rows and rights, leaves those beside it as well.

A generation that is built, retained or (during a build) live is brought in line with the one that the run wrote:

- *Documents that left.* After a complete listing, whatever no source has; otherwise what the run deleted.
- *Rights and metadata.* Both manifests are joined, keys only. Where they differ and the run's generation has the newer
  revision, all chunks of the document get its acl and metadata: in stores and chunk files, then in the manifest. A
  field that the two declare differently keeps its own value. New texts never follow: they are a build's business.

The manifest of the follower comes last, after every store acknowledged and was published. So a run that is killed
before leaves nothing that the next one does not find again: both parts ask what is, not what happened. Until all of it
is done `applied_run` stays, and the generation counts as behind: it cannot be promoted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from m3core.errors import ConfigError, M3Error, MissingExtraError, RefusedError, StateError, StoreError
from pipelines.ingest.follower import Follower, Left
from pipelines.ingest.session import Run, Session
from pipelines.state.collection import Generation, read_collection, swap_collection

__all__ = ["Left", "follow"]

Asked = TypeVar("Asked", bound=Session)

# Faults of one follower, which the run itself can do without.
_FAULTS = (StoreError, StateError, RefusedError, ConfigError, MissingExtraError)


def follow(run: Run[Asked], left: Left) -> list[str]:
    """Bring the generations beside the run's in line with it. Returns a line for each that could not be.

    Raises LockedError and DiskFullError; what is wrong with one follower only is told in its line.
    """
    paths = run.request.paths
    state = read_collection(paths)
    if state is None:
        return []
    own = state.generation(run.generation.number)
    # What was live and up to date is so after any run of its own; what is being built is so after a whole run only.
    seen = [own] if own.status == "live" and own.applied_run == run.number - 1 else []
    faults: list[str] = []
    for generation in state.beside(own.number):
        try:
            Follower(run, generation).bring(left)
        except _FAULTS as error:
            faults.append(_fault(generation, error))
            continue
        if left.complete or generation.applied_run == run.number - 1:
            seen.append(generation)
    if seen:
        run.lease.check()
        now = (replace(generation, applied_run=run.number) for generation in seen)
        swap_collection(paths, state, state.with_generations(*now))
    return faults


def _fault(generation: Generation, error: M3Error) -> str:
    remedy = f". Remedy: {error.remedy}" if error.remedy else ""
    later = "" if generation.status == "live" else "; until it has, it cannot be promoted"
    return f"generation {generation.number} ({generation.status}) has not followed{later}: {error.message}{remedy}"

"""What a generation must prove before searches find it.

It has seen the deletes and acl changes of every run; nothing of it waits for a store; every store has as many rows as
its manifest has chunks (none of a document that it refused); a sample of stored vectors gives the scores that the
lake's vectors give. A promotion also asks that no document of the live generation is missing in it, or older, unless
the caller accepts that. What else is asked (queries of the user) comes as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.protocol import LoadingSink, no_check
from m3core.errors import LockedError, M3Error
from m3core.terminal import counted
from pipelines.operate.audit import work_folder
from pipelines.operate.collection import Collection
from pipelines.operate.expected import write_expected
from pipelines.operate.findings import Findings
from pipelines.operate.sampling import Sample, compare_vectors, draw
from pipelines.operate.stores import Store, stores_of
from pipelines.state.collection import Generation
from pipelines.state.manifest import Manifest, ManifestCounts
from pipelines.state.tables import duckdb_connection

_MISSING = """
SELECT count(*) FILTER (t.tenant IS NULL),
       count(*) FILTER (t.stamp = '' OR (t.content_hash <> l.content_hash AND l.revision > t.revision))
FROM live l LEFT JOIN target t ON l.tenant = t.tenant AND l.doc_id = t.doc_id
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `remedy` if it did not pass."""

    name: str
    passed: bool
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """In the order of the fields."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "remedy": self.remedy or None}


Gate = Callable[[Generation], Check]


@dataclass(frozen=True)
class Asked:
    """What is to be proved.

    `accept_missing`: documents that the live generation has, and this one not, are no reason to stay; `sample`: rows
    whose vectors are compared; `gates`: further checks, made last; `finish_loading`: settings for loading are taken
    back, with `before_request` before each request.
    """

    accept_missing: bool
    sample: int
    gates: tuple[Gate, ...]
    finish_loading: bool
    before_request: Callable[[], None] = no_check


def checks_of(target: Collection, asked: Asked) -> Iterator[Check]:
    """The cheap ones first; gates are asked only of a generation that is whole. LockedError if a reader's copy of an
    embedded store cannot be had, or the lease is lost."""
    behind = _check_behind(target)
    yield behind
    counts = target.manifest.counts()
    pending = _check_pending(target, counts)
    yield pending
    with work_folder(target.place) as folder:
        missing = _check_missing(target, folder, accepted=asked.accept_missing)
        yield missing
        stores = list(_check_stores(target, counts, folder, asked))
        yield from stores
    if all(check.passed for check in (behind, pending, missing, *stores)):
        for gate in asked.gates:
            yield gate(target.generation)


def _check_behind(target: Collection) -> Check:
    state, generation = target.state, target.generation
    building = generation.status == "building"
    if not state.is_behind(generation.number):
        return Check("up to date", True, f"it has seen run {state.run}, the last one")
    seen = f"of runs after {generation.applied_run}" if generation.applied_run else "of any run"
    return Check(
        "up to date",
        False,
        f"it is behind: it may not have seen the deletes and acl changes {seen} (the last run is {state.run})",
        "m3 generations build, then again" if building else "m3 ingest, then again",
    )


def _check_pending(target: Collection, counts: ManifestCounts) -> Check:
    waiting = {name: count for name, count in counts.pending.items() if count}
    told = ", ".join(f"{counted(count, 'document')} for {name}" for name, count in waiting.items())
    held = f"{counted(counts.documents, 'document')} in {counted(counts.chunks, 'chunk')}"
    if not counts.documents:
        remedy = "m3 dead-letters list says why nothing went in; m3 generations build, then again"
        return Check("complete", False, "it has no document: no search would find anything", remedy)
    if not waiting:
        return Check("complete", True, f"{held}, nothing waits for a store")
    return Check("complete", False, f"{held}, but waiting: {told}", _mend(target.generation))


def _mend(generation: Generation) -> str:
    """What helps against rows that are not there: only a build writes rows beside the live generation."""
    if generation.status == "building":
        return "m3 generations build, then again"
    return f"m3 generations drop {generation.number}, and build it anew"


def _check_missing(target: Collection, folder: Path, *, accepted: bool) -> Check:
    live = target.state.live_generation
    if live is None:
        return Check("nothing missing", True, "no generation is live")
    with duckdb_connection(folder) as database:
        Manifest(target.paths, live.number).attach(database, "live")
        target.manifest.attach(database, "target")
        found: Any = database.execute(_MISSING).fetchone()
    missing, older = int(found[0]), int(found[1])
    if not missing and not older:
        return Check("nothing missing", True, f"every document of generation {live.number} is in it, none older")
    parts = [f"{counted(missing, 'document')} of generation {live.number} missing"] if missing else []
    parts += [f"{counted(older, 'document')} older than there"] if older else []
    remedy = "" if accepted else "m3 generations build, then again; or --accept-missing"
    return Check("nothing missing", accepted, " and ".join(parts), remedy)


def _check_stores(target: Collection, counts: ManifestCounts, folder: Path, asked: Asked) -> Iterator[Check]:
    """Settings for searching, rows of every store, and the scores of some of them."""
    expected = write_expected(target, folder)
    drawn = draw(target, expected, asked.sample)
    with Findings(folder / "findings.jsonl") as findings:
        for store in stores_of(target):
            try:
                if asked.finish_loading:
                    _finish_loading(store, asked.before_request)
                yield _check_store(store, counts.rows_of(store.name), drawn, findings)
            except LockedError:
                raise
            except M3Error as error:
                yield Check(f"store {store.name}", False, error.message, error.remedy)


def _finish_loading(store: Store, before_request: Callable[[], None]) -> None:
    with store.sink(store.options(before_request=before_request)) as sink:
        if isinstance(sink, LoadingSink):
            sink.finish_loading()


def _check_store(store: Store, chunks: int, drawn: Sample, findings: Findings) -> Check:
    name = f"store {store.name}"
    rows = store.count()
    if rows != chunks:
        found = f"{counted(rows, 'row')} for {counted(chunks, 'chunk')}"
        return Check(name, False, found, _mend(store.collection.generation))
    compared = compare_vectors(store, drawn, findings)
    wrong = findings.counts[store.name, "wrong_vectors"]
    if wrong or compared != len(drawn.vectors):
        found = f"{wrong} of {compared} rows have other vectors than the lake, {len(drawn.vectors) - compared} none"
        number = store.collection.generation.number
        return Check(name, False, found, f"m3 generations drop {number}, and build it anew")
    return Check(name, True, f"{counted(rows, 'row')}, {compared} compared with the lake")

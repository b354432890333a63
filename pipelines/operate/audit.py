"""Manifest, chunk files, lake and every store compared. Reads only, takes no lease, memory is bounded.

The manifest is read first. While a run is at work, rows of its revision are not judged, and what it deletes between the
two readings looks missing: the answer names the run, so that whoever asks can ask again after it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3core.errors import ExitCode, M3Error
from pipelines.operate.collection import Collection, Place
from pipelines.operate.comparing import Compared, compare_acls, compare_rows
from pipelines.operate.expected import Expected, write_expected
from pipelines.operate.findings import Finding, Findings
from pipelines.operate.history import current_writer
from pipelines.operate.lake_check import LakeCheck, check_lake, rows_without
from pipelines.operate.sampling import Sample, compare_vectors, draw
from pipelines.operate.stores import Store, stores_of
from pipelines.state.files import temporary_folder

SCHEMA_VERSION = 1
DEFAULT_SAMPLE = 200


@dataclass(frozen=True)
class StoreAudit:
    """One store. `acls` and `sampled` count rows whose acl and vectors were compared; `acls` is None where the store
    does not give them back. With `error` the store could not be compared, or not to the end."""

    name: str
    compared: Compared
    counts: dict[str, int]
    first: dict[str, list[str]]
    acls: int | None
    sampled: int
    error: M3Error | None = None

    @property
    def drifted(self) -> int:
        """Rows that are not as they should be."""
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """Counts of rows; `first` names a few of each kind."""
        error = self.error
        wrong_acl = None if self.acls is None else self.counts["wrong_acl"]
        return {
            "rows": self.compared.rows,
            **self.counts,
            "wrong_acl": wrong_acl,
            "pending": self.compared.pending,
            "in_flight": self.compared.in_flight,
            "compared_acls": self.acls,
            "compared_vectors": self.sampled,
            "first": self.first,
            "error": None if error is None else {"code": error.code, "message": error.message, "remedy": error.remedy},
        }


@dataclass(frozen=True)
class Audit:
    """What an audit found. `findings` lie in a file of the caller's folder. `running` is the run that was at work."""

    collection: Collection
    expected: Expected
    lake: LakeCheck
    lost_rows: int
    lost_vectors: int
    stores: tuple[StoreAudit, ...]
    findings: Path
    running: int | None

    @property
    def drifted(self) -> bool:
        """Whether something differs; damage that no document needs does not count as drift."""
        damage = self.lost_rows or self.lost_vectors or self.lake.corrupt or self.expected.damaged
        return bool(damage) or any(store.drifted for store in self.stores)

    @property
    def clean(self) -> bool:
        """Everything was compared and nothing differs."""
        return not self.drifted and not any(store.error for store in self.stores)

    @property
    def exit_code(self) -> ExitCode:
        """7 if a store did not answer, 8 on drift."""
        if any(store.error for store in self.stores):
            return ExitCode.UNREACHABLE
        return ExitCode.DRIFT if self.drifted else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 audit --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "collection": self.collection.place.name,
            "generation": self.collection.generation.number,
            "clean": self.clean,
            "running": self.running,
            "documents": self.expected.documents,
            "chunks": self.expected.chunks,
            "stores": {store.name: store.as_json() for store in self.stores},
            "chunk_files": {
                "files": self.expected.chunk_files,
                "rows": self.expected.chunk_rows,
                "damaged": len(self.expected.damaged),
                "missing": self.lost_rows,
            },
            "lake": {
                "files": self.lake.files,
                "rows": self.lake.rows,
                "corrupt": len(self.lake.corrupt),
                "missing": self.lost_vectors,
                "unreferenced": self.lake.unreferenced,
            },
            "not_compared": {store.name: not_compared(store) for store in self.stores},
        }


def not_compared(store: StoreAudit) -> list[str]:
    """What of a store's rows an audit cannot see."""
    hidden = ["text", "metadata"] if store.acls is not None else ["acl"]
    return [*hidden, "vectors beyond the sample"]


def work_folder(place: Place) -> AbstractContextManager[Path]:
    """A folder for sorting, beside the runs, gone at the end; ids and stamps only."""
    return temporary_folder(place.paths.runs, "audit")


def audit(place: Place, folder: Path, *, sample: int = DEFAULT_SAMPLE, own_run: bool = False) -> Audit:
    """Compare everything, working in `folder`. UsageError if no run has begun, StateError if the manifest is damaged.

    A store that does not answer is a part of the answer. `own_run`: the caller holds the lease, nobody else writes.
    """
    collection = Collection.open(place)
    running = _running(collection, own_run=own_run)
    expected = write_expected(collection, folder)
    lake = check_lake(collection, expected)
    drawn = draw(collection, expected, sample)
    with Findings(folder / "findings.jsonl") as findings:
        for path in (*lake.corrupt, *expected.damaged):
            findings.add(Finding("", "corrupt_file", str(path.relative_to(place.paths.root))))
        for row in rows_without(expected):
            kind = "lost_row" if row.lake_key is None else "lost_vectors"
            findings.add(Finding("", kind, row.id, row.tenant, row.doc_id, row.revision))
        stores = tuple(_audit_store(store, expected, drawn, findings, running) for store in stores_of(collection))
    if running is None:
        running = _running(Collection.open(place), own_run=own_run)
    return Audit(
        collection=collection,
        expected=expected,
        lake=lake,
        lost_rows=findings.counts["", "lost_row"],
        lost_vectors=findings.counts["", "lost_vectors"],
        stores=stores,
        findings=findings.path,
        running=running,
    )


def _running(collection: Collection, *, own_run: bool) -> int | None:
    writing = not own_run and current_writer(collection.paths) is not None
    return collection.state.run if writing else None


def _audit_store(
    store: Store, expected: Expected, sample: Sample, findings: Findings, running: int | None
) -> StoreAudit:
    compared, error = Compared(), None
    acls = 0 if store.binding.text else None
    sampled = 0
    try:
        compared = compare_rows(store, expected, findings, running)
        if store.binding.text:
            acls = compare_acls(store, expected, findings)
        sampled = compare_vectors(store, sample, findings)
    except M3Error as caught:
        error = caught
    first = {kind: ids for (name, kind), ids in findings.first.items() if name == store.name}
    return StoreAudit(store.name, compared, findings.of_store(store.name), first, acls, sampled, error)

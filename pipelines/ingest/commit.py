"""The last step of a wave: the documents whose chunks every store acknowledged go into the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from connectors.protocol import Sink
from pipelines.ingest.embed import Refused
from pipelines.ingest.load import Loaded
from pipelines.ingest.reading import Prepared
from pipelines.state.lease import Lease
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest
from pipelines.state.runs import DeadLetter, RunFolder

Outcome = Prepared | Loaded | DeadLetter


@dataclass(frozen=True)
class CommitStep:
    """What committing needs."""

    run: int
    manifest: Manifest
    folder: RunFolder
    lease: Lease
    sinks: Mapping[str, Sink]


@dataclass
class Committed:
    """Documents of one wave, by what happened to them. `letters` are the wave's dead letters."""

    changes: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    letters: list[DeadLetter] = field(default_factory=list)

    @property
    def documents(self) -> int:
        """Documents that the manifest got."""
        return sum(self.changes.values())


@dataclass
class _Wave:
    documents: dict[DocumentKey, Prepared] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    refused: dict[str, Refused] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)


def commit_wave(wave: int, outcomes: Iterable[Outcome], step: CommitStep) -> Committed:
    """Write the wave's dead letters, then its manifest delta: durable and visible as a whole, or not at all.

    A document with a chunk that a store refused is a dead letter: it keeps its old version. A document with a chunk
    that nobody acknowledged (the run was stopped) is left out; its vectors wait in the lake. Of both, chunks that are
    new in this version leave the stores again.
    """
    gathered = _gather(outcomes)
    committed = Committed(letters=gathered.letters)
    records: list[DocumentRecord] = []
    unfinished: list[DocumentRecord] = []
    for prepared in gathered.documents.values():
        record = prepared.record
        if prepared.change == "unchanged" or gathered.acknowledged.issuperset(record.chunk_ids):
            records.append(record)
            committed.changes[prepared.change] += 1
            committed.chunks += 0 if prepared.change == "unchanged" else len(record.chunk_ids)
            continue
        unfinished.append(record)
        refused = next((gathered.refused[name] for name in record.chunk_ids if name in gathered.refused), None)
        if refused is not None:
            committed.letters.append(_refused_letter(record, refused))
    _write(wave, records, committed, step)
    _take_back(unfinished, gathered.acknowledged.union(gathered.refused), step)
    return committed


def _gather(outcomes: Iterable[Outcome]) -> _Wave:
    wave = _Wave()
    for outcome in outcomes:
        if isinstance(outcome, Prepared):
            wave.documents[outcome.record.key] = outcome
        elif isinstance(outcome, Loaded):
            wave.acknowledged.update(outcome.acknowledged)
            wave.refused.update((refused.chunk_id, refused) for refused in outcome.refused)
        else:
            wave.letters.append(outcome)
    return wave


def _write(wave: int, records: list[DocumentRecord], committed: Committed, step: CommitStep) -> None:
    step.lease.check()
    if committed.letters:
        step.folder.add_dead_letters(committed.letters)
    if records:
        for sink in step.sinks.values():
            if not sink.capabilities.embedded:
                sink.flush()
        step.lease.check()
        step.manifest.append(step.run, wave, records)


def _take_back(unfinished: list[DocumentRecord], written: set[str], step: CommitStep) -> None:
    """Delete chunks that only the unfinished version of a document has; what it shares with the old version stays."""
    old = step.manifest.find([record.key for record in unfinished]) if unfinished else {}
    ids: set[str] = set()
    for record in unfinished:
        before = old[record.key].chunk_ids if record.key in old else ()
        ids |= written.intersection(record.chunk_ids).difference(before)
    for sink in step.sinks.values() if ids else ():
        step.lease.check()
        sink.delete(sorted(ids))


def _refused_letter(record: DocumentRecord, refused: Refused) -> DeadLetter:
    return DeadLetter(
        stage=refused.stage,
        tenant=record.tenant,
        doc_id=record.doc_id,
        source_path=record.source,
        error_code="refused",
        message=refused.reason,
        chunk_id=refused.chunk_id,
    )

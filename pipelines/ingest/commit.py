"""The last step of a wave: the documents whose chunks every store at work acknowledged go into the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from connectors.protocol import Sink
from m3core.errors import StoreError
from pipelines.ingest.embed import Refused
from pipelines.ingest.events import RunEvents
from pipelines.ingest.load import Loaded
from pipelines.ingest.reading import Prepared
from pipelines.ingest.stores import Stores, delete_from
from pipelines.state.documents import REFUSED
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest
from pipelines.state.runs import DeadLetter, RunFolder

Outcome = Prepared | Loaded | DeadLetter

# Documents that the manifest has, and that come from the state folder because a store waits for them.
_RESTORED = ("pending", "kept")


class Fence(Protocol):
    """What says whether this process may still write: the lease, or what a worker sees of it."""

    def check(self) -> None:
        """LockedError if not."""


@dataclass(frozen=True)
class CommitStep:
    """What committing needs. `announce` is told what a commit does, just before it counts."""

    run: int
    manifest: Manifest
    folder: RunFolder
    lease: Fence
    stores: Stores
    announce: Callable[[Committed], None] = lambda committed: None


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
    refused: dict[str, dict[str, Refused]] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    given_up: dict[str, StoreError] = field(default_factory=dict)

    def refusals(self, record: DocumentRecord) -> dict[str, Refused]:
        """One refusal of each store (or the encoder, as an empty name) that refused a chunk of the document."""
        return {store: each for name in record.chunk_ids for store, each in self.refused.get(name, {}).items()}

    def answered(self, record: DocumentRecord) -> bool:
        """Whether every chunk of the document was taken or refused by stores."""
        return all(name in self.acknowledged or "" not in self.refused.get(name, {"": 0}) for name in record.chunk_ids)


def commit_wave(wave: int, outcomes: Iterable[Outcome], step: CommitStep) -> Committed:
    """Write the wave's dead letters, then its manifest delta: durable and visible as a whole, or not at all.

    A document with a chunk that a store refused is a dead letter: it keeps its old version. One that the manifest has
    already, and that only waited for that store, is left out of it: the others have it. A document with a chunk
    that nobody acknowledged (the run was stopped) is left out; its vectors wait in the lake. Of both, chunks that are
    new in this version leave the stores again. For a store that was given up, all documents of the wave are pending,
    also those whose rows it took before it failed: nobody knows whether it kept them.
    """
    gathered = _gather(outcomes)
    for name, error in gathered.given_up.items():
        if name not in step.stores.standing.absent:
            step.stores.give_up(name, error)
    committed = Committed(letters=gathered.letters)
    whole: list[Prepared] = []
    unfinished: list[DocumentRecord] = []
    refusing: list[tuple[Prepared, tuple[str, ...]]] = []
    for prepared in gathered.documents.values():
        record = prepared.record
        if prepared.change == "unchanged" or gathered.acknowledged.issuperset(record.chunk_ids):
            whole.append(prepared)
            committed.changes[prepared.change] += 1
            committed.chunks += 0 if prepared.change == "unchanged" else len(record.chunk_ids)
            continue
        refusals = gathered.refusals(record)
        if refusals:
            committed.letters.append(_refused_letter(record, next(iter(refusals.values()))))
        if prepared.change in _RESTORED and refusals and gathered.answered(record):
            refusing.append((replace(prepared, change="refused"), tuple(refusals)))
        else:
            unfinished.append(record)
    step.lease.check()
    events = RunEvents(step.folder.paths.collection, step.run)
    if committed.letters:
        step.folder.add_dead_letters(committed.letters)
        for letter in committed.letters:
            events.dead_letter(letter)
    owed = _take_back(unfinished, gathered.acknowledged.union(gathered.refused), step)
    records = [*_records(whole + _leave_out(refusing, step), step, owed), *owed]
    step.announce(committed)
    step.manifest.append(step.run, wave, records)
    events.say("wave committed", wave=wave, documents=committed.documents, chunks=committed.chunks)
    return committed


def _gather(outcomes: Iterable[Outcome]) -> _Wave:
    wave = _Wave()
    for outcome in outcomes:
        if isinstance(outcome, Prepared):
            wave.documents[outcome.record.key] = outcome
        elif isinstance(outcome, Loaded):
            wave.acknowledged.update(outcome.acknowledged)
            for refused in outcome.refused:
                wave.refused.setdefault(refused.chunk_id, {})[refused.store] = refused
            wave.given_up.update({name: StoreError(*said) for name, said in outcome.given_up.items()})
        else:
            wave.letters.append(outcome)
    return wave


def _records(whole: list[Prepared], step: CommitStep, owed: list[DocumentRecord]) -> list[DocumentRecord]:
    """Records of whole documents, with the stores that have them; servers keep what they got before they are named."""
    if not (whole or owed):
        return []
    for name in step.stores.servers:
        step.lease.check()
        step.stores.attempt(name, _flush)
    step.lease.check()
    return [
        one.record if one.change == "unchanged" else replace(one.record, status=step.stores.status_after(one.record))
        for one in whole
    ]


def _leave_out(refusing: list[tuple[Prepared, tuple[str, ...]]], step: CommitStep) -> list[Prepared]:
    """Take documents out of the stores that refused a row of them; they do not wait for these stores any more, except
    for one that failed meanwhile."""
    ids: dict[str, list[str]] = {}
    for prepared, stores in refusing:
        for store in stores:
            ids.setdefault(store, []).extend((*prepared.record.chunk_ids, *prepared.record.obsolete_chunk_ids))
    for store, every in sorted(ids.items()):
        if store in step.stores.at_work:
            delete_from(step.stores, store, every, step.lease.check)
    out = []
    for prepared, stores in refusing:
        status = {name: REFUSED if name not in step.stores.standing.absent else "pending" for name in stores}
        out.append(replace(prepared, record=replace(prepared.record, status={**prepared.record.status, **status})))
    return out


def _flush(sink: Sink) -> None:
    sink.flush()


def _take_back(unfinished: list[DocumentRecord], written: set[str], step: CommitStep) -> list[DocumentRecord]:
    """Delete chunks that only the unfinished version of a document has; what it shares with the old version stays.

    Returns records that remember what a store that was given up has still to delete.
    """
    old = step.manifest.find([record.key for record in unfinished], removed=True, before=(step.run, 0))
    new: dict[DocumentKey, set[str]] = {}
    for record in unfinished:
        before = old.get(record.key)
        kept = () if before is None or before.removed else before.chunk_ids
        if ids := written.intersection(record.chunk_ids).difference(kept):
            new[record.key] = ids
    every = sorted(set().union(*new.values()))
    for name in list(step.stores.at_work) if every else ():
        delete_from(step.stores, name, every, step.lease.check)
    down = step.stores.standing.down
    records = {record.key: record for record in unfinished}
    remember = partial(_remember, down=tuple(down), run=step.run)
    return [remember(old.get(key), records[key], ids) for key, ids in new.items()] if down else []


def _remember(
    old: DocumentRecord | None, unfinished: DocumentRecord, ids: set[str], *, down: tuple[str, ...], run: int
) -> DocumentRecord:
    """The old version with more to delete; without one, a row of a document that is gone."""
    if old is None:
        status = {name: "pending" if name in down else "done" for name in unfinished.status}
        return replace(
            unfinished, chunk_ids=tuple(sorted(ids)), obsolete_chunk_ids=(), revision=run, status=status, removed=True
        )
    status = {name: "pending" if name in down else state for name, state in old.status.items()}
    return replace(old, obsolete_chunk_ids=tuple(sorted({*old.obsolete_chunk_ids, *ids})), status=status)


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

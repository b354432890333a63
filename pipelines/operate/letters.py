"""Dead letters by hand: which there are, read again by the next run, or forgotten.

Every run reads a failed document again by itself, because its manifest row, if there is one, has another stamp. What a
run does not read again is a document that is as it was, but whose rows are lost: `replay` forgets its stamp.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from m3core.errors import UsageError
from pipelines.operate.collection import Collection, Place
from pipelines.state.batches import in_batches
from pipelines.state.collection import begin_run
from pipelines.state.deadletters import forget_letters
from pipelines.state.documents import REFUSED
from pipelines.state.lease import acquire_lease
from pipelines.state.manifest import DocumentKey, DocumentRecord
from pipelines.state.runs import DeadLetter, RunFolder, read_dead_letters

ID_DIGITS = 12
_SHORTEST = 4
_BATCH = 1000


@dataclass(frozen=True)
class Letter:
    """A dead letter and the short id that names it on the command line."""

    id: str
    letter: DeadLetter

    @classmethod
    def of(cls, letter: DeadLetter) -> Letter:
        """The id is of what failed, so it stays while attempts and messages change."""
        parts = (letter.tenant, letter.doc_id, letter.source_path, letter.chunk_id)
        digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
        return cls(digest[:ID_DIGITS], letter)

    def as_json(self) -> dict[str, Any]:
        """No text of the document, no secret."""
        one = self.letter
        return {
            "id": self.id,
            "stage": one.stage,
            "tenant": one.tenant,
            "doc_id": one.doc_id,
            "source": one.source_path,
            "chunk_id": one.chunk_id or None,
            "error": one.error_code,
            "message": one.message,
            "attempts": one.attempts,
            "first_seen": one.first_seen,
            "last_seen": one.last_seen,
            "run": one.run,
        }


@dataclass(frozen=True)
class Found:
    """The first letters of the current view, and how many there are."""

    letters: tuple[Letter, ...]
    total: int


def list_letters(place: Place, limit: int | None = None) -> Found:
    """Unresolved letters by place in the sources; at most `limit` of them are held."""
    kept: list[Letter] = []
    total = 0
    for letter in read_dead_letters(place.paths):
        total += 1
        if limit is None or len(kept) < limit:
            kept.append(Letter.of(letter))
    return Found(tuple(kept), total)


def find_letters(place: Place, ids: Sequence[str]) -> list[Letter]:
    """The letters that the ids name, each by its first digits. UsageError for an unknown or an ambiguous one."""
    for given in ids:
        if len(given) < _SHORTEST:
            raise UsageError(f"dead letter id {given!r} is too short", f"give at least {_SHORTEST} digits of it")
    named: dict[str, list[Letter]] = {given: [] for given in ids}
    for letter in map(Letter.of, read_dead_letters(place.paths)):
        for given in ids:
            if letter.id.startswith(given.lower()):
                named[given].append(letter)
    for given, letters in named.items():
        if not letters:
            raise UsageError(f"no dead letter has the id {given[:40]!r}", "m3 dead-letters list")
        if len(letters) > 1:
            raise UsageError(f"{len(letters):,} dead letters have ids that begin with {given!r}", "give more digits")
    return list({letters[0].id: letters[0] for letters in named.values()}.values())


def drop(place: Place, ids: Sequence[str] | None, *, dry_run: bool = False) -> int:
    """Forget letters (all of them if `ids` is None); returns how many. A document that fails again alarms again.

    LockedError while a run is at work, UsageError for unknown ids.
    """
    chosen = _chosen(place, ids)
    if chosen and not dry_run:
        with acquire_lease(place.paths) as lease:
            lease.check()  # a letter that a run resolved since it was listed is no error
            forget_letters(place.paths, [one.letter for one in chosen])
    return len(chosen)


@dataclass(frozen=True)
class Replayed:
    """Letters whose documents the next run reads; `restored` of them were as they were, and had their stamps taken."""

    letters: int
    restored: int


def replay(place: Place, ids: Sequence[str] | None, *, dry_run: bool = False) -> Replayed:
    """Let the next `m3 ingest` read the documents of letters (of all if `ids` is None) again, whatever their stamps.

    The letters stay until then. LockedError while a run is at work, UsageError for unknown ids.
    """
    chosen = _chosen(place, ids)
    documents = {(one.letter.tenant, one.letter.doc_id) for one in chosen if one.letter.doc_id}
    if not documents:
        return Replayed(len(chosen), 0)
    if dry_run:
        return Replayed(len(chosen), sum(1 for _ in _stamped(Collection.open(place), documents)))
    with acquire_lease(place.paths) as lease:
        collection = Collection.open(place)
        if not any(True for _ in _stamped(collection, documents)):
            return Replayed(len(chosen), 0)
        run = begin_run(place.paths, lease, mending=True).run
        folder = RunFolder.create(place.paths, run, place.config.model_dump(mode="json"))
        restored = 0
        for wave, batch in enumerate(in_batches(_stamped(collection, documents), _BATCH), start=1):
            lease.check()
            collection.manifest.append(run, wave, [_to_read(record) for record in batch])
            restored += len(batch)
        folder.write_report({"command": "dead-letters replay", "exit_code": 0, "rows": {"read_again": restored}})
    return Replayed(len(chosen), restored)


def _to_read(record: DocumentRecord) -> DocumentRecord:
    """Without its stamp, and waiting for the stores that refused a row of it."""
    waiting = {name: "pending" for name, state in record.status.items() if state == REFUSED}
    return replace(record, stamp="", status={**record.status, **waiting})


def _chosen(place: Place, ids: Sequence[str] | None) -> list[Letter]:
    return list(list_letters(place).letters) if ids is None else find_letters(place, ids)


def _stamped(collection: Collection, documents: set[DocumentKey]) -> Iterator[DocumentRecord]:
    """Records of these documents that would be taken for unchanged."""
    manifest = collection.manifest
    for batch in in_batches(sorted(documents), _BATCH):
        yield from (record for record in manifest.find(batch).values() if record.stamp)

"""The same histories over several generations: built beside the live one, promoted, rolled back, dropped.

They differ in the length of their chunks. What is claimed of one that is not live: after a whole run it shows no
document that left, and of every other one the rights and metadata that the live one shows, whatever its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis.stateful import precondition, rule

from m3core.errors import ExitCode, RefusedError
from pipelines.ingest.report import IngestReport
from pipelines.operate.dropping import DropRequest, drop
from pipelines.operate.promoting import Promoted, PromoteRequest, promote, rollback
from pipelines.state.collection import CollectionState, read_collection
from pipelines.state.documents import DocumentKey
from pipelines.state.manifest import Manifest
from tests.pipelines.histories.machine import Histories
from tests.pipelines.histories.world import Shown, Version, shown
from tests.pipelines.ingest.outage import TWO

_MOST = 3
_SAMPLE = 5


class GenerationHistories(Histories):
    """`allowed` is about the generation that is live."""

    def __init__(self) -> None:
        super().__init__()
        # What has not left: listed by the last run, or brought by one that was cut short.
        self._there: set[DocumentKey] = set()

    @precondition(lambda self: self._begun and (self._number("building") or len(self._state.generations) < _MOST))
    @rule()
    def build(self) -> None:
        self._build()

    @precondition(lambda self: self._begun and not self._board.down and len(self._state.generations) < _MOST)
    @rule()
    def build_and_promote(self) -> None:
        """A whole build may always go live, at once, if any document is in it."""
        if self._build():
            number = self._number("building")
            assert self._goes_live(number, promote) == self._is_whole(number)

    @precondition(lambda self: self._begun and self._number("building"))
    @rule()
    def promote(self) -> None:
        self._goes_live(self._number("building"), promote)

    @precondition(lambda self: self._begun and self._number("retired"))
    @rule()
    def rollback(self) -> None:
        before = None if self._unsettled else shown(self._seen)
        target = self._number("retired")
        if self._goes_live(target, rollback) and before is not None:
            self._has_rights_of(before, shown(self._seen))

    @precondition(lambda self: self._begun and self._number("retired"))
    @rule()
    def drop(self) -> None:
        done = drop(DropRequest(self._place, self._number("retired"), now=True))
        assert done.exit_code is ExitCode.OK or self._board.down

    def _build(self) -> bool:
        """Whether it was built whole. Of documents that are gone, and of rights, the live generation follows."""
        number = self._number("building") or len(self._state.generations) + 1
        self._write_source()
        wanted = self._listed()
        self._there |= _present(wanted)
        for key, new in wanted.items():
            for old in list(self._versions(key)):
                self._allow(key, _with_rights(old, new))
        with self._chunks_of(number):
            done = self._done(lambda: self._project.ingest(build=True))
        if done is None or done.exit_code not in (ExitCode.OK, ExitCode.DEAD_LETTERS):
            self._unsettled = True
            return False
        for key, new in wanted.items():
            if new is None:
                self.allowed[key] = {None}
        self._there = _present(wanted)
        built = self._project.of_generation(number)
        built.check_agreement()
        found = shown(built)
        for key, new in wanted.items():
            if new is None or not new.poisoned:
                assert found.get(key) == new, key
        return self._state.generation(number).applied_run == self._state.run

    def _goes_live(self, number: int, move: object) -> bool:
        """Promote or roll back; whether it was done. What the generation holds is then what searches find.

        Refused while a purge waits for a store: the next run carries it out first.
        """
        whole = self._is_whole(number)
        found = shown(self._project.of_generation(number)) if whole else {}
        request = PromoteRequest(self._place, accept_missing=True, sample=_SAMPLE)
        try:
            done = move(request)  # type: ignore[operator]
        except RefusedError:
            assert self._purge_waits
            return False
        assert isinstance(done, Promoted)
        assert whole or not done.flipped
        if done.flipped:
            self._project.settings["chunking"] = _chunking(number)
            keys = found.keys() | self.allowed.keys()
            self.allowed = {key: {found.get(key)} for key in keys}
            self._agrees()
        return done.flipped

    def _run(
        self, command: Callable[[], IngestReport], wanted: dict[DocumentKey, Version | None], *, waits: bool = False
    ) -> None:
        self._there |= _present(wanted)
        super()._run(command, wanted, waits=waits)
        if wanted and not waits and not self._unsettled:
            self._there = _present(wanted)

    def _has_left(self, key: DocumentKey) -> None:
        self._there.discard(key)

    def _agrees_beside(self) -> None:
        if self._unsettled:
            return
        live = shown(self._seen)
        for each in self._state.beside(self._live):
            if each.applied_run < self._state.run:
                continue
            seen = self._project.of_generation(each.number)
            if not self._is_whole(each.number):
                continue
            records = Manifest(self._project.paths, each.number).records(removed=True)
            self._has_rights_of(live, shown(seen))
            named = {name for one in records for name in (*one.chunk_ids, *one.obsolete_chunk_ids)}
            assert all(seen.rows(store).keys() <= named for store in TWO)

    def _is_whole(self, number: int) -> bool:
        """Whether it has documents and none waits: a store that was down may not even have been made."""
        records = list(Manifest(self._project.paths, number).records(removed=True))
        return bool(records) and not any(record.waiting() for record in records)

    def _has_rights_of(self, live: Shown, found: Shown) -> None:
        """What only one generation has was added to it alone, or could not be ingested into the other."""
        for key, version in found.items():
            if key in live:
                assert (version.year, version.acl) == (live[key].year, live[key].acl), key
            else:
                assert key in self._there, key

    def _number(self, status: str) -> int:
        """The newest generation of that status; 0 if there is none."""
        return max((one.number for one in self._state.generations if one.status == status), default=0)

    @contextmanager
    def _chunks_of(self, number: int) -> Iterator[None]:
        before = self._project.settings.get("chunking", _chunking(1))
        self._project.settings["chunking"] = _chunking(number)
        yield
        self._project.settings["chunking"] = before

    @property
    def _state(self) -> CollectionState:
        state = read_collection(self._project.paths)
        assert state is not None
        return state


def _chunking(number: int) -> dict[str, int]:
    return {"max_tokens": 32 + 16 * number}


def _present(wanted: dict[DocumentKey, Version | None]) -> set[DocumentKey]:
    return {key for key, version in wanted.items() if version is not None}


def _with_rights(old: Version | None, new: Version | None) -> Version | None:
    if old is None or new is None:
        return None
    return old if new.poisoned else Version(old.text, new.year, new.acl)

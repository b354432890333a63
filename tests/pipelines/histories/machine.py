"""Random histories of a collection against a model of a few lines: what may be searchable of every document.

Between two whole runs the model allows several versions of a document (a run was killed, a store was down); after a
whole run it allows one, and what the stores show decides among those of a document that could not be ingested.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from m3core.errors import ExitCode, M3Error, RefusedError
from pipelines.ingest.deleting import DeleteRequest, delete_documents
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.replay import LoadOptions, load_waiting
from pipelines.ingest.report import IngestReport
from pipelines.ingest.rights import apply_acls
from pipelines.ingest.run import ingest
from pipelines.operate.audit import audit
from pipelines.operate.collection import Place
from pipelines.operate.letters import replay
from pipelines.operate.purge import Named, lift, purge
from pipelines.state.collection import read_collection
from pipelines.state.documents import DocumentKey
from pipelines.state.manifest import Manifest
from tests.pipelines.histories.world import PRINCIPALS, TENANTS, Version, check_identities, shown
from tests.pipelines.ingest.outage import TWO, Switchboard
from tests.pipelines.ingest.projects import Project

_ANCHOR: DocumentKey = ("north", "anchor")
_KEYS = st.tuples(st.sampled_from(TENANTS), st.sampled_from(["a", "b", "c", "d"]))
_ACLS = st.lists(st.sampled_from(PRINCIPALS), unique=True, max_size=2).map(lambda names: tuple(sorted(names)))
_YEARS = st.integers(2000, 2003)
_PARAGRAPHS = [f"The key of laboratory {number} hangs behind door {number * 7}, below the lamp." for number in range(9)]
_TEXTS = st.lists(st.sampled_from(_PARAGRAPHS), min_size=1, max_size=3, unique=True).map("\n\n".join)
_VERSIONS = st.builds(Version, _TEXTS, _YEARS, _ACLS)
_CHANGES = ("write", "text", "year", "acl", "acl", "poison", "remove", "rename")
_SOME = st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=4)
_STORES = st.sampled_from(sorted(TWO))
# Of three documents two may go at once: the limit on deletes has tests of its own (ingest/test_run.py).
_INGEST = {"wave_bytes": 1 << 16, "min_free_bytes": 1 << 20, "max_delete_fraction": 1.0}


class KilledError(BaseException):
    """What a store raises where the history kills the run."""


class _Stopping(NoProgress):
    """Asks the run to stop when its first wave begins."""

    def wave(self, number: int) -> None:
        super().wave(number)
        signal.raise_signal(signal.SIGTERM)


class Histories(RuleBasedStateMachine):
    """`source` is what the next run lists, `allowed` what may be searchable of a document (None: it is absent)."""

    model: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._board = Switchboard.install(self._patch)
        self._base = Path(tempfile.mkdtemp(prefix="m3-history-"))
        self._project = Project(
            self._base, self.model, {"stores": TWO, "fields": {"year": "integer"}, "ingest": _INGEST}
        )
        self.source: dict[DocumentKey, Version] = {}
        self.allowed: dict[DocumentKey, set[Version | None]] = {}
        self.purged: set[DocumentKey] = set()
        self._killed = self._unsettled = False
        self._purge_waits = False  # for a store that was down

    def teardown(self) -> None:
        try:
            if self._begun:
                self._board.down.clear()
                self.ingest()
                self._is_settled()
        finally:
            self._patch.undo()
            shutil.rmtree(self._base)

    # The source.

    @initialize(anchor=_VERSIONS, others=st.dictionaries(_KEYS, _VERSIONS, min_size=2, max_size=5))
    def begin(self, anchor: Version, others: dict[DocumentKey, Version]) -> None:
        self.source = {**others, _ANCHOR: anchor}
        self.ingest()

    @rule(data=st.data(), changes=_SOME)
    def change(self, data: st.DataObject, changes: list[str]) -> None:
        for change in changes:
            key = data.draw(st.sampled_from(sorted(self.source)))
            old = self.source[key]
            if change == "write":
                self.source[data.draw(_KEYS)] = data.draw(_VERSIONS)
            elif change == "text":
                self.source[key] = Version(data.draw(_TEXTS), old.year, old.acl)
            elif change == "year":
                self.source[key] = Version(old.text, data.draw(_YEARS), old.acl)
            elif change == "acl":
                self.source[key] = Version(old.text, old.year, data.draw(_ACLS))
            elif change == "poison":
                self.source[key] = Version(old.text, None, old.acl)
            elif key != _ANCHOR:  # a source is never empty
                del self.source[key]
                if change == "rename":
                    self.source[data.draw(_KEYS)] = old

    # The stores.

    @rule(store=_STORES)
    def goes_down(self, store: str) -> None:
        self._board.down.add(store)

    @precondition(lambda self: self._board.down)
    @rule()
    def come_up(self) -> None:
        self._board.down.clear()

    # Commands.

    @rule(data=st.data(), changes=_SOME)
    def change_and_ingest(self, data: st.DataObject, changes: list[str]) -> None:
        self.change(data, changes)
        self.ingest()

    @rule(data=st.data(), changes=_SOME)
    def stopped_while_it_ingests(self, data: st.DataObject, changes: list[str]) -> None:
        self.change(data, changes)
        self._run(lambda: ingest(self._config, self._base, _Stopping()), self._listed())

    @rule(data=st.data(), changes=_SOME)
    def embed(self, data: st.DataObject, changes: list[str]) -> None:
        """Into the lake only: what a later load brings."""
        self.change(data, changes)
        self._run(lambda: self._project.ingest(load=False), self._listed(), waits=True)

    def ingest(self) -> None:
        self._run(self._project.ingest, self._listed())
        self._agrees_beside()

    @rule(data=st.data(), changes=_SOME, request=st.integers(1, 12), store=_STORES)
    def killed_while_it_ingests(self, data: st.DataObject, changes: list[str], request: int, store: str) -> None:
        self.change(data, changes)
        count = 0

        def kill(name: str, _request: str, _nth: int) -> bool:
            nonlocal count
            count += name == store
            if count >= request:
                raise KilledError
            return False

        self._board.failing = kill
        try:
            self._run(self._project.ingest, self._listed())
        except BaseException as error:
            # Beam says what a bundle raised in an error of its own.
            if not isinstance(error, KilledError) and "KilledError" not in str(error):
                raise
            self._killed = self._unsettled = True
        finally:
            self._board.failing = lambda store, request, nth: False

    @precondition(lambda self: self._begun)
    @rule()
    def load_pending(self) -> None:
        options = LoadOptions(pending_only=True)
        self._run(lambda: load_waiting(self._config, self._base, NoProgress(), options=options), {})

    @precondition(lambda self: self._begun)
    @rule(store=_STORES)
    def load_one_store(self, store: str) -> None:
        options = LoadOptions((store,))
        self._run(lambda: load_waiting(self._config, self._base, NoProgress(), options=options), {}, waits=True)

    @precondition(lambda self: self._begun)
    @rule()
    def only_acls(self) -> None:
        """What is new or changed otherwise waits; a revocation does not."""
        self._write_source()
        may = {
            key: {Version(old.text, old.year, new.acl) for old in self._versions(key) if old is not None}
            for key, new in self._listed().items()
            if new is not None and not new.poisoned
        }
        for key, versions in may.items():
            self.allowed[key] = self._versions(key) | versions
        done = self._done(lambda: apply_acls(self._config, self._base, NoProgress()))
        if done is not None and done.exit_code in (ExitCode.OK, ExitCode.DEAD_LETTERS):
            for key, versions in may.items():
                self.allowed[key] = {None, *versions} if None in self._versions(key) else set(versions)
            self._agrees_if_settled()

    @precondition(lambda self: self._begun)
    @rule(key=_KEYS)
    def delete(self, key: DocumentKey) -> None:
        tenant, doc_id = key
        request = DeleteRequest(tenant, (doc_id,))
        self._allow(key, None)

        def command() -> IngestReport | None:
            return delete_documents(self._config, self._base, NoProgress(), request).report

        done = self._done(command)
        if done is not None and done.exit_code is ExitCode.OK:
            self.allowed[key] = {None}
            self._has_left(key)
            self._agrees_if_settled()

    @precondition(lambda self: self._begun)
    @rule(key=_KEYS)
    def purge(self, key: DocumentKey) -> None:
        tenant, doc_id = key
        self.purged.add(key)
        self._allow(key, None)
        try:
            done = purge(self._place, Named(tenant, (doc_id,)))
        except M3Error:
            if not self._board.down:
                raise
            self._purge_waits = True
            return
        if done.exit_code is ExitCode.OK:
            self.allowed[key] = {None}
            self._has_left(key)

    @precondition(lambda self: self.purged and not self._board.down)
    @rule(data=st.data())
    def lift(self, data: st.DataObject) -> None:
        tenant, doc_id = key = data.draw(st.sampled_from(sorted(self.purged)))
        try:
            lift(self._place, Named(tenant, (doc_id,)))
        except RefusedError:
            return  # the purge itself still waits
        self.purged.discard(key)

    @precondition(lambda self: self._begun)
    @rule()
    def replay_dead_letters(self) -> None:
        """Refused while a purge waits for a store: the next run carries it out first."""
        try:
            replay(self._place, None)
        except RefusedError:
            assert self._purge_waits

    # The model.

    @invariant()
    def what_is_done_is_there(self) -> None:
        """A store holds the rows of every document that the manifest calls done there, in that very revision.

        Not after a kill: what was written before the wave's commit is newer than the manifest until the next run, which
        takes it in.
        """
        if not self._begun or self._killed:
            return
        down, self._board.down = self._board.down, set()
        for store in TWO:
            rows = self._seen.rows(store)
            for record in Manifest(self._project.paths, self._live).records():
                # A purge that a store which is down holds up has reached the others; the manifest comes last.
                if store not in record.waiting() and record.key not in self.purged:
                    assert {rows.get(name) for name in record.chunk_ids} <= {record.revision}
                    assert not rows.keys() & set(record.obsolete_chunk_ids)
        self._board.down = down

    def _listed(self) -> dict[DocumentKey, Version | None]:
        """What a run would make of every document: None if it goes."""
        keys = self.source.keys() | self.allowed.keys()
        return {key: None if key in self.purged else self.source.get(key) for key in keys}

    def _run(
        self, command: Callable[[], IngestReport], wanted: dict[DocumentKey, Version | None], *, waits: bool = False
    ) -> None:
        """A command that brings every document of `wanted` to that version. `waits`: it leaves something to others."""
        self._write_source()
        for key, version in wanted.items():
            if version is None or not version.poisoned:
                self._allow(key, version)
        done = self._done(command, waits=waits)
        if waits or done is None or done.exit_code not in (ExitCode.OK, ExitCode.DEAD_LETTERS):
            self._unsettled = True
            return
        for key, version in wanted.items():
            if version is None or not version.poisoned:
                self.allowed[key] = {version}
        self._agrees()

    def _done(self, command: Callable[[], IngestReport | None], *, waits: bool = False) -> IngestReport | None:
        """The report of a command; None if it could not be carried out, which takes a store that is down."""
        try:
            report = command()
        except M3Error:
            if not self._board.down:
                raise
            self._unsettled = True
            return None
        if report is not None and report.exit_code in (ExitCode.PENDING, ExitCode.UNREACHABLE):
            # What a killed run left waits for a run that writes rows, after one that does something else.
            assert self._board.down or waits or self._killed or self._unsettled
            self._unsettled = True
        self._killed = self._purge_waits = False
        return report

    def _agrees_if_settled(self) -> None:
        """After a command that leaves to others what waits since an earlier one."""
        if not self._unsettled:
            self._agrees()

    def _agrees(self) -> None:
        """Stores and manifest agree, everybody finds what the model allows, and that is what it allows from now on."""
        self._seen.check_agreement()
        found = shown(self._seen)
        for key in found.keys() | self.allowed.keys():
            assert found.get(key) in self._versions(key), key
            self.allowed[key] = {found.get(key)}
        check_identities(self._seen, found)
        self._unsettled = False

    def _agrees_beside(self) -> None:
        """After a run over the whole listing: what other generations show of it (`generations.py`)."""

    def _has_left(self, key: DocumentKey) -> None:
        """After a command that took a document out of every generation."""

    def _is_settled(self) -> None:
        """Another run has nothing to do, and an audit finds nothing."""
        again = self._project.ingest()
        done = again.documents
        assert (again.tokens_encoded, done.added, done.changed, done.patched) == (0, 0, 0, 0)
        with tempfile.TemporaryDirectory() as folder:
            assert audit(self._place, Path(folder)).clean

    def _versions(self, key: DocumentKey) -> set[Version | None]:
        return self.allowed.get(key, {None})

    def _allow(self, key: DocumentKey, version: Version | None) -> None:
        self.allowed[key] = self._versions(key) | {version}

    def _write_source(self) -> None:
        lines = [json.dumps(version.line(key)) for key, version in sorted(self.source.items())]
        self._project.write_lines(lines)
        self._project.settings["sources"]["rows"].update({"tenant": "north", "allowed_tenants": list(TENANTS)})

    @property
    def _config(self) -> Any:
        return self._project.config

    @property
    def _live(self) -> int:
        """The generation that is searched; the first one before there is any."""
        state = read_collection(self._project.paths)
        return 1 if state is None or state.live is None else state.live

    @property
    def _seen(self) -> Project:
        """The project as searches see it."""
        return self._project.of_generation(self._live)

    @property
    def _place(self) -> Place:
        return Place.of(self._project.config, self._base)

    @property
    def _begun(self) -> bool:
        """Whether there is a collection that is searched."""
        if "sources" not in self._project.settings:
            return False
        state = read_collection(self._project.paths)
        return state is not None and state.live is not None

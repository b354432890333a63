"""What the last step of a wave writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from m3core.errors import LockedError
from m3core.types import Row
from pipelines.ingest.commit import CommitStep, Outcome, commit_wave
from pipelines.ingest.embed import Refused
from pipelines.ingest.load import Loaded
from pipelines.ingest.reading import Prepared
from pipelines.state.lease import acquire_lease
from pipelines.state.manifest import Manifest
from pipelines.state.runs import DeadLetter, RunFolder, read_dead_letters
from tests.pipelines.ingest.parts import PickySink, chunk, paths_in, record_of, stores_of, vectors


@contextmanager
def step_in(folder: Path) -> Iterator[tuple[CommitStep, PickySink]]:
    paths = paths_in(folder)
    sink = PickySink(folder / "store", lambda row: "")
    with acquire_lease(paths) as lease:
        run = RunFolder.create(paths, 2, {})
        yield CommitStep(2, Manifest(paths, 1), run, lease, stores_of({"main": sink})), sink


def ids(*texts: str) -> list[str]:
    return [chunk(text).id for text in texts]


def fill(sink: PickySink, *texts: str) -> None:
    sink.write([Row(chunk(text), vectors(0), 1) for text in texts])


def test_only_documents_whose_chunks_were_all_acknowledged_go_in(tmp_path: Path) -> None:
    whole = Prepared(record_of("whole", ids("1", "2")), "new")
    half = Prepared(record_of("half", ids("3", "4")), "new")
    same = Prepared(record_of("same", ids("5")), "unchanged")
    with step_in(tmp_path) as (step, sink):
        fill(sink, "1", "2", "3")
        outcomes: list[Outcome] = [whole, half, same, Loaded(tuple(ids("1", "3")), ()), Loaded(tuple(ids("2")), ())]
        committed = commit_wave(1, outcomes, step)
        assert {record.doc_id for record in step.manifest.records()} == {"whole", "same"}
        assert dict(committed.changes) == {"new": 1, "unchanged": 1}
        assert (committed.documents, committed.chunks, committed.letters) == (2, 2, [])
        assert [chunk_id for chunk_id, _ in sink.scan()] == sorted(ids("1", "2"))


def test_a_refused_chunk_makes_a_dead_letter_and_the_old_version_stays(tmp_path: Path) -> None:
    with step_in(tmp_path) as (step, sink):
        step.manifest.append(1, 1, [record_of("a.md", ids("old", "shared"))])
        fill(sink, "old", "shared", "new")
        changed = Prepared(record_of("a.md", ids("shared", "new", "bad"), revision=2), "changed")
        loaded = Loaded(tuple(ids("shared", "new")), (Refused(ids("bad")[0], "load", "store main: too many vectors"),))

        committed = commit_wave(2, [changed, loaded], step)

        assert [(letter.stage, letter.error_code, letter.message) for letter in committed.letters] == [
            ("load", "refused", "store main: too many vectors")
        ]
        assert [record.revision for record in step.manifest.records()] == [1]
        assert [chunk_id for chunk_id, _ in sink.scan()] == sorted(ids("old", "shared"))


def test_dead_letters_are_kept_even_if_no_document_went_in(tmp_path: Path) -> None:
    letter = DeadLetter("read", "default", "b.md", "b.md", "document", "text is empty")
    with step_in(tmp_path) as (step, _):
        assert commit_wave(1, [letter], step).letters == [letter]
        step.folder.close_dead_letters(complete=True)
        assert [each.doc_id for each in read_dead_letters(paths_in(tmp_path))] == ["b.md"]
        assert list(step.manifest.records()) == []


def test_without_the_lease_nothing_is_written(tmp_path: Path) -> None:
    with step_in(tmp_path) as (step, _):
        step.lease.release()
        with pytest.raises(LockedError):
            commit_wave(1, [Prepared(record_of("a", ()), "unchanged")], step)
        assert list(step.manifest.records()) == []

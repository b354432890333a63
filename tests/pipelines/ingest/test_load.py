"""The second half: rows in stores, retries, refusals."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.protocol import WriteResult
from m3core.errors import LockedError, StoreError
from m3core.types import Row
from pipelines.ingest import load as load_module
from pipelines.ingest.embed import Reference, Refused, split_known
from pipelines.ingest.load import LoadStep, load
from tests.pipelines.ingest.parts import PickySink, fill_lake, paths_in, row_of, stores_of


def reference_in(folder: Path, count: int) -> tuple[Reference, LoadStep]:
    """Rows with vectors in the lake, and a step without stores."""
    rows = [row_of(f"text {number}", run=7) for number in range(count)]
    lake = fill_lake(folder, rows)
    return split_known(rows, lake)[0], LoadStep(stores_of({}), lake, lambda: None, sleep=lambda seconds: None)


def with_sinks(step: LoadStep, **sinks: PickySink) -> LoadStep:
    return LoadStep(stores_of(sinks), step.lake, step.before_write, step.written, step.sleep)


@pytest.fixture
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_BATCH_ROWS", 256)


@pytest.mark.usefixtures("_small_batches")
def test_every_store_gets_every_row_in_bounded_batches(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 600)
    sinks = {name: PickySink(tmp_path / name, lambda row: "") for name in ("one", "two")}
    loaded = load(reference, with_sinks(step, **sinks))
    assert list(loaded.acknowledged) == [row.chunk.id for row in reference.rows]
    assert loaded.refused == ()
    for sink in sinks.values():
        assert sink.sizes == [256, 256, 88]
        assert dict(sink.scan()) == dict.fromkeys(loaded.acknowledged, 7)


def test_batches_are_bounded_by_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_BATCH_BYTES", 100)
    reference, step = reference_in(tmp_path, 5)
    sink = PickySink(tmp_path / "s", lambda row: "")
    load(reference, with_sinks(step, main=sink))
    assert sink.sizes == [2, 2, 1]


def test_a_row_that_one_store_refuses_is_not_acknowledged(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 4)
    bad = reference.rows[2].chunk.id
    good = PickySink(tmp_path / "good", lambda row: "")
    picky = PickySink(tmp_path / "picky", lambda row: "permanent" if row.chunk.id == bad else "")
    loaded = load(reference, with_sinks(step, good=good, picky=picky))
    assert bad not in loaded.acknowledged
    assert len(loaded.acknowledged) == 3
    assert loaded.refused == (Refused(bad, "load", "store picky: said so", "picky"),)


def test_transient_failures_are_tried_again_alone(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 4)
    slow = {reference.rows[0].chunk.id: 2, reference.rows[3].chunk.id: 1}

    def judge(row: Row) -> str:
        left = slow.get(row.chunk.id, 0)
        slow[row.chunk.id] = left - 1
        return "transient" if left > 0 else ""

    sink = PickySink(tmp_path / "s", judge)
    assert len(load(reference, with_sinks(step, main=sink)).acknowledged) == 4
    assert sink.sizes == [4, 2, 1]


def test_a_store_that_stays_busy_is_an_error_after_bounded_waits(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 2)
    waits: list[float] = []
    sink = PickySink(tmp_path / "s", lambda row: "transient")
    patient = LoadStep(stores_of({"main": sink}), step.lake, lambda: None, sleep=waits.append)
    with pytest.raises(StoreError, match="store main: 2 rows were not taken in 5 attempts"):
        load(reference, patient)
    assert len(waits) == 5
    assert all(0 <= wait <= 0.5 * 2**attempt for attempt, wait in enumerate(waits))


def test_a_store_that_miscounts_is_an_error(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 2)

    class Miscounting(PickySink):
        def write(self, rows: object) -> WriteResult:
            return WriteResult(1)

    with pytest.raises(StoreError, match="acknowledged 1 and refused 0 of 2 rows"):
        load(reference, with_sinks(step, main=Miscounting(tmp_path / "s", lambda row: "")))


def test_nothing_is_written_without_the_lease(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 2)
    sink = PickySink(tmp_path / "s", lambda row: "")

    def lost() -> None:
        raise LockedError("the lease is lost")

    with pytest.raises(LockedError):
        load(reference, LoadStep(stores_of({"main": sink}), step.lake, lost))
    assert sink.sizes == []


@pytest.mark.usefixtures("_small_batches")
def test_a_server_that_fails_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 600)

    def breaks(row: Row) -> str:
        if picky.sizes.count(256) > 1:
            raise StoreError("it does not answer any more")
        return ""

    picky = PickySink(tmp_path / "picky", breaks)
    good = PickySink(tmp_path / "good", lambda row: "")
    both = with_sinks(step, good=good, picky=picky)
    loaded = load(reference, both)
    assert (len(loaded.acknowledged), loaded.refused) == (600, ())
    assert (good.count(), picky.sizes) == (600, [256, 256])
    assert list(both.stores.standing.down) == ["picky"]


def test_a_batch_goes_into_all_servers_at_once_and_an_error_waits_for_the_others(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 3)
    both_there = threading.Barrier(2, timeout=10)
    failed = threading.Event()

    def judge_one(row: Row) -> str:
        if not failed.is_set():
            both_there.wait()
            failed.set()
        raise LockedError("the lease is lost")

    def judge_two(row: Row) -> str:
        if not written:
            both_there.wait()
            assert failed.wait(10)
        written.append(row.chunk.id)
        return ""

    written: list[str] = []
    sinks = {"one": PickySink(tmp_path / "one", judge_one), "two": PickySink(tmp_path / "two", judge_two)}
    with pytest.raises(LockedError):
        load(reference, with_sinks(step, **sinks))
    assert len(written) == 3


def test_rows_go_only_to_the_stores_that_they_are_for(tmp_path: Path) -> None:
    reference, step = reference_in(tmp_path, 3)
    sinks = {name: PickySink(tmp_path / name, lambda row: "") for name in ("one", "two")}
    both = with_sinks(step, **sinks)
    assert len(load(replace(reference, stores=("two",)), both).acknowledged) == 3
    assert (sinks["one"].count(), sinks["two"].count()) == (0, 3)
    shutil.rmtree(paths_in(tmp_path).root)
    assert len(load(reference, with_sinks(step)).acknowledged) == 3  # without stores no vector is read

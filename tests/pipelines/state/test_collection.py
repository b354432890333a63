from __future__ import annotations

from dataclasses import replace

import pytest

from m3core.errors import LockedError, StateError
from pipelines.state.cell import FileCell
from pipelines.state.collection import (
    FORMAT,
    KIND,
    CollectionState,
    Generation,
    StoreBinding,
    begin_run,
    read_collection,
    swap_collection,
)
from pipelines.state.files import DamagedError, decode_json, encode_json
from pipelines.state.lease import acquire_lease
from pipelines.state.paths import StatePaths

BUILDING = Generation(
    number=1,
    collection_fingerprint="c" * 32,
    encoder_fingerprint="float-" + "e" * 32,
    model="m3-small",
    dense_dim=384,
    multi_dim=128,
    fields={"year": "integer"},
    stores=(StoreBinding("main", "qdrant-edge", ("dense", "lexical", "multi"), True),),
    status="building",
    created="2030-01-01T00:00:00.000000Z",
)
LIVE = replace(BUILDING, status="live")
STATE = CollectionState(FORMAT, "handbook", 1, 7, (LIVE, replace(BUILDING, number=2)))


def rewrite(paths: StatePaths, changes: dict[str, object], version: int = FORMAT) -> None:
    """Change keys of the file, with a right checksum."""
    cell = FileCell(paths.collection_file)
    current = cell.read()
    assert current
    body = decode_json(current[0], KIND, FORMAT, paths.collection_file)
    cell.replace(encode_json(KIND, version, {**body, **changes}), current[1])


def test_round_trip(paths: StatePaths) -> None:
    assert read_collection(paths) is None
    swap_collection(paths, None, STATE)
    assert read_collection(paths) == STATE
    assert STATE.live_generation == LIVE
    assert STATE.generation(2).status == "building"
    with pytest.raises(StateError, match="collection handbook has no generation 3"):
        STATE.generation(3)


def test_a_swap_from_a_state_that_has_passed_is_refused(paths: StatePaths) -> None:
    swap_collection(paths, None, STATE)
    newer = replace(STATE, run=8)
    swap_collection(paths, STATE, newer)
    for stale in (STATE, None):
        with pytest.raises(StateError, match=r"collection\.json was changed by another process"):
            swap_collection(paths, stale, replace(STATE, run=9))
    assert read_collection(paths) == newer


def test_the_run_counter_only_grows_and_needs_the_lease(paths: StatePaths) -> None:
    with acquire_lease(paths) as lease:
        assert begin_run(paths, lease) == CollectionState(FORMAT, "handbook", None, 1, ())
        assert begin_run(paths, lease).run == 2
    with pytest.raises(LockedError):
        begin_run(paths, lease)
    found = read_collection(paths)
    assert found
    with pytest.raises(StateError, match="may not fall from 2 to 1"):
        swap_collection(paths, found, replace(found, run=1))


def test_generations_stay_in_the_list(paths: StatePaths) -> None:
    swap_collection(paths, None, STATE)
    with pytest.raises(StateError, match="generation 2 may not leave the list"):
        swap_collection(paths, STATE, replace(STATE, generations=(LIVE,)))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (replace(STATE, live=None), "live is None"),
        (replace(STATE, live=2), "live is 2"),
        (replace(STATE, live=9), "live is 9"),
        (replace(STATE, generations=(LIVE, replace(LIVE, number=2))), "live is 1"),
        (replace(STATE, generations=STATE.generations[::-1]), "not ascending"),
        (replace(STATE, collection="other"), "does not belong"),
        (replace(STATE, run=-1), "counts from 0"),
        (replace(STATE, generations=(replace(LIVE, dense_dim="384"),)), "dense_dim"),  # type: ignore[arg-type]
    ],
)
def test_what_breaks_a_rule_is_not_written(paths: StatePaths, state: CollectionState, why: str) -> None:
    with pytest.raises(StateError, match=why):
        swap_collection(paths, None, state)
    assert read_collection(paths) is None


def test_a_newer_format_is_refused_and_not_touched(paths: StatePaths) -> None:
    swap_collection(paths, None, STATE)
    rewrite(paths, {}, version=2)
    before = paths.collection_file.read_bytes()
    with pytest.raises(StateError, match="format 2; this version of threefold reads format 1"):
        read_collection(paths)
    with acquire_lease(paths) as lease, pytest.raises(StateError, match="format 2"):
        begin_run(paths, lease)
    assert paths.collection_file.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"purged": ["x"]},
        {"generations": [{"number": 1}]},
        {"generations": "none"},
        {"live": 5},
        {"generations": [{"status": "paused"}]},
    ],
)
def test_a_file_with_unknown_keys_or_a_pointer_into_nothing_is_refused(
    paths: StatePaths, changes: dict[str, object]
) -> None:
    swap_collection(paths, None, STATE)
    rewrite(paths, changes)
    with pytest.raises(DamagedError, match=r"collection\.json"):
        read_collection(paths)


def test_a_changed_byte_is_noticed(paths: StatePaths) -> None:
    swap_collection(paths, None, STATE)
    paths.collection_file.write_text(paths.collection_file.read_text().replace('"run": 7', '"run": 6'))
    with pytest.raises(DamagedError, match="checksum"):
        read_collection(paths)


def test_generations_are_replaced_and_added_by_number() -> None:
    third = replace(BUILDING, number=3)
    changed = STATE.with_generations(third, replace(LIVE, applied_run=7))
    assert [each.number for each in changed.generations] == [1, 2, 3]
    assert (changed.generations[0].applied_run, changed.generations[2]) == (7, third)
    assert [each.number for each in changed.beside(1)] == [2, 3]
    dropped = changed.with_generations(replace(third, status="dropped"))
    assert [each.number for each in dropped.beside(1)] == [2]


def test_runs_write_the_live_generation_or_the_newest_that_is_built() -> None:
    assert STATE.current_generation == LIVE
    unborn = replace(STATE, live=None, generations=(BUILDING, replace(BUILDING, number=2, status="dropped")))
    assert unborn.current_generation == BUILDING
    assert replace(unborn, generations=(replace(BUILDING, status="dropped"),)).current_generation is None


def test_a_run_leaves_the_others_behind_unless_it_only_mends(paths: StatePaths) -> None:
    current, old = replace(LIVE, applied_run=7), replace(BUILDING, number=2, applied_run=5)
    swap_collection(paths, None, replace(STATE, generations=(current, old)))
    with acquire_lease(paths) as lease:
        mended = begin_run(paths, lease, mending=True)
        assert [each.applied_run for each in mended.generations] == [8, 5]
        assert (mended.is_behind(1), mended.is_behind(2)) == (False, True)
        state = begin_run(paths, lease)
    assert [each.applied_run for each in state.generations] == [8, 5]
    assert (state.is_behind(1), state.is_behind(2)) == (True, True)

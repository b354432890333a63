"""Tombstones: what blocks, what is lifted, and what a state that was put back still has to carry out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.errors import RefusedError, StateError
from pipelines.state.collection import begin_run, read_collection
from pipelines.state.files import DamagedError
from pipelines.state.lease import acquire_lease
from pipelines.state.paths import StatePaths
from pipelines.state.tombstones import (
    LIFT,
    PURGE,
    add_event,
    mark_applied,
    read_applied,
    read_tombstones,
    require_applied,
)


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.of(tmp_path, "notes")


def test_nothing_blocks_and_nothing_is_made_before_the_first_purge(paths: StatePaths) -> None:
    assert not read_tombstones(paths).blocks(("acme", "a"))
    require_applied(paths)
    assert not paths.tombstones.exists()


def test_documents_and_tenants(paths: StatePaths) -> None:
    add_event(paths, PURGE, documents=[("acme", "a")], tenants=["globex"])
    stones = read_tombstones(paths)
    blocked = {key for key in [("acme", "a"), ("acme", "b"), ("a", "acme"), ("globex", "x")] if stones.blocks(key)}
    assert blocked == {("acme", "a"), ("globex", "x")}
    assert stones.match("globex", "x") == stones.tenant("globex")
    assert stones.match("acme", "a") == stones.document("acme", "a")


def test_a_hash_tells_nothing_without_the_key(paths: StatePaths, tmp_path: Path) -> None:
    other = StatePaths.of(tmp_path, "other")
    for each in (paths, other):
        add_event(each, PURGE, documents=[("acme", "a")])
    assert read_tombstones(paths).standing.isdisjoint(read_tombstones(other).standing)
    texts = "".join(path.read_text() for path in paths.tombstones.glob("*.json"))
    assert "acme" not in texts
    assert re.search(r'"[0-9a-f]{64}"', texts)
    modes = {path.stat().st_mode & 0o777 for path in paths.tombstones.iterdir()}
    assert (modes, paths.tombstones.stat().st_mode & 0o777) == ({0o600}, 0o700)


def test_the_newest_event_counts_also_when_the_clock_was_set_back(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([2_000_000.0, 1_000_000.0, 500_000.0])
    monkeypatch.setattr("pipelines.state.tombstones.time.time", lambda: next(times))
    add_event(paths, PURGE, documents=[("acme", "a")])
    add_event(paths, LIFT, documents=[("acme", "a")])
    assert not read_tombstones(paths).blocks(("acme", "a"))
    add_event(paths, PURGE, documents=[("acme", "a")])
    assert read_tombstones(paths).blocks(("acme", "a"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([PURGE, LIFT]), st.sampled_from("ab"), st.one_of(st.none(), st.sampled_from("xy"))),
        max_size=12,
    )
)
def test_any_sequence_of_events_is_that_of_a_set(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str, str | None]]
) -> None:
    paths = StatePaths.of(tmp_path_factory.mktemp("t"), "notes")
    model: set[tuple[str, str | None]] = set()
    for event, tenant, doc_id in events:
        named = {"tenants": [tenant]} if doc_id is None else {"documents": [(tenant, doc_id)]}
        add_event(paths, event, **named)  # type: ignore[arg-type]
        (model.add if event == PURGE else model.discard)((tenant, doc_id))
    stones = read_tombstones(paths)
    for key in [(tenant, doc_id) for tenant in "ab" for doc_id in "xy"]:
        assert stones.blocks(key) == bool({key, (key[0], None)} & model)
    assert len(stones.standing) == len(model)


def test_no_run_begins_in_a_state_that_has_not_seen_a_purge(paths: StatePaths, tmp_path: Path) -> None:
    with acquire_lease(paths) as lease:
        begin_run(paths, lease)
    yesterday = tmp_path / "yesterday"
    shutil.copytree(paths.root, yesterday)
    first = add_event(paths, PURGE, documents=[("acme", "a")])
    with acquire_lease(paths) as lease:
        with pytest.raises(RefusedError, match="is not carried out") as refused:
            begin_run(paths, lease)
        assert "acme" not in str(refused.value)
        assert begin_run(paths, lease, erasing=True).run == 2
        mark_applied(paths, read_tombstones(paths))
        assert begin_run(paths, lease).run == 3
    assert read_applied(paths) == {first.name}
    shutil.rmtree(paths.root)
    shutil.copytree(yesterday, paths.root)
    with acquire_lease(paths) as lease, pytest.raises(RefusedError):
        begin_run(paths, lease)
    state = read_collection(paths)
    assert state is not None
    assert state.run == 1
    add_event(paths, LIFT, documents=[("acme", "a")])
    require_applied(paths)


def test_half_a_folder_is_damaged_and_never_taken_for_no_tombstones(paths: StatePaths) -> None:
    add_event(paths, PURGE, documents=[("acme", "a")])
    key = paths.tombstones / "key"
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(DamagedError, match="it is missing, but tombstones are there"):
        read_tombstones(paths)
    with pytest.raises(DamagedError):
        add_event(paths, PURGE, documents=[("acme", "b")])
    key.write_bytes(kept[:-1])
    with pytest.raises(DamagedError, match="it has 31 bytes"):
        read_tombstones(paths)
    key.write_bytes(kept)
    (file,) = paths.tombstones.glob("*.json")
    text = file.read_text()
    file.write_text(text.replace("purge", "lift"))
    with pytest.raises(DamagedError, match="checksum"):
        read_tombstones(paths)
    file.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(StateError, match="has format 2"):
        require_applied(paths)

"""Lake files written anew without some rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.state import keyindex, lakefile
from pipelines.state.lake import Lake
from pipelines.state.lakerewrite import drop_rows, tidy_index
from pipelines.state.paths import StatePaths
from tests.pipelines.ingest.parts import FINGERPRINT, paths_in, vectors
from tests.pipelines.operate.damage import spoil

_KEYS = [f"{number:064x}" for number in range(12)]


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return paths_in(tmp_path)


@pytest.fixture
def lake(paths: StatePaths) -> Lake:
    """Two files of six rows; row n has the vectors of seed n."""
    made = Lake(paths, FINGERPRINT)
    for part in (range(6), range(6, 12)):
        made.write_unit([_KEYS[n] for n in part], [vectors(n) for n in part])
    return made


def place_of(lake: Lake, number: int) -> tuple[Path, str, int]:
    (ref,) = lake.find([_KEYS[number]]).values()
    return next(lake.files()).parent, ref.file, ref.row


def indexed(paths: StatePaths) -> set[bytes]:
    segments = [keyindex.open_segment(path) for path in (paths.lake(FINGERPRINT) / "index").glob("*.keys")]
    return {key.ljust(32, b"\0") for segment in segments for key in segment.keys.tolist()}


def test_dropped_rows_are_in_no_file_and_no_index_and_the_others_are_as_they_were(
    paths: StatePaths, lake: Lake
) -> None:
    folder, name, row = place_of(lake, 2)
    created = lakefile.read_created(folder / name)
    assert drop_rows(folder, name, [row]) > 0
    assert sorted(lake.find(_KEYS)) == [key for key in _KEYS if key != _KEYS[2]]
    tidy_index(paths, FINGERPRINT)
    fresh = Lake(paths, FINGERPRINT)
    assert bytes.fromhex(_KEYS[2]) not in indexed(paths)
    assert indexed(paths) == {bytes.fromhex(key) for key in _KEYS if key != _KEYS[2]}
    for number in (n for n in range(12) if n != 2):
        (ref,) = fresh.find([_KEYS[number]], verify=True).values()
        (found,) = fresh.read([ref])
        assert found.multi.tobytes() == vectors(number).multi.tobytes()
    (ref,) = fresh.find([_KEYS[1]]).values()
    assert lakefile.read_created(folder / ref.file) == created
    assert not (folder / name).exists()
    assert fresh.damage == []


def test_a_file_of_which_nothing_is_left_goes(paths: StatePaths, lake: Lake) -> None:
    folder, name, _ = place_of(lake, 0)
    drop_rows(folder, name, range(6))
    tidy_index(paths, FINGERPRINT)
    assert (len(list(lake.files())), sorted(lake.find(_KEYS))) == (1, _KEYS[6:])
    folder, name, _ = place_of(lake, 7)
    drop_rows(folder, name, range(6))
    tidy_index(paths, FINGERPRINT)
    assert (list(lake.files()), indexed(paths), lake.find(_KEYS)) == ([], set(), {})
    lake.write_unit(_KEYS[:2], [vectors(0), vectors(1)])
    assert sorted(Lake(paths, FINGERPRINT).find(_KEYS)) == _KEYS[:2]


def test_a_rewrite_that_was_killed_halfway_is_done_again(
    paths: StatePaths, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name, row = place_of(lake, 3)
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("pipelines.state.lakerewrite.remove_files", die)
        with pytest.raises(KeyboardInterrupt):
            drop_rows(folder, name, [row])
    assert len(list(lake.files())) == 3
    assert sorted(Lake(paths, FINGERPRINT).find(_KEYS, verify=True)) == _KEYS
    drop_rows(folder, name, [row])
    tidy_index(paths, FINGERPRINT)
    assert sorted(Lake(paths, FINGERPRINT).find(_KEYS, verify=True)) == [key for key in _KEYS if key != _KEYS[3]]


def test_a_damaged_file_goes_whole(paths: StatePaths, lake: Lake) -> None:
    folder, name, row = place_of(lake, 3)
    spoil(folder / name)
    drop_rows(folder, name, [row])
    tidy_index(paths, FINGERPRINT)
    assert not (folder / name).exists()
    assert sorted(Lake(paths, FINGERPRINT).find(_KEYS)) == _KEYS[6:]

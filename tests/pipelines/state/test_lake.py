from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.errors import DiskFullError, StateError
from m3core.types import ChunkVectors
from pipelines.state.keyindex import Keys, Segment
from pipelines.state.lake import Lake, LakeDamageError, LakeRef, lake_key
from pipelines.state.lakefile import SUFFIX
from pipelines.state.paths import StatePaths

FINGERPRINT = "float-" + "0f" * 16
Start = Callable[..., "subprocess.Popen[str]"]


def vectors(seed: int, lexical: int = 5, rows: int = 7, dims: tuple[int, int] = (16, 8)) -> ChunkVectors:
    rng = np.random.default_rng(seed)
    return ChunkVectors(
        dense=rng.normal(size=dims[0]).astype(np.float16),
        lexical_ids=np.sort(rng.choice(250_000, lexical, replace=False)).astype(np.uint32),
        lexical_weights=rng.random(lexical).astype(np.float32),
        multi=rng.normal(size=(rows, dims[1])).astype(np.float16),
    )


def key(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def fill(lake: Lake, numbers: Sequence[int]) -> list[LakeRef]:
    return lake.write_unit([key(n) for n in numbers], [vectors(n) for n in numbers])


def same(a: ChunkVectors, b: ChunkVectors) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("dense", "lexical_ids", "lexical_weights", "multi")]
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def holds(lake: Lake, numbers: Sequence[int]) -> bool:
    found = lake.find([key(n) for n in numbers])
    got = lake.read([found[key(n)] for n in numbers])
    return all(same(one, vectors(n)) for one, n in zip(got, numbers, strict=True))


@pytest.fixture
def lake(paths: StatePaths) -> Lake:
    return Lake(paths, FINGERPRINT)


def files(paths: StatePaths) -> list[Path]:
    return sorted(paths.lake(FINGERPRINT).glob(f"*{SUFFIX}"))


def segments(paths: StatePaths) -> list[Path]:
    return sorted((paths.lake(FINGERPRINT) / "index").glob("*.keys"))


SHAPES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


@settings(max_examples=30)
@given(SHAPES, st.integers(1, 9), st.integers(0, 5))
def test_round_trip_of_every_shape(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]], dense: int, multi: int
) -> None:
    paths = StatePaths(tmp_path_factory.mktemp("state"))
    unit = [vectors(i, lexical, rows, (dense, multi)) for i, (lexical, rows) in enumerate(shapes)]
    refs = Lake(paths, FINGERPRINT).write_unit([key(i) for i in range(len(unit))], unit)
    lake = Lake(paths, FINGERPRINT)
    assert lake.find([key(i) for i in range(len(unit))], verify=True) == {ref.key: ref for ref in refs}
    order = [*reversed(refs), refs[0]]
    got = lake.read(order)
    assert all(same(one, unit[int(refs.index(ref))]) for one, ref in zip(got, order, strict=True))
    assert not got[0].dense.flags.writeable


def test_special_values_survive_bit_for_bit(lake: Lake) -> None:
    odd = ChunkVectors(
        np.array([np.nan, np.inf, -0.0, 6e-8], np.float16),
        np.array([0, 2**32 - 1], np.uint32),
        np.array([1e-45, np.finfo(np.float32).max], np.float32),
        np.array([[65504, -65504]], np.float16),
    )
    assert same(lake.read(lake.write_unit([key(1)], [odd]))[0], odd)


def test_many_row_groups_and_few_rows_of_them(lake: Lake) -> None:
    big = {n: vectors(n, rows=3000, dims=(16, 64)) for n in range(12)}
    refs = lake.write_unit([key(n) for n in big], list(big.values()))
    got = lake.read([refs[11], refs[0], refs[5]])
    assert all(same(one, big[n]) for one, n in zip(got, (11, 0, 5), strict=True))


def test_the_key_of_a_text_is_fixed() -> None:
    head = json.dumps(["öffentlich", FINGERPRINT], separators=(",", ":")).encode()
    assert (
        lake_key("öffentlich", FINGERPRINT, "a\nb\U0001f600")
        == hashlib.sha256(head + b"\n" + "a\nb\U0001f600".encode()).hexdigest()
    )
    others = {lake_key("a", "f-00", "b\nc"), lake_key("a\nb", "f-00", "c"), lake_key("a", "f-01", "b\nc")}
    assert len(others) == 3


def test_the_file_can_be_read_from_its_description(paths: StatePaths, lake: Lake) -> None:
    import pyarrow.parquet as pq

    numbers = range(5)
    fill(lake, numbers)
    (file,) = files(paths)
    table = pq.read_table(file)
    keys = sorted(bytes.fromhex(key(n)) for n in numbers)
    assert table.column("key").to_pylist() == keys
    assert file.name == hashlib.sha256(b"".join(keys)).hexdigest() + ".parquet"
    footer = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert footer.items() >= {
        "threefold.kind": "threefold.lake", "threefold.format": "1", "fingerprint": FINGERPRINT,
        "dense_dim": "16", "multi_dim": "8",
    }.items()  # fmt: skip
    by_key = {bytes.fromhex(key(n)): vectors(n) for n in numbers}
    for row in table.to_pylist():
        wanted = by_key[row["key"]]
        parts = [row[name] for name in ("key", "dense", "lexical_ids", "lexical_weights", "multi")]
        assert row["check"] == zlib.crc32(b"".join(parts) + struct.pack("<II", 7, 8))
        assert parts[1:] == [
            wanted.dense.tobytes(), wanted.lexical_ids.tobytes(), wanted.lexical_weights.tobytes(),
            wanted.multi.tobytes(),
        ]  # fmt: skip
        assert row["multi_rows"] == 7


def test_a_unit_is_written_once(paths: StatePaths, lake: Lake) -> None:
    first = fill(lake, [3, 1, 2])
    before = files(paths)[0].stat()
    assert fill(Lake(paths, FINGERPRINT), [3, 1, 2]) == first
    after = files(paths)[0].stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(files(paths)) == 1


def test_a_key_twice_in_a_unit_is_one_row(lake: Lake) -> None:
    refs = lake.write_unit([key(1), key(2), key(1)], [vectors(1), vectors(2), vectors(1)])
    assert refs[0] == refs[2] != refs[1]
    assert holds(lake, [1, 2])


def test_nothing_is_found_in_a_lake_that_is_not_there(paths: StatePaths, lake: Lake) -> None:
    assert lake.find([key(1)]) == {}
    assert lake.write_unit([], []) == []
    lake.compact_index()
    assert not paths.root.exists()


def test_vectors_of_another_shape_or_type_are_refused(paths: StatePaths, lake: Lake) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        lake.write_unit([key(1), key(2)], [vectors(1), vectors(2, dims=(17, 8))])
    one = vectors(1)
    wide = ChunkVectors(one.dense.astype(np.float32), one.lexical_ids, one.lexical_weights, one.multi)
    with pytest.raises(ValueError, match="f16, u32, f32, f16"):
        lake.write_unit([key(1)], [wide])
    assert not files(paths)


@pytest.mark.parametrize("bad", ["../up", "", "a" * 81, "float-0f/..", "Float-0f"])
def test_a_fingerprint_cannot_lead_out_of_the_folder(paths: StatePaths, bad: str) -> None:
    with pytest.raises(StateError, match="no encoder fingerprint"):
        Lake(paths, bad)


def test_lakes_of_two_encoders_do_not_meet(paths: StatePaths, lake: Lake) -> None:
    fill(lake, [1])
    other = Lake(paths, "int8-" + "0f" * 16)
    assert other.find([key(1)]) == {}
    fill(other, [2])
    stolen = paths.lake(FINGERPRINT) / next(paths.lake("int8-" + "0f" * 16).glob("*.parquet")).name
    stolen.write_bytes(next(paths.lake("int8-" + "0f" * 16).glob("*.parquet")).read_bytes())
    with pytest.raises(LakeDamageError, match="of the encoder int8-"):
        lake.read([LakeRef(stolen.name, 0, key(2))])


def test_merging_the_index_changes_no_answer(paths: StatePaths, lake: Lake) -> None:
    for n in range(0, 40, 4):
        fill(lake, range(n, n + 4))
    before = lake.find(map_keys(range(50)))
    assert len(before) == 40
    lake.compact_index()
    assert len(segments(paths)) == 1
    assert lake.find(map_keys(range(50))) == Lake(paths, FINGERPRINT).find(map_keys(range(50))) == before
    fill(lake, [50])
    lake.compact_index()
    assert len(segments(paths)) == 2, "a small segment is not worth writing a large one again"
    assert holds(lake, [0, 39, 50])


def map_keys(numbers: Sequence[int]) -> list[str]:
    return [key(n) for n in numbers]


def test_segments_stay_few_and_every_row_is_merged_seldom(paths: StatePaths, lake: Lake) -> None:
    written = 0
    for n in range(60):
        fill(lake, [n])
        before = set(segments(paths))
        lake.compact_index()
        written += sum(path.stat().st_size // 112 for path in set(segments(paths)) - before)
        assert len(segments(paths)) <= 7
    assert written < 60 * 8


@pytest.mark.parametrize("merged", [False, True])
def test_a_lost_or_damaged_index_is_made_again(paths: StatePaths, lake: Lake, merged: bool) -> None:
    fill(lake, [1, 2])
    fill(lake, [3])
    if merged:
        lake.compact_index()
    damaged, *others = segments(paths)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for path in others:
        path.unlink()
    again = Lake(paths, FINGERPRINT)
    assert holds(again, [1, 2, 3])
    assert len(again.damage) == 1
    assert damaged.with_name(damaged.name + ".damaged").exists()


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("how", ["truncated", "empty", "gone", "longer"])
def test_a_file_of_another_size_counts_as_absent(
    paths: StatePaths, lake: Lake, how: str, verify: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fill(lake, [1, 2])
    fill(lake, [3])
    file = paths.lake(FINGERPRINT) / lake.find([key(1)])[key(1)].file
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"truncated": content[:-100], "empty": b"", "longer": content + b"\0"}[how])
    again = Lake(paths, FINGERPRINT)
    assert set(again.find(map_keys([1, 2, 3]), verify=verify)) == {key(3)}
    if how != "gone":
        assert file.with_name(file.name + ".damaged").exists()
        assert "is damaged" in again.damage[0]
        assert "its texts will be encoded again" in caplog.text
    fill(again, [1, 2])
    assert holds(again, [1, 2, 3])


@settings(max_examples=50)
@given(st.data())
def test_no_changed_byte_of_the_rows_gets_through(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    paths = StatePaths(tmp_path_factory.mktemp("state"))
    fill(Lake(paths, FINGERPRINT), [1, 2, 3])
    (file,) = files(paths)
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    lake = Lake(paths, FINGERPRINT)
    found = lake.find(map_keys([1, 2, 3]), verify=True)
    assert len(found) in (0, 3), "a damaged file is left out as a whole"
    assert not found or all(same(lake.read([found[key(n)]])[0], vectors(n)) for n in (1, 2, 3))
    fill(lake, [1, 2, 3])
    assert holds(lake, [1, 2, 3])


def test_reading_a_damaged_row_is_an_error_and_moves_the_file_aside(paths: StatePaths, lake: Lake) -> None:
    (ref,) = fill(lake, [1])
    (file,) = files(paths)
    content = file.read_bytes()
    place = content.index(vectors(1).multi.tobytes())
    file.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(LakeDamageError, match="is damaged") as caught:
        lake.read([ref])
    assert "encoded again" in caught.value.remedy
    assert lake.find([key(1)]) == {}
    with pytest.raises(LakeDamageError, match="is gone"):
        lake.read([ref])
    with pytest.raises(LakeDamageError, match="is gone"):
        pickle.loads(pickle.dumps(lake)).read([ref])


def test_a_row_of_another_text_is_never_returned(lake: Lake) -> None:
    ref, _ = fill(lake, [1, 2])
    with pytest.raises(LakeDamageError, match="of another text"):
        lake.read([LakeRef(ref.file, ref.row, key(2))])


def test_a_text_that_two_files_hold_survives_one_of_them(paths: StatePaths, lake: Lake) -> None:
    fill(lake, [1, 2])
    fill(lake, [1, 3])
    lake.compact_index()
    for _ in range(2):
        again = Lake(paths, FINGERPRINT)
        ref = again.find([key(1)])[key(1)]
        assert same(again.read([ref])[0], vectors(1))
        file = paths.lake(FINGERPRINT) / ref.file
        content = bytearray(file.read_bytes())
        content[content.index(vectors(1).multi.tobytes())] ^= 1
        file.write_bytes(bytes(content))
        found = again.find([key(1)], verify=True)
        assert all(other.file != ref.file for other in found.values())
    assert found == {}


def test_a_lake_file_of_a_newer_format_is_refused_and_left_alone(
    paths: StatePaths, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from pipelines.state import lakefile

    with monkeypatch.context() as newer:
        newer.setattr(lakefile, "_KIND", replace(lakefile._KIND, format=2))
        (ref,) = fill(lake, [1])
    with pytest.raises(StateError, match="has format 2"):
        lake.read([ref])
    assert len(files(paths)) == 1


def test_finding_many_keys_is_one_search_in_each_segment_and_reads_no_vectors(
    paths: StatePaths, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = vectors(0, lexical=1, rows=1, dims=(1, 1))
    names = map_keys(range(40_000))
    for start in range(0, 40_000, 4000):
        lake.write_unit(names[start : start + 4000], [one] * 4000)
    lake.compact_index()
    for file in files(paths):  # only zeros are left of them
        size = file.stat().st_size
        file.write_bytes(b"")
        os.truncate(file, size)
    wanted = [*names, *(hashlib.sha256(b"absent%d" % i).hexdigest() for i in range(60_000))]
    again = Lake(paths, FINGERPRINT)
    searches: list[int] = []
    search = Lake._find_in

    def counted(self: Lake, segment: Segment, keys: Keys) -> Iterator[tuple[int, str, int]]:
        searches.append(len(keys))
        return search(self, segment, keys)

    monkeypatch.setattr(Lake, "_find_in", counted)
    assert len(again.find(wanted)) == 40_000
    assert searches == [100_000]


@pytest.mark.usefixtures("umask_0")
def test_only_the_owner_may_read(paths: StatePaths, lake: Lake, modes: Callable[[Path], set[tuple[str, str]]]) -> None:
    fill(lake, [1])
    fill(lake, [2])
    lake.compact_index()
    assert modes(paths.root) == {("folder", "0o700"), ("file", "0o600")}


WRITE = """
    import hashlib, itertools, sys
    from pathlib import Path
    import numpy as np
    from m3core.types import ChunkVectors
    from pipelines.state.lake import Lake
    from pipelines.state.paths import StatePaths
    lake = Lake(StatePaths(Path(sys.argv[1])), sys.argv[2])
    for n in itertools.count(int(sys.argv[3])):
        one = ChunkVectors(np.full(4, n, "f2"), np.full(2, n, "u4"), np.full(2, n, "f4"), np.full((2000, 4), n, "f2"))
        lake.write_unit([hashlib.sha256(str(n).encode()).hexdigest()], [one])
        print(n, flush=True)
        if n % 5 == 0:
            lake.compact_index()
"""


def test_a_killed_writer_loses_nothing_that_was_acknowledged(paths: StatePaths, start: Start) -> None:
    rng = np.random.default_rng(5)
    acknowledged: list[int] = []
    for attempt in range(3):
        writers = [start(WRITE, paths.root, FINGERPRINT, 1000 * (2 * attempt + i)) for i in range(2)]
        assert writers[0].stdout
        acknowledged.append(int(writers[0].stdout.readline()))
        time.sleep(float(rng.uniform(0.02, 0.2)))
        for writer in writers:
            writer.kill()
        for writer in writers:
            acknowledged += [int(line) for line in writer.communicate()[0].splitlines()]
        again = Lake(paths, FINGERPRINT)
        found = again.find(map_keys(acknowledged))
        got = again.read([found[key(n)] for n in acknowledged])
        assert [int(one.lexical_ids[0]) for one in got] == acknowledged
        assert all((one.multi == np.float16(n)).all() for one, n in zip(got, acknowledged, strict=True))
        assert again.damage == []
    assert len(acknowledged) > 6


def test_a_full_disk_loses_nothing_and_leaves_nothing(small_disk: Path) -> None:
    paths = StatePaths(small_disk / "handbook")
    lake = Lake(paths, FINGERPRINT)
    fill(lake, [1])
    with pytest.raises(DiskFullError, match="no space left"):
        lake.write_unit([key(2)], [vectors(2, rows=20_000)])
    assert [path.name for path in paths.lake(FINGERPRINT).iterdir() if path.name.startswith(".tmp")] == []
    assert len(files(paths)) == 1
    fill(lake, [2])
    assert holds(Lake(paths, FINGERPRINT), [1, 2])

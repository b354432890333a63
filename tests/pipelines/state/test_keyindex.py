from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.state import keyindex
from pipelines.state.files import DamagedError
from pipelines.state.lakefile import FileSeal


def key(n: int) -> str:
    # Some keys end in zero bytes, which numpy's byte strings like to drop.
    return hashlib.sha256(str(n).encode()).hexdigest()[: 64 - 4 * (n % 3)].ljust(64, "0")


def seal(n: int) -> FileSeal:
    return FileSeal(hashlib.sha256(b"file%d" % n).digest(), 1000 + n, hashlib.sha256(b"content%d" % n).digest())


def unit(folder: Path, n: int, numbers: set[int]) -> keyindex.Segment:
    return keyindex.open_segment(
        keyindex.write_unit_segment(folder, seal(n), keyindex.as_keys(sorted(key(i) for i in numbers)))
    )


def content(segment: keyindex.Segment) -> list[tuple[str, bytes, int]]:
    """(key, lake file, row) in the order of the segment."""
    names = [one.name for one in segment.seals()]
    hexes = [segment.keys[i : i + 1].tobytes().hex() for i in range(len(segment.keys))]
    return [(hexes[i], names[file], row) for i, (file, row) in enumerate(segment.places.tolist())]


def expected(units: dict[int, set[int]]) -> list[tuple[str, bytes, int]]:
    rows = [
        (name, seal(n).name, row) for n, numbers in units.items() for row, name in enumerate(sorted(map(key, numbers)))
    ]
    return sorted(rows)


UNITS = st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 30), max_size=8), min_size=1)


@settings(max_examples=30)
@given(UNITS, st.integers(1, 5))
def test_a_merge_holds_what_its_parts_held(
    tmp_path_factory: pytest.TempPathFactory, units: dict[int, set[int]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("index")
    segments = [unit(folder, n, numbers) for n, numbers in units.items()]
    rows, keyindex._MERGE_ROWS = keyindex._MERGE_ROWS, block
    try:
        merged = keyindex.open_segment(keyindex.merge_segments(folder, segments, {seal(n).name for n in units}))
    finally:
        keyindex._MERGE_ROWS = rows
    assert sorted(content(merged)) == expected(units)
    assert [row[0] for row in content(merged)] == sorted(row[0] for row in content(merged))
    assert {one.name: one for one in merged.seals()} == {seal(n).name: seal(n) for n in units}
    # Merging the parts once more adds nothing, and lake files that are gone are dropped.
    again = keyindex.open_segment(keyindex.merge_segments(folder, [merged, *segments], {seal(n).name for n in units}))
    assert content(again) == content(merged)
    gone = next(iter(units))
    rest = {n: numbers for n, numbers in units.items() if n != gone}
    less = keyindex.open_segment(keyindex.merge_segments(folder, [again], {seal(n).name for n in rest}))
    assert sorted(content(less)) == expected(rest)


def test_the_format_can_be_read_from_its_description(tmp_path: Path) -> None:
    numbers = {1, 2, 3}
    data = unit(tmp_path, 4, numbers).path.read_bytes()
    magic, files, rows = struct.unpack_from("<8sQQ8x", data)
    assert (magic, files, rows) == (b"M3KEYS\x00\x01", 1, 3)
    assert struct.unpack_from("<32sQ32s", data, 32) == (seal(4).name, seal(4).size, seal(4).sha256)
    keys = [data[104 + 32 * i : 136 + 32 * i].hex() for i in range(3)]
    assert keys == sorted(map(key, numbers))
    assert [struct.unpack_from("<II", data, 200 + 8 * i) for i in range(3)] == [(0, 0), (0, 1), (0, 2)]
    assert data[224:] == hashlib.sha256(data[:224]).digest()


@settings(max_examples=50)
@given(st.data())
def test_any_changed_or_missing_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = unit(tmp_path_factory.mktemp("index"), 1, {1, 2}).path
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedError):
        keyindex.open_segment(path)


@pytest.mark.parametrize("bad", ["", "ab", "g" * 64, "a" * 65])
def test_a_key_is_64_hex_digits(bad: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        keyindex.as_keys([key(1), bad])


def test_keys_are_arrays_of_32_bytes() -> None:
    keys = keyindex.as_keys([key(1), key(2)])
    assert keys.dtype == np.dtype("S32")
    assert keys.tobytes().hex() == key(1) + key(2)

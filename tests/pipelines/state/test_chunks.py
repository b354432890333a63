from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.errors import StateError
from m3core.types import Chunk
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.files import DamagedError
from pipelines.state.paths import StatePaths

TEXT = st.text()
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
METADATA = st.dictionaries(TEXT, TEXT | st.booleans() | NUMBERS | st.lists(TEXT).map(tuple), max_size=3)
CHUNKS = st.builds(
    Chunk,
    id=st.uuids().map(str),
    tenant=TEXT,
    doc_id=TEXT,
    ordinal=st.integers(0, 2**31 - 1),
    text=TEXT,
    context=TEXT,
    span=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
    token_count=st.integers(0, 8192),
    title=TEXT,
    language=TEXT,
    metadata=METADATA,
    acl=st.lists(TEXT).map(tuple),
)
ROWS = st.builds(ChunkRow, CHUNKS, st.binary(min_size=32, max_size=32).map(bytes.hex))


def row(n: int, text: str = "", tenant: str = "acme") -> ChunkRow:
    return ChunkRow(
        Chunk(str(uuid.UUID(int=n << 64)), tenant, f"doc-{n // 10}", n % 10, text, "", (0, 1), 1), "ab" * 32
    )


def names(*numbers: int) -> list[str]:
    return [row(n).chunk.id for n in numbers]


def texts(files: ChunkFiles, chunk_ids: list[str], revisions: dict[str, int] | None = None) -> dict[str, str]:
    found = list(files.read(chunk_ids, revisions))
    assert len({one.chunk.id for one in found}) == len(found)
    return {one.chunk.id: f"{one.run} {one.chunk.text}" for one in found}


@pytest.fixture
def files(paths: StatePaths) -> ChunkFiles:
    return ChunkFiles(paths, 1)


@settings(max_examples=50)
@given(st.lists(ROWS, unique_by=lambda one: one.chunk.id, max_size=5))
def test_round_trip_of_every_text(tmp_path_factory: pytest.TempPathFactory, rows: list[ChunkRow]) -> None:
    files = ChunkFiles(StatePaths(tmp_path_factory.mktemp("state")), 1)
    files.write(3, 0, "all", rows)
    found = {one.chunk.id: one for one in files.read([one.chunk.id for one in rows])}
    assert found == {one.chunk.id: replace(one, run=3) for one in rows}
    for one in rows:  # 1 == 1.0 == True for Python, not for a filter
        values = found[one.chunk.id].chunk.metadata
        assert {name: type(value) for name, value in values.items()} == {
            name: type(value) for name, value in one.chunk.metadata.items()
        }


@pytest.mark.parametrize(
    "text", ["\0", "\ud7ff\ue000", "\ufffe\uffff", "\U00010348\U0002f800\U000e0001\U0010ffff", "a\r\n"]
)
def test_every_plane(files: ChunkFiles, text: str) -> None:
    files.write(1, 1, "p", [row(1, text, tenant=text)])
    (found,) = files.read(names(1))
    assert (found.chunk.text, found.chunk.tenant) == (text, text)


def test_of_many_rows_those_that_were_asked_for(files: ChunkFiles) -> None:
    files.write(1, 1, "a", [row(n, f"text {n}") for n in range(5000)])
    files.write(1, 2, "a", [row(n, f"text {n}") for n in range(5000, 5010)])
    assert texts(files, names(0, 1023, 1024, 4999, 5009, 9999)) == {
        row(n).chunk.id: f"1 text {n}" for n in (0, 1023, 1024, 4999, 5009)
    }
    assert texts(files, []) == {}
    assert texts(files, names(1), {row(1).chunk.id: 2}) == {}


def test_the_newest_row_counts(files: ChunkFiles) -> None:
    files.write(2, 1, "a", [row(1, "second run")])
    files.write(10, 3, "a", [row(1, "tenth run, third wave"), row(2, "too")])
    files.write(10, 11, "a", [row(1, "tenth run, eleventh wave")])
    files.write(9, 99_999, "a", [row(1, "ninth run")])
    assert texts(files, names(1, 2)) == {
        row(1).chunk.id: "10 tenth run, eleventh wave",
        row(2).chunk.id: "10 too",
    }
    assert files.runs() == [2, 9, 10]


def test_a_run_that_was_never_committed_is_not_believed(files: ChunkFiles) -> None:
    files.write(1, 1, "a", [row(1, "committed"), row(2, "committed")])
    files.write(2, 1, "a", [row(1, "its run died before the manifest")])
    files.write(3, 1, "a", [row(2, "patched")])
    revisions = {row(1).chunk.id: 1, row(2).chunk.id: 3}
    assert texts(files, names(1, 2), revisions) == {row(1).chunk.id: "1 committed", row(2).chunk.id: "3 patched"}


def test_a_repeated_part_replaces_the_first(files: ChunkFiles) -> None:
    files.write(1, 1, "a", [row(1, "first"), row(2, "first")])
    files.write(1, 1, "a", [row(1, "second")])
    assert texts(files, names(1, 2)) == {row(1).chunk.id: "1 second"}


def test_generations_are_apart(paths: StatePaths, files: ChunkFiles) -> None:
    files.write(1, 1, "a", [row(1)])
    assert texts(ChunkFiles(paths, 2), names(1)) == {}


@pytest.mark.parametrize("part", ["", "a/b", "..", "A", "a" * 65])
def test_a_part_cannot_lead_out_of_the_folder(files: ChunkFiles, part: str) -> None:
    with pytest.raises(StateError, match="no name for a part"):
        files.write(1, 1, part, [row(1)])


def test_no_changed_byte_gets_through_unnoticed(paths: StatePaths, files: ChunkFiles) -> None:
    files.write(1, 1, "a", [row(n, f"text {n}") for n in range(3)])
    (path,) = paths.chunks(1).rglob("*.parquet")
    content = path.read_bytes()
    wanted = {row(n).chunk.id: f"1 text {n}" for n in range(3)}
    refused = 0
    for place in range(0, len(content), 13):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            found = texts(files, names(0, 1, 2))
        except StateError:
            refused += 1
        else:
            assert found.items() <= wanted.items()
    assert refused > 10


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all, but long enough to be looked at"])
def test_what_is_no_parquet_is_named(paths: StatePaths, files: ChunkFiles, content: bytes) -> None:
    files.write(1, 1, "a", [row(1)])
    (path,) = paths.chunks(1).rglob("*.parquet")
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"{path} is damaged"):
        list(files.read(names(1)))


@pytest.mark.usefixtures("umask_0")
def test_only_the_owner_may_read(
    paths: StatePaths, files: ChunkFiles, modes: Callable[[Path], set[tuple[str, str]]]
) -> None:
    files.write(1, 1, "a", [row(1)])
    assert modes(paths.root) == {("folder", "0o700"), ("file", "0o600")}

from __future__ import annotations

import errno
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from m3core.errors import DiskFullError, StateError
from pipelines.state.files import DamagedError
from pipelines.state.tables import (
    TableKind,
    dataset,
    duckdb_connection,
    extra_metadata,
    open_table,
    reading,
    write_table,
)

KIND = TableKind("threefold.test", 1, rows_per_group=2, options={"compression": "none"})
TABLE = pa.table({"x": ["one", "two", "three", "four", "five"]})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.parquet"
    batches = [TABLE.slice(0, 3), *TABLE.slice(3).to_batches()]
    assert write_table(path, KIND, TABLE.schema, batches, through="7") == 5
    return path


def test_round_trip(file: Path) -> None:
    opened = open_table(file, KIND, TABLE.schema)
    assert opened.read().column("x").to_pylist() == TABLE.column("x").to_pylist()
    assert extra_metadata(opened) == {"through": "7"}
    assert opened.metadata.num_row_groups == 3


def test_another_kind_format_or_other_columns_are_refused(file: Path) -> None:
    with pytest.raises(DamagedError, match=r"no threefold\.other file"):
        open_table(file, TableKind("threefold.other", 1))
    with pytest.raises(StateError, match="has the old format 1"):
        open_table(file, TableKind("threefold.test", 2))
    with pytest.raises(DamagedError, match="columns are not those"):
        open_table(file, KIND, pa.schema([("y", pa.string())]))
    with pytest.raises(FileNotFoundError):
        open_table(file.with_name("b.parquet"), KIND)


def test_a_changed_page_is_noticed_by_every_reader(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content.replace(b"three", b"thref"))
    with pytest.raises(DamagedError, match="CRC"), reading(file):
        open_table(file, KIND).read()
    with duckdb.connect() as connection:
        connection.register("t", dataset([file], TABLE.schema))
        with pytest.raises(duckdb.Error, match="CRC"):
            connection.execute("SELECT * FROM t").fetchall()


def test_a_join_spills_into_a_private_folder_that_goes_away(tmp_path: Path) -> None:
    with duckdb_connection(tmp_path) as connection:
        (spill,) = tmp_path.iterdir()
        assert spill.stat().st_mode & 0o777 == 0o700
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    assert list(tmp_path.iterdir()) == []


def test_a_join_on_a_full_disk_is_an_error_that_names_it(small_disk: Path) -> None:
    with pytest.raises(DiskFullError, match=str(small_disk)), duckdb_connection(small_disk, "16MB") as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS n, md5(range::VARCHAR) AS h FROM range(2000000)")
    assert list(small_disk.iterdir()) == []


def test_too_little_memory_is_no_damage(tmp_path: Path) -> None:
    for error in (pa.ArrowMemoryError("malloc of size 9 failed"), OSError(errno.EMFILE, "Too many open files")):
        with pytest.raises(type(error)), reading(tmp_path / "x.parquet"):
            raise error
    for error in (pa.ArrowInvalid("no magic bytes"), OSError("Couldn't deserialize thrift")):
        with pytest.raises(DamagedError), reading(tmp_path / "x.parquet"):
            raise error

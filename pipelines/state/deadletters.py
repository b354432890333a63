"""Dead letters: documents and chunks that could not be ingested, per run and as one current view.

A run adds `runs/<run>/dead_letters-<n>.parquet` (n from 00001), kind `threefold.letters`, format 1 (`tables.py`):

    tenant, doc_id, source_path, chunk_id   string   what failed; empty where it is not known. Together its identity
    stage, error_code, message              string   where and why; no document text, no secret
    attempts                                int64    1 in a run's file
    first_seen, last_seen                   string   stamps (`clock.py`)
    run                                     int64    the run that saw it last

`runs/dead_letters.parquet` has the same columns: unresolved letters up to the run that its footer's metadata names as
`through`, one row per identity, ascending by source_path, tenant, doc_id, chunk_id; attempts count runs. The current
view is that file and the files of later runs, folded. A run's end writes it anew, in one replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.state.clock import utc_now
from pipelines.state.files import make_folder
from pipelines.state.mirror import refresh
from pipelines.state.paths import StatePaths
from pipelines.state.tables import (
    TableKind,
    dataset,
    duckdb_connection,
    extra_metadata,
    open_table,
    reading,
    write_table,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_KIND = TableKind("threefold.letters", 1)
_IDENTITY = "source_path, tenant, doc_id, chunk_id"
_BATCH = 8192
# One row per identity and run first: a step that was repeated within a run is one attempt.
_FOLD = f"""
WITH attempts AS (
    SELECT {_IDENTITY}, run, max(attempts) AS attempts, min(first_seen) AS first_seen, max(last_seen) AS last_seen,
           max_by({{'stage': stage, 'error_code': error_code, 'message': message}}, last_seen) AS fault
    FROM letters GROUP BY ALL
)
SELECT tenant, doc_id, source_path, chunk_id, max_by(fault, run).stage AS stage,
       max_by(fault, run).error_code AS error_code, max_by(fault, run).message AS message,
       sum(attempts)::BIGINT AS attempts, min(first_seen) AS first_seen, max(last_seen) AS last_seen, max(run) AS run
FROM attempts GROUP BY {_IDENTITY}
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One document or chunk that could not be ingested. Identity: tenant, doc_id, source_path, chunk_id.

    Times are ISO 8601 UTC; empty ones are set when the letter is added. `message` holds no text and no secret.
    """

    stage: str
    tenant: str
    doc_id: str
    source_path: str
    error_code: str
    message: str
    attempts: int = 1
    first_seen: str = ""
    last_seen: str = ""
    chunk_id: str = ""
    run: int = 0


def read_dead_letters(paths: StatePaths) -> Iterator[DeadLetter]:
    """The current view: unresolved letters, with attempts and first_seen over all runs."""
    if not _files_with_letters(paths):
        return
    with _letters(paths) as connection:
        for batch in connection.sql(f"{_FOLD} ORDER BY {_IDENTITY}").to_arrow_reader(_BATCH):
            yield from (DeadLetter(**row) for row in batch.to_pylist())


def write_letters(folder: Path, run: int, letters: Iterable[DeadLetter]) -> None:
    """One more file of the run, durable; no file for no letters."""
    import pyarrow as pa

    now = utc_now()
    rows = [
        asdict(replace(one, run=run, first_seen=one.first_seen or now, last_seen=one.last_seen or now))
        for one in letters
    ]
    if rows:
        refresh(folder, "dead_letters-*.parquet")
        make_folder(folder)
        number = 1 + sum(1 for _ in folder.glob("dead_letters-*.parquet"))
        table = pa.Table.from_pylist(rows, schema=_schema())
        write_table(folder / f"dead_letters-{number:05d}.parquet", _KIND, _schema(), [table])


def fold_letters(
    paths: StatePaths,
    run: int,
    *,
    complete: bool,
    resolved: Collection[tuple[str, str]],
    standing: Callable[[], Collection[tuple[str, str]]] = tuple,
) -> None:
    """Write the current view through `run`. Letters that this run did not repeat are resolved if it was complete, or if
    their document (tenant, doc_id) is in `resolved`; those of `standing` documents stay after a complete run too."""
    import pyarrow as pa

    if not _files_with_letters(paths):  # what nearly every run finds costs no database
        write_table(_view(paths), _KIND, _schema(), [_schema().empty_table()], through=str(run))
        return
    keys = sorted(set(resolved))
    columns = {"tenant": [key[0] for key in keys], "doc_id": [key[1] for key in keys]}
    with _letters(paths) as connection:
        text = pa.schema([("tenant", pa.string()), ("doc_id", pa.string())])
        connection.register("resolved", pa.table(columns, schema=text))
        still = sorted(set(standing())) if complete else []
        columns = {"tenant": [key[0] for key in still], "doc_id": [key[1] for key in still]}
        connection.register("standing", pa.table(columns, schema=text))
        stays = "(tenant, doc_id) IN (SELECT (tenant, doc_id) FROM standing)"
        kept = stays if complete else "(tenant, doc_id) NOT IN (SELECT (tenant, doc_id) FROM resolved)"
        sql = f"SELECT * FROM ({_FOLD}) WHERE run >= {run:d} OR {kept} ORDER BY {_IDENTITY}"  # noqa: S608
        batches = (_in_order(batch) for batch in connection.sql(sql).to_arrow_reader(_BATCH))
        write_table(_view(paths), _KIND, _schema(), batches, through=str(run))


def forget_letters(paths: StatePaths, forgotten: Collection[DeadLetter]) -> None:
    """Write the current view without some letters, told by their identity; under the lease, while no run is at work."""
    import pyarrow as pa

    names = ("source_path", "tenant", "doc_id", "chunk_id")
    columns = {name: [getattr(one, name) for one in forgotten] for name in names}
    with _letters(paths) as connection:
        table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in names]))
        connection.register("forgotten", table)
        sql = f"SELECT * FROM ({_FOLD}) ANTI JOIN forgotten USING ({_IDENTITY}) ORDER BY {_IDENTITY}"  # noqa: S608
        batches = (_in_order(batch) for batch in connection.sql(sql).to_arrow_reader(_BATCH))
        through = max((int(path.name) for path in paths.runs.iterdir() if path.name.isdigit()), default=0)
        write_table(_view(paths), _KIND, _schema(), batches, through=str(through))


def folded_through(paths: StatePaths) -> int:
    """The last run whose letters are in the current view's file; 0 if there is none yet."""
    view = _view(paths)
    return int(extra_metadata(open_table(view, _KIND, _schema()))["through"]) if view.exists() else 0


def erase_letters(paths: StatePaths, erased: Callable[[str, str], bool]) -> int:
    """Write every file of letters, of old runs too, without those whose document (tenant, doc_id) is erased; how many
    letters went. Under the lease, while no run is at work."""
    import pyarrow as pa

    gone = 0
    for path in sorted((*paths.runs.glob("dead_letters.parquet"), *paths.runs.glob("*/dead_letters-*.parquet"))):
        file = open_table(path, _KIND, _schema())
        with reading(path):
            table = file.read()
        keys = zip(table.column("tenant").to_pylist(), table.column("doc_id").to_pylist(), strict=True)
        kept = pa.array([not erased(*key) for key in keys], pa.bool_())
        rows = table.filter(kept)
        if rows.num_rows < table.num_rows:
            gone += table.num_rows - rows.num_rows
            # An empty file stays: the numbers of a run's files have no holes, and the view says how far it goes.
            write_table(path, _KIND, _schema(), [rows], **extra_metadata(file))
    return gone


@contextmanager
def _letters(paths: StatePaths) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the table `letters`: the current view's file and those of later runs."""
    files = _files_with_letters(paths)
    with duckdb_connection(paths.runs) as connection:
        connection.register("letters", dataset(files, _schema()) if files else _schema().empty_table())
        yield connection


def _files_with_letters(paths: StatePaths) -> list[Path]:
    """The current view's file and those of later runs, as far as they have rows. DamagedError."""
    if not paths.runs.exists():
        return []
    through = folded_through(paths)
    later = [path for path in paths.runs.iterdir() if path.name.isdigit() and int(path.name) > through]
    files = [path for folder in later for path in sorted(folder.glob("dead_letters-*.parquet"))]
    if _view(paths).exists():
        files.insert(0, _view(paths))
    return [path for path in files if open_table(path, _KIND, _schema()).metadata.num_rows]


def _view(paths: StatePaths) -> Path:
    return paths.runs / "dead_letters.parquet"


def _in_order(batch: pa.RecordBatch) -> Any:
    return batch.select(_schema().names).cast(_schema())


def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = ("tenant", "doc_id", "source_path", "chunk_id", "stage", "error_code", "message")
    columns = [(name, pa.string()) for name in texts]
    columns += [("attempts", pa.int64()), ("first_seen", pa.string()), ("last_seen", pa.string()), ("run", pa.int64())]
    return pa.schema(columns)

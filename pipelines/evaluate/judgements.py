"""Judgements (qrels): query id, document id, degree of relevance; tab-separated or Parquet, BEIR's or TREC's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3core.errors import DocumentError
from pipelines.evaluate.problems import Problem, Problems
from pipelines.evaluate.rows import lines, records
from pipelines.ingest.documents import check_doc_id
from pipelines.ingest.values import kind_of

_QUERY, _DOCUMENT, _SCORE = "query-id", "corpus-id", "score"
# trec_eval reads them as long integers; no scale is longer.
_MOST = 1_000
# First fields of a line that names the columns.
_HEADERS = frozenset({_QUERY, "query_id", "queryid", "query", "qid", "q_id"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """How relevant a document is for a query; 0 or less: it was looked at and is not."""

    query: str
    document: str
    score: int
    place: str


def read_judgements(path: Path, problems: Problems) -> Iterator[Judgement]:
    """Every judgement that can be read, the first of each pair. Raises UsageError if the file is damaged."""
    seen: set[tuple[str, str]] = set()
    rows = _parquet_rows(path, problems) if path.name.lower().endswith(".parquet") else _table_rows(path, problems)
    for place, query, document, score in rows:
        try:
            judgement = Judgement(_id(query, _QUERY), _id(document, _DOCUMENT), _degree(score), place)
        except DocumentError as error:
            problems.add(Problem.BROKEN_ROW, f"{place} ({error.message})")
            continue
        pair = judgement.query, judgement.document
        if pair in seen:
            problems.add(Problem.REPEATED_JUDGEMENT, f"{place} ({pair[0]}, {pair[1]})")
            continue
        seen.add(pair)
        yield judgement


def _parquet_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Any, Any, Any]]:
    for place, record in records(path, (_QUERY, _DOCUMENT), problems):
        yield place, record[_QUERY], record[_DOCUMENT], record.get(_SCORE)


def _table_rows(path: Path, problems: Problems) -> Iterator[tuple[str, str, str, str]]:
    for number, (place, line) in enumerate(lines(path, problems)):
        # Ids with blanks need tabs; TREC's four columns come with either.
        fields = line.strip("\n").split("\t") if "\t" in line else line.split()
        if number == 0 and fields[0].strip().casefold() in _HEADERS:
            continue
        if len(fields) not in (3, 4):
            problems.add(Problem.BROKEN_ROW, f"{place} ({len(fields)} columns; three or four are needed)")
            continue
        query, document, score = (fields[0], *fields[-2:])
        yield place, query.strip(), document.strip(), score.strip()


def _id(value: object, name: str) -> str:
    return check_doc_id(value, name)


def _degree(value: object) -> int:
    """A whole number; Parquet files may have it as 1.0."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
        if number != int(number) or abs(number) > _MOST:
            raise ValueError
    except (ValueError, OverflowError):
        what = "text" if isinstance(value, str) else kind_of(value)
        raise DocumentError(f"{_SCORE} is {what}; a whole number of at most {_MOST:,} is needed") from None
    return int(number)

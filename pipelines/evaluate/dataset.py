"""A data set as it is evaluated: documents, the queries that have an answer among them, and their judgements."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from m3core.errors import DocumentError, UsageError
from pipelines.evaluate.judgements import Judgement, read_judgements
from pipelines.evaluate.layout import find_layout
from pipelines.evaluate.problems import Problem, Problems
from pipelines.evaluate.rows import records
from pipelines.ingest.documents import check_doc_id
from pipelines.ingest.ids import canonical_json
from pipelines.ingest.values import check_characters, kind_of

_ID, _TEXT = "_id", "text"
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True)
class Item:
    """A document or a query."""

    id: str
    text: str
    language: str


@dataclass(frozen=True)
class Coverage:
    """What became of the judgements: all rows, those used, the queries, and the queries with a relevant document.

    `digest` is of all that can be used: figures compare only where it is equal.
    """

    split: str
    rows: int
    used: int
    queries: int
    answerable: int
    judged_documents: int
    documents: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Counts, and the shares that say how far the judgements reach."""
        return {
            "split": self.split,
            "judgements": self.rows,
            "used": self.used,
            "queries_in_file": self.queries,
            "queries_with_relevant": self.answerable,
            "coverage": round(self.answerable / self.queries, 4) if self.queries else 0.0,
            "documents_judged": round(self.judged_documents / self.documents, 4) if self.documents else 0.0,
            "digest": self.digest,
        }


@dataclass(frozen=True)
class Dataset:
    """Documents by descending id, so that the lower place wins ties as in trec_eval; queries in their file's order."""

    name: str
    documents: tuple[Item, ...]
    queries: tuple[Item, ...]
    judgements: Mapping[str, Mapping[str, int]]
    coverage: Coverage
    problems: Problems

    @cached_property
    def document_ids(self) -> tuple[str, ...]:
        """Ids of the documents, by place."""
        return tuple(document.id for document in self.documents)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Language of each query; where it has none, that of its first relevant document; else empty."""
        known = {document.id: document.language for document in self.documents}
        return tuple(query.language or known[self._first(query.id)] for query in self.queries)

    def first_queries(self, most: int | None) -> Dataset:
        """The same with at most so many queries."""
        return self if most is None else replace(self, queries=self.queries[:most])

    def gains(self) -> list[dict[int, int]]:
        """Place -> score of the relevant documents of each query."""
        place = {document: number for number, document in enumerate(self.document_ids)}
        return [
            {place[document]: score for document, score in self.judgements[query.id].items() if score > 0}
            for query in self.queries
        ]

    def _first(self, query: str) -> str:
        return next(document for document, score in self.judgements[query].items() if score > 0)


def read_dataset(folder: Path, split: str | None = None) -> Dataset:
    """Read a folder. Raises UsageError if files are missing or damaged, or no query has a relevant document."""
    layout = find_layout(folder, split)
    problems = Problems()
    documents = _items(layout.corpus, problems, Problem.DUPLICATE_DOCUMENT)
    for document in documents.values():
        if not document.text:
            problems.add(Problem.EMPTY_DOCUMENT, document.id)
    asked = _items(layout.queries, problems, Problem.DUPLICATE_QUERY)
    rows = list(read_judgements(layout.qrels, problems))
    judgements = _usable(rows, asked, documents, problems)
    queries = tuple(query for query in asked.values() if _answerable(query, judgements, problems))
    if not queries:
        raise UsageError(
            f"{folder}: no query has a relevant document ({len(asked):,} queries, {len(documents):,} documents, "
            f"{len(rows):,} judgements)",
            "check that ids in qrels, queries and corpus are the same",
        )
    coverage = Coverage(
        split=layout.split,
        rows=len(rows),
        used=sum(map(len, judgements.values())),
        queries=len(asked),
        answerable=len(queries),
        judged_documents=len({document for judged in judgements.values() for document in judged}),
        documents=len(documents),
        digest=_digest(judgements, documents),
    )
    ordered = tuple(documents[each] for each in sorted(documents, reverse=True))
    return Dataset(folder.resolve().name, ordered, queries, judgements, coverage, problems)


def _items(path: Path, problems: Problems, duplicate: Problem) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for place, record in records(path, (_ID, _TEXT), problems):
        try:
            item = _item(record, place, problems)
        except DocumentError as error:
            problems.add(Problem.BROKEN_ROW, f"{place} ({error.message})")
            continue
        if item.id in items:
            problems.add(duplicate, f"{item.id} ({place})")
        else:
            items[item.id] = item
    return items


def _item(record: Mapping[str, Any], place: str, problems: Problems) -> Item:
    identity = check_doc_id(record.get(_ID), _ID)
    title, text = text_of(record, "title"), text_of(record, _TEXT)
    return Item(identity, f"{title}\n{text}".strip(), _language(record, place, problems))


def text_of(record: Mapping[str, Any], name: str) -> str:
    """A text; missing and null are empty, as in BEIR's own files."""
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DocumentError(f"{name} is {kind_of(value)}; a string is needed")
    check_characters(value, name)
    return value


def _language(record: Mapping[str, Any], place: str, problems: Problems) -> str:
    metadata = record.get("metadata")
    inner = metadata.get("language") if isinstance(metadata, Mapping) else None
    value = record.get("language") or inner or ""
    if value and not (isinstance(value, str) and len(value) <= 35 and _LANGUAGE.fullmatch(value)):
        problems.add(Problem.BAD_LANGUAGE, place)
        return ""
    return str(value)


def _usable(
    rows: list[Judgement], queries: Mapping[str, Item], documents: Mapping[str, Item], problems: Problems
) -> dict[str, dict[str, int]]:
    judgements: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.query not in queries:
            problems.add(Problem.UNKNOWN_QUERY, f"{row.query} ({row.place})")
        elif row.document not in documents:
            problems.add(Problem.UNKNOWN_DOCUMENT, f"{row.document} ({row.place})")
        else:
            judgements.setdefault(row.query, {})[row.document] = row.score
    return judgements


def _answerable(query: Item, judgements: Mapping[str, Mapping[str, int]], problems: Problems) -> bool:
    if not query.text:
        problems.add(Problem.EMPTY_QUERY, query.id)
        return False
    if not any(score > 0 for score in judgements.get(query.id, {}).values()):
        problems.add(Problem.NOTHING_RELEVANT, query.id)
        return False
    return True


def _digest(judgements: Mapping[str, Mapping[str, int]], documents: Mapping[str, Item]) -> str:
    rows = [[query, sorted(judged.items())] for query, judged in sorted(judgements.items())]
    return sha256(canonical_json([rows, sorted(documents)]).encode()).hexdigest()[:16]

"""Reading data sets: every form of the files gives the same set, and whatever is wrong is counted and named."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import UsageError
from pipelines.evaluate import rows
from pipelines.evaluate.dataset import Dataset, read_dataset
from pipelines.evaluate.problems import Problems
from tests.pipelines.evaluate.folders import CORPUS, QRELS, QUERIES, lines, table, write_folder, zipped


def _same(first: Dataset, second: Dataset) -> bool:
    return (first.documents, first.queries, first.judgements, first.coverage.digest) == (
        second.documents,
        second.queries,
        second.judgements,
        second.coverage.digest,
    )


def _counts(dataset: Dataset) -> dict[str, int]:
    return {each["kind"]: each["count"] for each in dataset.problems.as_json()}


def _examples(dataset: Dataset, kind: str) -> list[str]:
    return next(each["examples"] for each in dataset.problems.as_json() if each["kind"] == kind)


def test_a_plain_folder(tmp_path: Path) -> None:
    dataset = read_dataset(write_folder(tmp_path / "handbook"))
    assert dataset.name == "handbook"
    assert dataset.document_ids == ("d5", "d4", "d3", "d2", "d1")
    assert dataset.documents[-1].text == "Cryostat\nThe cryostat is booked at the front desk."
    assert dataset.documents[0].language == "ja"
    assert [query.id for query in dataset.queries] == ["q1", "q2", "q3", "q4"]
    assert dataset.judgements["q1"] == {"d1": 2, "d4": 1}
    assert dataset.languages == ("en", "en", "de", "en")
    assert dataset.problems.as_json() == []
    told = dataset.coverage.as_json()
    assert (told["split"], told["judgements"], told["used"], told["coverage"]) == ("qrels", 6, 6, 1.0)
    assert told["documents_judged"] == 0.8


def test_gzip_parquet_and_trec_columns_give_the_same(tmp_path: Path) -> None:
    plain = read_dataset(write_folder(tmp_path / "plain"))
    packed = tmp_path / "packed"
    (packed / "qrels").mkdir(parents=True)
    (packed / "corpus.jsonl.gz").write_bytes(zipped(lines(CORPUS)))
    (packed / "queries.jsonl.gz").write_bytes(zipped(lines(QUERIES)))
    (packed / "qrels" / "test.tsv.gz").write_bytes(zipped(table(QRELS, header=False)))
    assert _same(read_dataset(packed), plain)
    columns = tmp_path / "columns"
    columns.mkdir()
    corpus = [
        {"_id": r["_id"], "title": r.get("title"), "text": r["text"], "language": r.get("language") or "ja"}
        for r in CORPUS
    ]
    pq.write_table(pa.Table.from_pylist(corpus), columns / "corpus.parquet")
    pq.write_table(pa.Table.from_pylist([{"language": None, **row} for row in QUERIES]), columns / "queries.parquet")
    judged = [
        {"query-id": query, "corpus-id": document, "score": float(str(score))} for query, document, score in QRELS
    ]
    pq.write_table(pa.Table.from_pylist(judged), columns / "qrels.parquet")
    assert _same(read_dataset(columns), plain)
    trec = write_folder(tmp_path / "trec")
    (trec / "qrels.tsv").write_text("".join(f"{q} 0 {d} {s}\n" for q, d, s in QRELS))
    assert _same(read_dataset(trec), plain)


def test_which_judgements_are_taken(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "qrels.tsv").unlink()
    splits = folder / "qrels"
    splits.mkdir()
    with pytest.raises(UsageError, match=r"has no qrels\.tsv"):
        read_dataset(folder)
    (splits / "train.tsv").write_text(table([("q1", "d1", 1)]))
    assert read_dataset(folder).coverage.split == "train"
    (splits / "other.tsv").write_text(table([("q1", "d1", 1)]))
    with pytest.raises(UsageError, match="has other, train"):
        read_dataset(folder)
    (splits / "dev.tsv").write_text(table([("q2", "d2", 1)]))
    assert read_dataset(folder).coverage.split == "dev"
    (splits / "test.tsv").write_text(table([("q3", "d3", 1)]))
    assert read_dataset(folder).coverage.split == "test"
    assert [query.id for query in read_dataset(folder, "train").queries] == ["q1"]
    with pytest.raises(UsageError, match="--split 'trian'") as caught:
        read_dataset(folder, "trian")
    assert caught.value.remedy == 'did you mean "train"?'
    (splits / "test.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match=r"test\.tsv and test\.parquet"):
        read_dataset(folder)


def test_everything_that_is_wrong_is_counted_and_named(tmp_path: Path) -> None:
    corpus = [
        *CORPUS,
        {"_id": "d1", "text": "another first"},
        {"_id": "d6", "text": "  "},
        {"_id": "d7", "text": ["no", "text"]},
        {"text": "no id"},
        {"_id": "d8", "text": "a language", "language": "not a tag!"},
    ]
    queries = [
        *QUERIES,
        {"_id": "q5", "text": " "},
        {"_id": "q6", "text": "unanswered"},
        {"_id": "q1", "text": "again"},
    ]
    judged = [
        *QRELS,
        ("q5", "d1", 1),
        ("q6", "d2", 0),
        ("q6", "d99", 1),
        ("q77", "d1", 1),
        ("q1", "d1", 1),
        ("q2", "d3", "much"),
        ("q2", "d3", 0.5),
        ("q2", "d3"),
    ]
    folder = write_folder(tmp_path / "broken", corpus, queries, judged)
    with (folder / "corpus.jsonl").open("ab") as file:
        file.write(b'{"_id": "d9", "text"\n\n"text"\n{"_id": "d10", "text": "\xff"}\n')
    dataset = read_dataset(folder)
    assert _counts(dataset) == {
        "broken-row": 8,
        "duplicate-document-id": 1,
        "duplicate-query-id": 1,
        "empty-document": 1,
        "empty-query": 1,
        "bad-language": 1,
        "repeated-judgement": 1,
        "unknown-query": 1,
        "unknown-document": 1,
        "no-relevant-document": 1,
    }
    assert _examples(dataset, "broken-row")[:2] == [
        "corpus.jsonl line 8 (text is a list; a string is needed)",
        "corpus.jsonl line 9 (_id is missing)",
    ]
    assert _examples(dataset, "duplicate-document-id") == ["d1 (corpus.jsonl line 6)"]
    assert _examples(dataset, "unknown-document") == ["d99 (qrels.tsv line 10)"]
    assert _examples(dataset, "no-relevant-document") == ["q6"]
    assert [query.id for query in dataset.queries] == ["q1", "q2", "q3", "q4"]
    assert dataset.judgements["q1"] == {"d1": 2, "d4": 1}
    assert dataset.documents[-1].text.startswith("Cryostat")
    assert "another first" not in str(dataset.problems.as_json())
    assert any(
        line.startswith("8 rows that cannot be read, left out: corpus.jsonl line 8")
        for line in dataset.problems.lines()
    )
    told = dataset.coverage.as_json()
    assert (told["queries_in_file"], told["queries_with_relevant"], told["coverage"]) == (6, 4, 0.6667)


def test_a_set_without_an_answer_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, qrels=[("q1", "elsewhere", 1)])
    with pytest.raises(UsageError, match=r"no query has a relevant document \(4 queries, 5 documents, 1 judgements\)"):
        read_dataset(folder)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"has no {name}"):
        read_dataset(folder)
    with pytest.raises(UsageError, match="no such folder"):
        read_dataset(folder / "absent")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(zipped(lines(CORPUS))[:-20])
    with pytest.raises(UsageError, match="damaged or cut off"):
        read_dataset(folder)
    (folder / "corpus.jsonl.gz").unlink()
    pq.write_table(pa.Table.from_pylist([{"id": "d1", "text": "x"}]), folder / "corpus.parquet")
    with pytest.raises(UsageError, match="no column '_id'"):
        read_dataset(folder)


def test_sizes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path)
    monkeypatch.setattr(rows, "MAX_FILE_BYTES", 200)
    with pytest.raises(UsageError, match=r"corpus\.jsonl has more than 200 bytes"):
        read_dataset(folder)


def test_a_row_over_the_limit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big: dict[str, Any] = {"_id": "big", "text": "x" * 5_000_000}
    folder = write_folder(tmp_path, corpus=[*CORPUS, big])
    monkeypatch.setattr(rows, "MAX_TEXT_BYTES", 100)
    dataset = read_dataset(folder)
    assert _counts(dataset) == {"broken-row": 1}
    assert "at most 100" in _examples(dataset, "broken-row")[0]


def test_only_the_first_queries(tmp_path: Path) -> None:
    dataset = read_dataset(write_folder(tmp_path))
    assert [query.id for query in dataset.first_queries(2).queries] == ["q1", "q2"]
    assert dataset.first_queries(2).languages == ("en", "en")
    assert dataset.first_queries(None) is dataset


def test_the_digest_changes_with_what_figures_depend_on(tmp_path: Path) -> None:
    digest = read_dataset(write_folder(tmp_path / "a")).coverage.digest
    assert read_dataset(write_folder(tmp_path / "b", qrels=QRELS[::-1])).coverage.digest == digest
    assert (
        read_dataset(write_folder(tmp_path / "c", corpus=[*CORPUS, {"_id": "x", "text": "x"}])).coverage.digest
        != digest
    )
    assert read_dataset(write_folder(tmp_path / "d", qrels=QRELS[:-1])).coverage.digest != digest


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and b"\r" not in line), max_size=6))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, found: list[bytes]) -> None:
    """Every line is read, blank, or counted."""
    path = tmp_path_factory.mktemp("bytes") / "corpus.jsonl"
    path.write_bytes(b"\n".join(found))
    problems = Problems()
    read = list(rows.records(path, ("_id", "text"), problems))
    given = [line.removeprefix(codecs.BOM_UTF8) if number == 0 else line for number, line in enumerate(found)]
    assert len(read) + sum(problems.counts.values()) == sum(bool(line.strip()) for line in given)

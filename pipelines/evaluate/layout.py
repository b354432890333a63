"""Which files of a folder are corpus, queries and judgements: the layout of the BEIR benchmark.

corpus.jsonl    _id, title, text            (or .jsonl.gz, .jsonl.zst, .parquet)
queries.jsonl   _id, text
qrels.tsv       query-id, corpus-id, score  (or qrels/test.tsv; .tsv.gz, .parquet; TREC's four columns too)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from m3core.errors import UsageError
from m3core.nearest import did_you_mean
from pipelines.evaluate.rows import RECORD_SUFFIXES, TABLE_SUFFIXES

_QRELS = "qrels"
_QRELS_SUFFIXES = (*TABLE_SUFFIXES, ".parquet")
# Which judgements are meant where nobody says: those of the test, else of the development set.
_SPLITS = ("test", "dev")


@dataclass(frozen=True)
class Layout:
    """The three files, and the name of the split: the judgements' file without its extension."""

    corpus: Path
    queries: Path
    qrels: Path
    split: str


def find_layout(folder: Path, split: str | None = None) -> Layout:
    """The files of a data set. Raises UsageError if one is missing or there are two of a kind."""
    if not folder.is_dir():
        problem = "no folder" if folder.exists() else "no such folder"
        raise UsageError(f"data set {folder}: {problem}", "it needs corpus.jsonl, queries.jsonl and qrels.tsv")
    name, qrels = _qrels(folder, split)
    return Layout(_one(folder, "corpus", RECORD_SUFFIXES), _one(folder, "queries", RECORD_SUFFIXES), qrels, name)


def _qrels(folder: Path, split: str | None) -> tuple[str, Path]:
    if split is None and _present(folder, _QRELS, _QRELS_SUFFIXES):
        return _QRELS, _one(folder, _QRELS, _QRELS_SUFFIXES)
    splits = _splits(folder / _QRELS)
    if split is not None and split not in splits:
        raise UsageError(f"--split {split[:40]!r}: {folder / _QRELS} has no such file", did_you_mean(split, splits))
    chosen = split or next((name for name in _SPLITS if name in splits), None)
    if chosen is None and len(splits) == 1:
        chosen = splits[0]
    if chosen is None:
        found = f"{folder / _QRELS} has {', '.join(splits[:8])}" if splits else f"{folder} has no qrels.tsv"
        raise UsageError(found, "name one with --split" if splits else "add qrels.tsv or qrels/test.tsv")
    return chosen, _one(folder / _QRELS, chosen, _QRELS_SUFFIXES)


def _splits(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
    return sorted({stem for name in names for stem in _stems(name) if stem})


def _stems(name: str) -> Iterable[str]:
    return (name[: -len(suffix)] for suffix in _QRELS_SUFFIXES if name.endswith(suffix))


def _one(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    found = _present(folder, stem, suffixes)
    if not found:
        raise UsageError(f"{folder} has no {stem}{suffixes[0]}", f"add it, or one with {', '.join(suffixes[1:])}")
    if len(found) > 1:
        raise UsageError(f"{folder} has {' and '.join(path.name for path in found)}", "keep one of them")
    return found[0]


def _present(folder: Path, stem: str, suffixes: tuple[str, ...]) -> list[Path]:
    return [path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()]

"""A cross-lingual evaluation set of text families that no training run has seen, in BEIR's layout.

    python -m m3core.train.crossing_set --data pairs.parquet --out FOLDER

A family is a paragraph and its translations; families are held out by their English side. Each has one document, in a
language drawn at random, and is asked for with a sentence of its other versions. Every language that asks has other
paragraphs in the corpus, so that a model which prefers the question's language fails. AfriQA's passages, English and
French, are in it too: many wrong answers in languages that every model knows best.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m3core.train.bitexts import asked_sentence, held_out
from m3core.train.curriculum import XLM_R_LANGUAGES
from m3core.train.pairs import Pair, read_pairs

_SOURCE = "ntrex"
_PASSAGES = "afriqa"
_PASSAGE_LANGUAGES = ("en", "fr")
_OTHERS = 12
_QUERIES = 5


def write_crossing_set(pairs: Sequence[Pair], folder: Path, seed: int = 0) -> tuple[int, int]:
    """Write corpus, queries and qrels; returns how many documents and queries."""
    rng = np.random.default_rng(seed)
    families: dict[str, dict[str, str]] = defaultdict(dict)
    for pair in pairs:
        if pair.source == _SOURCE and pair.language in XLM_R_LANGUAGES:
            families[pair.positive][pair.language] = pair.query
    kept = {english: {"en": english, **versions} for english, versions in families.items() if held_out(english)}
    documents: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    qrels: list[str] = ["query-id\tcorpus-id\tscore"]
    for number, versions in enumerate(kept.values()):
        languages = rng.permutation(sorted(versions)).tolist()
        documents.append({"_id": f"f{number}", "text": versions[languages[0]], "language": languages[0]})
        for language in languages[1 : 1 + _QUERIES]:
            query_id = f"f{number}-{language}"
            queries.append({"_id": query_id, "text": asked_sentence(versions[language], rng), "language": language})
            qrels.append(f"{query_id}\tf{number}\t1")
    for language in sorted({query["language"] for query in queries}):
        texts = [
            versions.get(language) or english
            for english, versions in families.items()
            if english not in kept
            if language in versions or language == "en"
        ]
        for place in rng.permutation(len(texts))[:_OTHERS].tolist():
            documents.append({"_id": f"{language}-{place}", "text": texts[place], "language": language})
    documents += _passages(pairs)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus.jsonl", documents), ("queries.jsonl", queries)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return len(documents), len(queries)


def _passages(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """AfriQA's passages. A passage has its question in its own language too, which tells which one that is."""
    texts = {
        pair.positive: pair.language
        for pair in pairs
        if pair.source == _PASSAGES and pair.language in _PASSAGE_LANGUAGES
    }
    return [
        {"_id": f"{_PASSAGES}-{number}", "text": text, "language": language}
        for number, (text, language) in enumerate(texts.items())
    ]


def main(arguments: Sequence[str]) -> None:
    """Entry point: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m m3core.train.crossing_set", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Parquet: query, positive, language, source, kind")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    documents, queries = write_crossing_set(read_pairs(options.data), options.out)
    sys.stderr.write(f"{documents} documents, {queries} queries\n")


if __name__ == "__main__":
    main(sys.argv[1:])

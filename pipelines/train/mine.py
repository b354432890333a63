"""Hard wrong answers for training rows, from a corpus: by the model's dense vectors and by BM25."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3core.errors import DocumentError, UsageError
from m3core.evaluate.bm25 import bm25, token_ids
from m3core.evaluate.search import Best, Rankings
from m3core.train.folding import folded
from m3core.train.mining import Choice, Window, choose
from m3core.types import Float32Array
from pipelines.evaluate.dataset import text_of
from pipelines.evaluate.problems import Problem, Problems
from pipelines.evaluate.rows import RECORD_SUFFIXES, records
from pipelines.state.files import atomic_file

if TYPE_CHECKING:
    from m3core.encoder import Encoder
    from m3core.train.examples import Row

# Queries scored with the whole corpus at a time.
_BLOCK = 128
Encode = Callable[["Encoder", Sequence[str], Any], Float32Array]


@dataclass(frozen=True)
class Corpus:
    """Distinct texts as they are encoded, with their titles, and what was wrong with the file. `bodies` are the same
    without titles; `places` finds a text, with or without its title and however it is spaced.
    """

    texts: Sequence[str]
    bodies: Sequence[str]
    places: Mapping[str, Sequence[int]]
    problems: Problems
    left_out: int


@dataclass
class Mined:
    """What mining found."""

    rows: int = 0
    negatives: int = 0
    without: int = 0
    too_close: int = 0
    scores_dropped: int = 0

    def add(self, row: Row, choice: Choice) -> None:
        """One more row."""
        self.rows += 1
        self.negatives += len(choice.chosen)
        self.without += not (choice.chosen or row.negatives)
        self.too_close += choice.too_close
        self.scores_dropped += bool(row.positive_scores and choice.chosen)


def read_corpus(path: Path) -> Corpus:
    """A file (or a folder with corpus.jsonl) of texts with optional titles; empty texts and repeats are left out.

    Raises UsageError if it cannot be read or holds no text.
    """
    file = _corpus_file(path)
    problems = Problems()
    places: dict[str, list[int]] = defaultdict(list)
    texts: list[str] = []
    bodies: list[str] = []
    seen: set[str] = set()
    left_out = 0
    for place, record in records(file, ("text", "text"), problems):
        try:
            title, body = text_of(record, "title"), text_of(record, "text")
        except DocumentError as error:
            problems.add(Problem.BROKEN_ROW, f"{place} ({error.message})")
            continue
        text = f"{title}\n{body}".strip()
        if not body.strip() or folded(text) in seen:
            left_out += 1
            continue
        seen.add(folded(text))
        for spelling in {folded(text), folded(body)}:
            places[spelling].append(len(texts))
        texts.append(text)
        bodies.append(body)
    if not texts:
        raise UsageError(f"{file}: no text to mine from", "name a corpus with a field text")
    return Corpus(texts, bodies, places, problems, left_out)


def _corpus_file(path: Path) -> Path:
    candidates = [path / f"corpus{suffix}" for suffix in RECORD_SUFFIXES] if path.is_dir() else [path]
    found = [each for each in candidates if each.is_file() and each.name.lower().endswith(RECORD_SUFFIXES)]
    if not found:
        raise UsageError(f"--corpus {path}: no corpus", f"name a file with one of {', '.join(RECORD_SUFFIXES)}")
    return found[0]


def mine(
    encoder: Encoder, rows: Sequence[Row], corpus: Corpus, window: Window, *, lexical: bool, encode: Encode
) -> Iterator[tuple[Row, Choice]]:
    """A choice for each row, in order. `lexical` ranks by BM25 too; the ceiling is by dense scores in both."""
    documents = encode(encoder, corpus.texts, "passage")
    positives = list(dict.fromkeys(text for row in rows for text in row.positives))
    right = _right_places(rows, corpus)
    answers = dict(zip(positives, encode(encoder, positives, "passage"), strict=True))
    asked = _encode_queries(encoder, rows, encode)
    lexically = _by_words(encoder, rows, corpus, window.last) if lexical else None
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores = asked[block] @ documents.T
        best = Best(len(scores), window.last)
        best.add(scores, 0)
        densely = best.rankings()
        for number, row in enumerate(rows[block]):
            lowest = min(float(asked[start + number] @ answers[text]) for text in row.positives)
            found = [densely.row(number)] + ([lexically.row(start + number)] if lexically is not None else [])
            yield row, choose(found, scores[number], right[folded(row.query)], window.ceiling(lowest), window)


def _by_words(encoder: Encoder, rows: Sequence[Row], corpus: Corpus, depth: int) -> Rankings:
    """BM25's best passages of every row's question; the corpus is indexed once."""
    questions = token_ids(encoder.tokenizer, [row.query for row in rows])
    return bm25(questions, token_ids(encoder.tokenizer, corpus.texts), depth)


def _right_places(rows: Sequence[Row], corpus: Corpus) -> dict[str, set[int]]:
    """Passages that no row may call wrong, by question: what any row calls right, and what is in its neg already."""
    right: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        for text in (*row.positives, *row.negatives):
            right[folded(row.query)].update(corpus.places.get(folded(text), ()))
    return right


def _encode_queries(encoder: Encoder, rows: Sequence[Row], encode: Encode) -> Float32Array:
    """Dense vectors of the queries, each with its row's own prompt where it has one."""
    groups: dict[str | None, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.prompt].append(index)
    vectors = np.empty((len(rows), encoder.spec.dense_dim), dtype=np.float32)
    for prompt, members in groups.items():
        own = encoder if prompt is None else replace(encoder, spec=replace(encoder.spec, query_prefix=prompt))
        vectors[members] = encode(own, [rows[i].query for i in members], "query")
    return vectors


def spelled(rows: Sequence[Row], corpus: Corpus) -> Sequence[str]:
    """The corpus as the rows spell it: without titles if most of their passages that are in it have none there.

    A wrong passage must look like a right one: otherwise its title gives it away, and another row's right passage is
    not known to be the same text.
    """
    known = [text for row in rows for text in (*row.positives, *row.negatives) if folded(text) in corpus.places]
    titled = set(map(folded, corpus.texts))
    bare = sum(folded(text) not in titled for text in known)
    return corpus.bodies if 2 * bare > len(known) else corpus.texts


def write_mined(found: Iterator[tuple[Row, Choice]], texts: Sequence[str], path: Path) -> Mined:
    """Write rows that `m3 train` reads: what was mined of `texts` comes after a row's own wrong passages.

    A teacher's scores are left out where a passage was added: it has none.
    """
    mined = Mined()
    with atomic_file(path) as file:
        for row, choice in found:
            mined.add(row, choice)
            fields = mined_row(row, [texts[place] for place in choice.chosen])
            file.write((json.dumps(fields, ensure_ascii=False) + "\n").encode())
    return mined


def mined_row(row: Row, added: Sequence[str]) -> dict[str, Any]:
    """A row as FlagEmbedding spells it."""
    fields: dict[str, Any] = {"query": row.query, "pos": list(row.positives), "neg": [*row.negatives, *added]}
    if row.positive_scores and not added:
        fields |= {"pos_scores": list(row.positive_scores), "neg_scores": list(row.negative_scores)}
    if row.prompt is not None:
        fields["prompt"] = row.prompt
    return fields | ({"type": row.type} if row.type != "normal" else {})

"""One model on one data set: encode, search exactly, measure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m3core.errors import UsageError
from m3core.evaluate.beir import ScoredSet
from m3core.evaluate.bm25 import bm25, token_ids
from m3core.evaluate.measures import MEASURES, measure, require
from m3core.evaluate.resampling import intervals
from m3core.evaluate.search import DEPTH, Rankings, Search, rank_fused
from m3core.evaluate.windows import BEST, MEAN, split_windows, window_rankings
from m3core.fusion import Weights
from m3core.types import ALL_SIGNALS, Encoded, Float64Array, Signal
from pipelines.encode.progress import Progress
from pipelines.encode.reading import Text, Totals
from pipelines.encode.run import Counts, encode_texts
from pipelines.evaluate.dataset import Dataset
from pipelines.evaluate.runs import BM25, RRF, THROUGH, mixes

if TYPE_CHECKING:
    from m3core.encoder import Encoder

# What may lie in memory for the sake of the search: the best of each query, and all scores where they are kept.
MAX_SEARCH_BYTES = 4 << 30
_KEY_BYTES, _SCORE_BYTES = 8, 4
Show = Callable[[Totals], Progress]
# Queries that are measured at a time: trec_eval takes dictionaries.
_MEASURED = 256


@dataclass(frozen=True)
class Settings:
    """How a data set is searched. `keep` holds every score, for mining weights; `windows` adds runs over windows."""

    signals: tuple[Signal, ...] = ALL_SIGNALS
    weights: Weights | None = None
    depth: int = DEPTH
    seed: int = 0
    keep: bool = False
    windows: bool = False


@dataclass(frozen=True)
class ScoredRun:
    """One ranking of all queries, the document id of each of its places, and its figures, `[Q, measures]`."""

    rankings: Rankings
    ids: Sequence[str]
    values: Float64Array

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean of each measure over the queries."""
        return dict(zip(MEASURES, self.values.mean(axis=0).tolist(), strict=True))

    def found(self, query: int) -> dict[str, float]:
        """Document id -> score of one query, best first."""
        places = self.rankings.row(query)
        scores = self.rankings.scores[query, : len(places)].tolist()
        return {self.ids[place]: score for place, score in zip(places, scores, strict=True)}


@dataclass(frozen=True)
class Evaluation:
    """Everything that is said about one model on one data set. `intervals` are `[measures, 2]` per run."""

    dataset: Dataset
    model: str
    fingerprint: str
    runs: Mapping[str, ScoredRun]
    intervals: Mapping[str, Float64Array]
    queries: Counts
    documents: Counts
    settings: Settings
    kept: ScoredSet | None = None

    def rows(self, language: str) -> list[int]:
        """Numbers of the queries of one language."""
        return [row for row, each in enumerate(self.dataset.languages) if each == language]

    def with_run(self, name: str, run: ScoredRun, bounds: Float64Array) -> Evaluation:
        """The same with one run more."""
        return replace(self, runs={**self.runs, name: run}, intervals={**self.intervals, name: bounds})


def evaluate(encoder: Encoder, dataset: Dataset, settings: Settings, show: Show) -> Evaluation:
    """All runs of `encoder` on `dataset`; `show` opens the progress of each part of the encoding.

    Raises UsageError if the search does not fit in memory, ModelError for scores that are no numbers, and
    MissingExtraError without the extra `eval`.
    """
    require()
    runs = mixes(settings.signals, encoder.spec.presets, settings.weights)
    _check_size(dataset, len(runs), settings)
    baseline = _bm25(encoder, dataset, settings.depth)
    blocks = _Blocks()
    asked, told = ([Text(each.id, each.text) for each in items] for items in (dataset.queries, dataset.documents))
    with _shown(show, [*asked, *told]) as progress:
        queries = encode_texts(encoder, asked, "query", blocks, progress)
        search = Search(blocks.encoded, runs, settings.depth, keep=settings.keep)
        documents = encode_texts(encoder, told, "passage", _Searched(search), progress)
    rankings = search.rankings()
    if len(settings.signals) > 1:
        rankings[RRF] = rank_fused([rankings[signal] for signal in settings.signals], settings.depth)
    if settings.windows:
        rankings |= _windows(encoder, told, blocks.encoded, settings.depth, show)
    rankings[BM25] = baseline
    scored = {name: score_run(dataset, each, dataset.document_ids) for name, each in rankings.items()}
    return Evaluation(
        dataset=dataset,
        model=_label(encoder.spec.name),
        fingerprint=encoder.fingerprint,
        runs=scored,
        intervals={name: intervals(run.values, settings.seed) for name, run in scored.items()},
        queries=queries,
        documents=documents,
        settings=settings,
        kept=ScoredSet(search.scores(), dataset.gains()) if settings.keep else None,
    )


def names_of_runs(presets: Mapping[str, Weights], settings: Settings, *, live: bool = False) -> list[str]:
    """The runs that an evaluation with these settings has, with that of a live collection if one is asked."""
    names = list(mixes(settings.signals, presets, settings.weights))
    names += [RRF] if len(settings.signals) > 1 else []
    names += [MEAN, BEST] if settings.windows else []
    return [*names, BM25, *([THROUGH] if live else [])]


def score_run(dataset: Dataset, rankings: Rankings, ids: Sequence[str]) -> ScoredRun:
    """The figures of rankings of the data set's queries; `ids` are those of the places."""
    run = ScoredRun(rankings, ids, np.zeros((len(dataset.queries), len(MEASURES))))
    for first in range(0, len(dataset.queries), _MEASURED):
        rows = range(first, min(first + _MEASURED, len(dataset.queries)))
        figures = measure(dataset.judgements, [(dataset.queries[row].id, run.found(row)) for row in rows])
        run.values[first : rows.stop] = np.stack([figures[name] for name in MEASURES], axis=1)
    return run


def means(evaluations: Collection[Evaluation]) -> dict[str, dict[str, float]]:
    """Mean of each figure over data sets, each weighing the same, of the runs that all of them have."""
    common = [name for name in next(iter(evaluations)).runs if all(name in each.runs for each in evaluations)]
    return {
        run: {name: float(np.mean([each.runs[run].means[name] for each in evaluations])) for name in MEASURES}
        for run in common
    }


def _label(name: str) -> str:
    """A folder by its own name: a report may be published, and paths of this machine are nobody's business."""
    return Path(name).name if Path(name).is_absolute() else name


class _Blocks:
    """Keeps what was encoded."""

    def __init__(self) -> None:
        self.encoded: list[Encoded] = []

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        self.encoded.append(encoded)


class _Searched:
    """Passes on what was encoded, and keeps nothing of it."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        self._search.add(encoded)


@contextmanager
def _shown(show: Show, texts: Sequence[Text]) -> Iterator[Progress]:
    progress = show(Totals(len(texts), sum(len(each.text.encode()) for each in texts)))
    try:
        yield progress
    finally:
        progress.close()


def _windows(
    encoder: Encoder, documents: Sequence[Text], queries: Sequence[Encoded], depth: int, show: Show
) -> dict[str, Rankings]:
    """Every document once more, as windows, dense alone."""
    prefix, limit = encoder.spec.passage_prefix, encoder.spec.max_length
    parts = [split_windows(encoder.tokenizer, document.text, limit, prefix) for document in documents]
    counts = np.asarray([len(each) for each in parts], dtype=np.int64)
    size = int(counts.sum()) * encoder.spec.dense_dim * _SCORE_BYTES
    if size > MAX_SEARCH_BYTES:
        raise UsageError(
            f"{counts.sum():,} windows need {size:,} bytes of memory; at most {MAX_SEARCH_BYTES:,} are taken",
            "leave --long-documents out, or evaluate a part of the corpus",
        )
    alone = replace(encoder, signals=(Signal.DENSE,), sparse_head=None, multi_head=None)
    texts = [Text(one.id, part) for one, each in zip(documents, parts, strict=True) for part in each]
    windows = _Blocks()
    with _shown(show, texts) as progress:
        encode_texts(alone, texts, "passage", windows, progress)
    dense = [encoded.dense for encoded in windows.encoded if encoded.dense is not None]
    return window_rankings(queries, np.concatenate(dense), np.cumsum(counts) - counts, depth)


def _bm25(encoder: Encoder, dataset: Dataset, depth: int) -> Rankings:
    documents, queries = (
        token_ids(encoder.tokenizer, [each.text for each in items]) for items in (dataset.documents, dataset.queries)
    )
    return bm25(queries, documents, depth)


def _check_size(dataset: Dataset, runs: int, settings: Settings) -> None:
    queries, documents = len(dataset.queries), len(dataset.documents)
    needed = queries * min(settings.depth, documents) * _KEY_BYTES * runs
    if settings.keep:
        needed += queries * documents * _SCORE_BYTES * len(settings.signals)
    if needed > MAX_SEARCH_BYTES:
        raise UsageError(
            f"{queries:,} queries x {documents:,} documents need {needed:,} bytes of memory for the search; at most "
            f"{MAX_SEARCH_BYTES:,} are taken",
            "take fewer with --max-queries" + ("" if settings.keep else ", or --depth 100"),
        )

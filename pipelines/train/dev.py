"""Figures on the way and at the end, on data sets of the user's; and whether training would see their passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.errors import RefusedError
from m3core.evaluate.beir import ScoredSet
from m3core.evaluate.search import Search
from m3core.fusion import Weights
from m3core.train.folding import folded
from m3core.types import ALL_SIGNALS
from pipelines.evaluate.dataset import Dataset, read_dataset
from pipelines.train.rows import shortened

if TYPE_CHECKING:
    from m3core.encoder import Encoder
    from m3core.train.examples import Row


@dataclass(frozen=True)
class DevSets:
    """Data sets in BEIR's layout, each with its first so many queries."""

    sets: Sequence[Dataset]

    @classmethod
    def read(cls, folders: Sequence[Path], queries: int) -> DevSets:
        """Raises UsageError if one cannot be read."""
        return cls([read_dataset(folder).first_queries(queries) for folder in folders])

    def __bool__(self) -> bool:
        return bool(self.sets)

    @cached_property
    def names(self) -> list[str]:
        """A name for each set; of two with one name the second gets a number."""
        names: list[str] = []
        for each in self.sets:
            count = sum(name.split("#")[0] == each.name for name in names)
            names.append(f"{each.name}#{count + 1}" if count else each.name)
        return names

    def scored(self, encoder: Encoder) -> list[ScoredSet]:
        """Exact scores of every document for every query."""
        return [_scored(encoder, each) for each in self.sets]

    def figures(self, encoder: Encoder, weights: Weights) -> dict[str, dict[str, float]]:
        """nDCG@10 of every signal and of the weighted sum, by set."""
        return {name: part.ndcg(weights) for name, part in zip(self.names, self.scored(encoder), strict=True)}

    def lines(self) -> list[str]:
        """What is wrong with the sets."""
        return [
            f"{name}: {line}"
            for name, each in zip(self.names, self.sets, strict=True)
            for line in each.problems.lines()
        ]

    def shared_with(self, rows: Sequence[Row]) -> list[str]:
        """Texts of the sets that are training texts too: `set: document d7 = rows.jsonl:3`."""
        passages: dict[str, str] = {}
        queries: dict[str, str] = {}
        for row in rows:
            queries.setdefault(folded(row.query), row.place)
            for text in (*row.positives, *row.negatives):
                passages.setdefault(folded(text), row.place)
        found = []
        for name, each in zip(self.names, self.sets, strict=True):
            for document in each.documents:
                # With and without its title: training rows seldom have one.
                spellings = (document.text, document.text.partition("\n")[2])
                place = next((passages[folded(text)] for text in spellings if folded(text) in passages), None)
                if place is not None:
                    found.append(f"{name}: document {document.id} = {place}")
            found += [
                f"{name}: query {query.id} = {queries[folded(query.text)]}"
                for query in each.queries
                if folded(query.text) in queries
            ]
        return found


def refuse_shared(shared: Sequence[str]) -> None:
    """Raise RefusedError if there are texts that are trained on and measured with."""
    if shared:
        raise RefusedError(
            f"{len(shared):,} texts of --dev are in the training data, so its figures would flatter: "
            f"{shortened(shared, 3)}",
            "leave them out of one side, or measure nevertheless with --allow-shared",
        )


def _scored(encoder: Encoder, dataset: Dataset) -> ScoredSet:
    asked = encoder.encode([query.text for query in dataset.queries], "query")
    search = Search([asked], {signal.value: {signal: 1.0} for signal in ALL_SIGNALS}, depth=1, keep=True)
    search.add(encoder.encode([document.text for document in dataset.documents], "passage"))
    return ScoredSet(search.scores(), dataset.gains())

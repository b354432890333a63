"""Batches by length: rows of one bucket meet, and a bucket's batches have as many rows as its length allows.

M3-Embedding, section 3.3: rows are grouped by the length of their longest text, so that little is computed beside it,
and short rows come in larger batches. Every process of a run draws the same batches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from m3core.errors import TrainingError
from m3core.train.examples import ONE_NEGATIVE, Example, Examples
from m3core.train.gradient import Rows

# Fewer rows hold no wrong answer for one another.
_LEAST_ROWS = 2
# Longest text of a bucket; a longer one has a bucket by itself at the end.
EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Batching:
    """At most `rows` rows a batch, and about `tokens` tokens if all its texts were as long as its bucket's limit.

    `negatives` is how many of a row's own wrong passages are drawn each time. `part_tokens` is what goes through the
    backbone at once: it changes memory and speed, never the step.
    """

    rows: int = 64
    tokens: int = 65_536
    negatives: int = 1
    part_tokens: int = 8_192

    def size(self, limit: int, negatives: int) -> int:
        """Rows of a batch whose texts have up to `limit` tokens."""
        return max(_LEAST_ROWS, min(self.rows, self.tokens // (limit * (1 + negatives))))


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples by number, each with the passage drawn for it, and the wrong passages drawn with it."""

    examples: tuple[int, ...]
    positives: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]

    @property
    def columns(self) -> list[int]:
        """Texts that every row is scored with: the rows' own first."""
        return [*self.positives, *(text for texts in self.negatives for text in texts)]


@dataclass(frozen=True)
class Bucket:
    """Examples whose longest text has up to `limit` tokens, and how many make a batch."""

    limit: int
    members: tuple[int, ...]
    size: int


class Schedule:
    """The batches of a run, step by step, epoch after epoch, the same for the same seed."""

    def __init__(self, examples: Examples, batching: Batching, seed: int) -> None:
        self._examples = examples.examples
        self._lengths = examples.lengths
        self._batching = batching
        self._seed = seed
        self.buckets = buckets(self._examples, self._lengths, batching)
        self._epoch: tuple[int, list[Batch]] | None = None
        self.steps_per_epoch = len(self._plan(0))
        if not self.steps_per_epoch:
            raise TrainingError(
                f"{len(self._examples)} row without a wrong passage: nothing can be learned from it", "give more rows"
            )

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._plan(epoch)[place]

    def tokens(self, batch: Batch) -> int:
        """Tokens that a batch reads: each of its texts once."""
        texts = {self._examples[i].query for i in batch.examples} | set(batch.columns)
        return sum(self._lengths[text] for text in texts)

    def steps_for(self, tokens: int) -> int:
        """How many steps read at least so many tokens."""
        step = 0
        while tokens > 0:
            tokens -= self.tokens(self.batch(step))
            step += 1
        return step

    def _plan(self, epoch: int) -> list[Batch]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, list(self._draw(np.random.default_rng([self._seed, epoch])))
        return self._epoch[1]

    def _draw(self, rng: np.random.Generator) -> Iterator[Batch]:
        whole: list[Sequence[int]] = []
        waiting: list[int] = []
        for bucket in self.buckets:
            # A rest too small for a batch of its own goes along with the next longer rows.
            members = [*waiting, *(bucket.members[i] for i in rng.permutation(len(bucket.members)).tolist())]
            full = len(members) // bucket.size * bucket.size
            whole += [members[start : start + bucket.size] for start in range(0, full, bucket.size)]
            waiting = members[full:]
        if waiting and len(waiting) < _LEAST_ROWS and whole:
            whole[-1] = [*whole[-1], *waiting]
        elif len(waiting) >= _LEAST_ROWS or any(self._examples[i].negatives for i in waiting):
            whole.append(waiting)
        for place in rng.permutation(len(whole)).tolist():
            yield self._filled(whole[place], rng)

    def _filled(self, members: Sequence[int], rng: np.random.Generator) -> Batch:
        """Draw a right passage and some wrong ones for each example."""
        examples = [self._examples[i] for i in members]
        positives = tuple(one.positives[rng.integers(len(one.positives))] for one in examples)
        negatives = []
        for one in examples:
            most = drawn_negatives(one, self._batching)
            order = rng.permutation(len(one.negatives))[:most].tolist()
            negatives.append(tuple(one.negatives[i] for i in order))
        return Batch(tuple(members), positives, tuple(negatives))


def drawn_negatives(example: Example, batching: Batching) -> int:
    """How many of an example's own wrong passages a batch holds."""
    most = 1 if example.row.type == ONE_NEGATIVE else batching.negatives
    return min(most, len(example.negatives))


def buckets(examples: Sequence[Example], lengths: Sequence[int], batching: Batching) -> list[Bucket]:
    """Examples by the length of their longest text, shortest bucket first."""
    longest = [max(lengths[text] for text in (one.query, *one.positives, *one.negatives)) for one in examples]
    edges = [*EDGES, max(longest)] if max(longest) > EDGES[-1] else EDGES
    members: dict[int, list[int]] = {}
    for index, length in enumerate(longest):
        members.setdefault(edges[bisect_left(edges, length)], []).append(index)
    found = []
    for limit in sorted(members):
        negatives = max(drawn_negatives(examples[i], batching) for i in members[limit])
        found.append(Bucket(limit, tuple(members[limit]), batching.size(limit, negatives)))
    return found


def rows_of(batch: Batch, examples: Sequence[Example], *, teacher: bool) -> Rows:
    """The score matrix of a batch. Other columns with a passage that answers the row's question are neither right nor
    wrong; the row's own wrong passages and its positive form the group that a teacher scores.
    """
    chosen = [examples[i] for i in batch.examples]
    columns = batch.columns
    ignored = torch.zeros(len(chosen), len(columns), dtype=torch.bool)
    scores = torch.full(ignored.shape, torch.nan)
    after = len(chosen)
    for row, one in enumerate(chosen):
        ignored[row] = torch.tensor([text in one.right for text in columns])
        ignored[row, row] = False
        own = batch.negatives[row]
        if teacher and one.row.positive_scores:
            scores[row, row] = one.row.positive_scores[one.positives.index(batch.positives[row])]
            for place, text in enumerate(own, start=after):
                scores[row, place] = one.row.negative_scores[one.negatives.index(text)]
        after += len(own)
    taught = teacher and not bool(torch.isnan(scores).all())
    return Rows([one.query for one in chosen], columns, ignored, scores if taught else None)

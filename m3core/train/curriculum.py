"""What a run learns from, in which order: questions with their passages, and texts in two languages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from m3core.errors import TrainingError
from m3core.train.bitexts import Bitext, Version, crossing_batches, held_out, parallel_questions, pivots, translations
from m3core.train.joint import Batch
from m3core.train.pairs import Pair, bounded_per_passage, sample_languages
from m3core.train.similar import similar_batches

# Pages whose versions hold the same questions in the same order.
PARALLEL_PAGES = ("bitcoin-org-faq",)
# Conneau et al. 2020, table of CC-100: what XLM-R, and backbones distilled from it, have read. Translations of other
# languages would only teach noise.
_CC100 = """
af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fil fr fy ga gd gl gu ha he hi hr hu hy
id is it ja jv ka kk km kmr kn ko ku ky la lo lt lv mg mk ml mn mr ms my nb ne nl nn om or pa pl ps pt ro ru
sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi yue zh
"""
XLM_R_LANGUAGES = frozenset(_CC100.split())


@dataclass(frozen=True)
class Portions:
    """How many pairs of each kind, how often they are seen, and batch sizes."""

    questions: int = 16_000
    sentences: int = 30_000
    paragraphs: int = 3_000
    pivots: int = 3_000
    page_epochs: int = 2
    exponent: float = 0.5
    question_batch: int = 48
    sentence_batch: int = 96
    paragraph_batch: int = 24
    page_batch: int = 46


@dataclass
class Pool:
    """Distinct texts in the order in which they were first asked for."""

    texts: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def places(self, texts: Sequence[str]) -> list[int]:
        """The index of each text; new ones are added."""
        for text in texts:
            if text not in self._places:
                self._places[text] = len(self.texts)
                self.texts.append(text)
        return [self._places[text] for text in texts]


@dataclass(frozen=True)
class Curriculum:
    """The texts and the batches of a run; `bitext_rows` are queries and passages that say the same."""

    queries: Pool
    passages: Pool
    schedule: Sequence[Batch]
    bitext_rows: Sequence[tuple[int, int]]


def plan_curriculum(pairs: Sequence[Pair], portions: Portions, seed: int) -> Curriculum:
    """Draw and order the batches of a run. Held-out text families take no part."""
    rng = np.random.default_rng(seed)
    queries, passages = Pool(), Pool()
    schedule = [*_questions(pairs, portions, queries, passages, rng)]
    rows: list[tuple[int, int]] = []
    for drawn in _bitexts(pairs, portions, rng):
        for batch in crossing_batches(drawn.bitext, drawn.batch, rng):
            asked, answered = queries.places(batch.queries), passages.places(batch.positives)
            schedule.append(Batch(asked, answered, passages.places(batch.own_language)))
            if drawn.sentences:
                rows.extend(zip(asked, answered, strict=True))
    if not rows:
        raise TrainingError("the data hold no translations", "the multi-vector head starts from them: add some")
    return Curriculum(queries, passages, [schedule[i] for i in rng.permutation(len(schedule)).tolist()], rows)


def thinned(schedule: Sequence[Batch], share: float) -> list[Batch]:
    """The schedule with every question batch and, evenly spread, that share of the batches in two languages."""
    kept, owed = [], 0.0
    for batch in schedule:
        if batch.own_language:
            owed += share
            if owed < 1:
                continue
            owed -= 1
        kept.append(batch)
    return kept


def _questions(
    pairs: Sequence[Pair], portions: Portions, queries: Pool, passages: Pool, rng: np.random.Generator
) -> list[Batch]:
    asked = bounded_per_passage([pair for pair in pairs if not pair.translation], rng)
    drawn = sample_languages(asked, portions.questions, portions.exponent, rng)
    rounds = similar_batches(
        [pair.positive for pair in drawn], [pair.group for pair in drawn], portions.question_batch, rng
    )
    return [
        Batch(
            queries.places([drawn[i].query for i in indices]),
            passages.places([drawn[i].positive for i in indices]),
        )
        for indices in rounds
    ]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A bitext of a run, its batch size, and whether its rows are single sentences."""

    bitext: Bitext
    batch: int
    sentences: bool = False


def _bitexts(pairs: Sequence[Pair], portions: Portions, rng: np.random.Generator) -> list[_Drawn]:
    kept = [
        pair for pair in pairs if pair.translation and pair.language in XLM_R_LANGUAGES and not held_out(pair.positive)
    ]
    sentences = [pair for pair in kept if pair.source == "tatoeba"]
    paragraphs = [pair for pair in kept if pair.source != "tatoeba"]
    some = sample_languages(sentences, portions.sentences, portions.exponent, rng)
    found = [_Drawn(bitext, portions.sentence_batch, sentences=True) for bitext in translations(some, rng)]
    some = sample_languages(paragraphs, portions.paragraphs, portions.exponent, rng)
    english = translations(some, rng)
    between = pivots(paragraphs, portions.pivots, portions.paragraph_batch // 2, rng)
    found += [_Drawn(bitext, portions.paragraph_batch) for bitext in [*english, *between]]
    for source in PARALLEL_PAGES:
        pages: dict[str, list[Version]] = defaultdict(list)
        for pair in pairs:
            if pair.source == source:
                pages[pair.language].append(Version(pair.query, pair.positive))
        for _ in range(portions.page_epochs):
            found += [_Drawn(bitext, portions.page_batch) for bitext in parallel_questions(pages, source, rng)]
    return found

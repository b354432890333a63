from __future__ import annotations

from pathlib import Path

import numpy as np

from m3core.train.bitexts import (
    HELD_OUT_SHARE,
    Version,
    asked_sentence,
    crossing_batches,
    held_out,
    parallel_questions,
    pivots,
    translations,
)
from m3core.train.curriculum import Portions, plan_curriculum, thinned
from m3core.train.joint import Batch
from m3core.train.pairs import Pair, read_pairs


def test_a_family_is_held_out_in_every_language_and_run() -> None:
    kept = sum(held_out(f"text {i}") for i in range(20_000))
    assert abs(kept / 20_000 - HELD_OUT_SHARE) < 0.01
    assert held_out("text 7") == held_out("text 7")


def test_a_crossing_batch_asks_in_one_language_for_the_other() -> None:
    pairs = [Pair(f"deutsch {i}", f"english {i}", "s", "de", translation=True) for i in range(20)]
    (bitext,) = translations(pairs, np.random.default_rng(0))
    directions = set()
    for seed in range(8):
        first, second = crossing_batches(bitext, 10, np.random.default_rng(seed))
        for batch in (first, second):
            asked = batch.queries[0].split()[0]
            directions.add(asked)
            answered = {"deutsch": "english", "english": "deutsch"}[asked]
            numbers = [query.split()[1] for query in batch.queries]
            assert list(batch.queries) == [f"{asked} {number}" for number in numbers]
            assert list(batch.positives) == [f"{answered} {number}" for number in numbers]
            assert batch.own_language == batch.queries
        assert len({*first.queries, *second.queries}) == 20 or set(first.queries) != set(second.queries)
    assert directions == {"deutsch", "english"}


def test_a_rest_too_small_to_hold_wrong_answers_is_left_out() -> None:
    pairs = [Pair(f"d {i}", f"e {i}", "s", "de", translation=True) for i in range(27)]
    (bitext,) = translations(pairs, np.random.default_rng(0))
    assert [len(batch.queries) for batch in crossing_batches(bitext, 20, np.random.default_rng(0))] == [20]


def test_a_query_is_one_sentence_where_there_are_several() -> None:
    rng = np.random.default_rng(0)
    text = "Der Schlüssel hängt am Empfang. Das Labor schließt um neun Uhr. Ja."
    asked = {asked_sentence(text, rng) for _ in range(20)}
    assert asked == {"Der Schlüssel hängt am Empfang.", "Das Labor schließt um neun Uhr."}
    assert asked_sentence("鍵は受付にあります", rng) == "鍵は受付にあります"


def test_languages_meet_over_the_english_that_both_were_translated_from() -> None:
    pairs = [Pair(f"de {i}", f"english {i}", "s", "de", translation=True) for i in range(20)]
    pairs += [Pair(f"fr {i}", f"english {i}", "s", "fr", translation=True) for i in range(8, 30)]
    pairs += [Pair(f"ja {i}", f"english {i}", "s", "ja", translation=True) for i in range(26, 40)]
    (bitext,) = pivots(pairs, 100, 5, np.random.default_rng(0))
    rows = [(left.passage, right.passage) for left, right in zip(bitext.left, bitext.right, strict=True)]
    assert sorted(rows) == sorted((f"de {i}", f"fr {i}") for i in range(8, 20))
    assert len(pivots(pairs, 1, 4, np.random.default_rng(0))) == 1
    assert len(pivots(pairs, 100, 4, np.random.default_rng(0))) == 2


def test_pages_with_another_number_of_questions_take_no_part() -> None:
    def page(language: str, questions: int) -> list[Version]:
        return [Version(f"{language} {i}?", f"{language} {i}") for i in range(questions)]

    pages = {"de": page("de", 9), "fr": page("fr", 9), "ja": page("ja", 9), "zh": page("zh", 11)}
    bitexts = parallel_questions(pages, "faq", np.random.default_rng(0))
    languages = [(bitext.left[0].query[:2], bitext.right[0].query[:2]) for bitext in bitexts]
    assert len(languages) == 3
    assert {left for left, _ in languages} == {right for _, right in languages} == {"de", "fr", "ja"}
    assert all(left != right for left, right in languages)


def test_a_curriculum_has_every_kind_and_no_held_out_or_unknown_language(pairs_file: Path) -> None:
    pairs = read_pairs(pairs_file)
    portions = Portions(question_batch=8, sentence_batch=16, paragraph_batch=8, page_batch=12, page_epochs=1)
    plan = plan_curriculum(pairs, portions, seed=3)
    texts = set(plan.passages.texts) | set(plan.queries.texts)
    assert not any(pair.positive in texts for pair in pairs if pair.translation and held_out(pair.positive))
    assert "Eins" not in texts
    crossing = [batch for batch in plan.schedule if batch.own_language]
    assert {len(batch.queries) for batch in crossing} >= {16, 8, 12}
    assert len(crossing) < len(plan.schedule)
    again = plan_curriculum(pairs, portions, seed=3)
    assert again.schedule == plan.schedule
    assert again.passages.texts == plan.passages.texts
    for asked, answered in plan.bitext_rows:
        pair = {plan.queries.texts[asked], plan.passages.texts[answered]}
        assert any(pair == {row.query, row.positive} for row in pairs if row.source == "tatoeba")


def test_a_thinned_schedule_keeps_all_questions_and_a_share_of_the_rest_evenly() -> None:
    schedule = [Batch([i], [i], [i] if i % 2 else []) for i in range(80)]
    kept = thinned(schedule, 0.25)
    assert [batch.queries[0] for batch in kept if not batch.own_language] == list(range(0, 80, 2))
    assert [batch.queries[0] for batch in kept if batch.own_language] == list(range(7, 80, 8))
    assert thinned(schedule, 1.0) == schedule

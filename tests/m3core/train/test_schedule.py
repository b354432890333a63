"""Batches: every row once an epoch, rows of one length together, the right columns ignored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3core import Encoder
from m3core.errors import TrainingError
from m3core.train.examples import Example, Examples, Row
from m3core.train.schedule import EDGES, Batching, Schedule, rows_of
from tests.m3core.train.parts import examples_of, made_rows


def _examples(lengths: list[int], negatives: list[int]) -> Examples:
    """Row i has query 2 i and passage 2 i + 1 of lengths[i] tokens, and some of the later passages as negatives."""
    ids = [torch.zeros(length, dtype=torch.int32) for size in lengths for length in (4, size)]
    made = []
    for i, count in enumerate(negatives):
        wrong = tuple((2 * j + 1) for j in range(len(lengths)) if j != i)[:count]
        made.append(Example(2 * i, (2 * i + 1,), wrong, frozenset({2 * i + 1}), Row("q", ("p",), place=f"f:{i}")))
    return Examples(made, ids, [], [])


@given(
    st.lists(st.tuples(st.integers(4, 9000), st.integers(0, 3)), min_size=2, max_size=50),
    st.integers(2, 9),
    st.integers(64, 40_000),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_an_epoch_has_every_row_once_and_as_many_steps_as_the_next(
    rows: list[tuple[int, int]], most: int, tokens: int, negatives: int, seed: int
) -> None:
    examples = _examples([length for length, _ in rows], [count for _, count in rows])
    batching = Batching(rows=most, tokens=tokens, negatives=negatives)
    schedule = Schedule(examples, batching, seed)
    steps = schedule.steps_per_epoch
    for epoch in range(2):
        batches = [schedule.batch(epoch * steps + place) for place in range(steps)]
        assert Counter(i for batch in batches for i in batch.examples) == Counter(range(len(rows)))
        for batch in batches:
            assert 2 <= len(batch.examples) <= most + 1
            for i, positive, wrong in zip(batch.examples, batch.positives, batch.negatives, strict=True):
                assert positive == 2 * i + 1
                assert len(wrong) == len(set(wrong)) == min(negatives, rows[i][1], len(rows) - 1)
    again = Schedule(examples, batching, seed)
    assert [again.batch(i) for i in range(2 * steps)] == [schedule.batch(i) for i in range(2 * steps)]


def test_long_rows_come_in_smaller_batches_and_meet_their_like() -> None:
    lengths = [30] * 64 + [500] * 64 + [3000] * 16
    schedule = Schedule(_examples(lengths, [0] * len(lengths)), Batching(rows=32, tokens=16_384), seed=0)
    sizes = {bucket.limit: bucket.size for bucket in schedule.buckets}
    assert sizes == {64: 32, 512: 32, 4096: 4}
    for step in range(schedule.steps_per_epoch):
        batch = schedule.batch(step)
        assert len({lengths[i] for i in batch.examples}) == 1
        assert len(batch.examples) == sizes[next(edge for edge in EDGES if lengths[batch.examples[0]] <= edge)]


def test_tokens_of_a_run_are_counted_each_text_once() -> None:
    schedule = Schedule(_examples([10, 20, 30], [2, 0, 0]), Batching(rows=3, negatives=2), seed=0)
    batch = schedule.batch(0)
    assert schedule.tokens(batch) == 3 * 4 + 10 + 20 + 30
    assert schedule.steps_for(72) == 1
    assert schedule.steps_for(73) == 2


def test_columns_that_answer_a_row_are_neither_right_nor_wrong(tiny_model: Path) -> None:
    rows = [
        Row("who", ("the key", "a desk"), ("night",), (3.0, 2.0), (1.0,), place="f:1"),
        Row("who", ("train",), ("a desk",), (5.0,), (4.0,), place="f:2"),
        Row("what", ("a desk",), ("the key",), place="f:3"),
    ]
    examples = examples_of(Encoder.load(tiny_model), rows)
    schedule = Schedule(examples, Batching(rows=3, negatives=1), seed=0)
    batch = schedule.batch(0)
    found = rows_of(batch, examples.examples, teacher=True)
    texts = {
        text: words
        for one in examples.examples
        for text, words in zip((*one.positives, *one.negatives), (*one.row.positives, *one.row.negatives), strict=True)
    }
    columns = [texts[column] for column in found.columns]
    # Both rows that ask "who" share their right passages.
    right = {"who": {"the key", "a desk", "train"}, "what": {"a desk"}}
    assert found.teacher is not None
    for row, index in enumerate(batch.examples):
        own = rows[index]
        expected = [text in right[own.query] and place != row for place, text in enumerate(columns)]
        assert found.ignored[row].tolist() == expected
        told = dict(zip((*own.positives, *own.negatives), (*own.positive_scores, *own.negative_scores), strict=False))
        place = 3 + row
        known = {column: float(value) for column, value in enumerate(found.teacher[row]) if not torch.isnan(value)}
        wanted = {row: told[columns[row]], place: told[columns[place]]} if told else {}
        assert known == wanted
    assert rows_of(batch, examples.examples, teacher=False).teacher is None


def test_one_row_alone_teaches_nothing_unless_it_has_a_wrong_passage() -> None:
    with pytest.raises(TrainingError, match="1 row without a wrong passage"):
        Schedule(_examples([10], [0]), Batching(), seed=0)
    examples = _examples([10, 12], [1, 0])
    alone = Examples(examples.examples[:1], examples.token_ids, [], [])
    assert Schedule(alone, Batching(), seed=0).batch(0).negatives == ((3,),)


def test_made_rows_have_what_the_tests_rely_on() -> None:
    rows = made_rows(30)
    assert any(len(row.positives) == 2 for row in rows)
    assert all(not set(row.positives) & set(row.negatives) for row in rows)

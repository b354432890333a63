from __future__ import annotations

from pathlib import Path

import pytest

from m3core import Encoder
from m3core.errors import TrainingError
from m3core.train.examples import Examples, Limits, Prefixes, Row, prepare

_LONG = "key " * 90
_ROWS = [
    Row("short", ("the key",), place="f:1"),
    Row(_LONG, ("the key",), place="f:2"),
    Row("other", (_LONG,), place="f:3"),
    Row("third", ("desk",), (_LONG,), place="f:4"),
]


def _prepare(model: Path, rows: list[Row], *, drop: bool = False) -> tuple[Encoder, Examples]:
    encoder = Encoder.load(model)
    prefixes = Prefixes(encoder.spec.query_prefix, encoder.spec.passage_prefix)
    return encoder, prepare(rows, encoder.tokenizer, prefixes, Limits(query=24, passage=40, drop_long=drop))


def test_long_rows_are_cut_and_named_or_left_out_and_named(tiny_model: Path) -> None:
    _, cut = _prepare(tiny_model, _ROWS)
    assert cut.cut == ["f:2", "f:3", "f:4"]
    assert not cut.dropped
    assert len(cut.examples) == 4
    assert max(cut.lengths[one.query] for one in cut.examples) == 24
    assert max(cut.lengths) == 40
    _, dropped = _prepare(tiny_model, _ROWS, drop=True)
    assert (dropped.cut, dropped.dropped) == ([], ["f:2", "f:3", "f:4"])
    assert [one.row.place for one in dropped.examples] == ["f:1"]
    with pytest.raises(TrainingError, match=r"all 1 rows have a text over 24 tokens \(query\) or 40 \(passage\)"):
        _prepare(tiny_model, _ROWS[1:2], drop=True)


def test_texts_are_the_encoders_own_with_prefix_prompt_and_type(tiny_model: Path) -> None:
    rows = [
        Row("the key", ("the key",), place="f:1"),
        Row("the key", ("desk",), prompt="find: ", place="f:2"),
        Row("the key", ("desk",), type="symmetric_sts", place="f:3"),
    ]
    encoder, examples = _prepare(tiny_model, rows)
    expected = [
        ("query: the key", "passage: the key"),
        ("find: the key", "passage: desk"),
        ("query: the key", "query: desk"),
    ]
    for one, texts in zip(examples.examples, expected, strict=True):
        ids, _ = encoder.tokenizer.encode(list(texts), "", 40)
        assert [examples.token_ids[one.query].tolist(), examples.token_ids[one.positives[0]].tolist()] == ids
    # The same question in two rows is one text, and both rows' passages answer it, with whatever prefix.
    first, second, third = examples.examples
    assert first.query == third.query != second.query
    assert first.right == third.right == {*first.positives, *second.positives, *third.positives}
    assert second.right == {*second.positives, *third.positives}


def test_a_right_passage_is_right_however_another_row_spaces_it(tiny_model: Path) -> None:
    rows = [
        Row("who", ("the key is at the desk",), place="f:1"),
        Row("what", ("night train",), ("the key  is at\nthe desk", "key"), place="f:2"),
    ]
    _, examples = _prepare(tiny_model, rows)
    first, second = examples.examples
    assert first.right == {*first.positives, second.negatives[0]}
    assert second.right == set(second.positives)

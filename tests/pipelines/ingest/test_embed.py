"""The first half: units, the lake's share, encoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.config.model import ModelSection
from m3core.encoder import Encoder, stored_vectors
from pipelines.ingest.embed import EncodeStep, LazyEncoder, UnitLimits, Work, cut_units, encode_unit, split_known
from pipelines.state.chunks import ChunkRow
from pipelines.state.lake import Lake
from tests.pipelines.ingest.parts import FINGERPRINT, fill_lake, paths_in, row_of


@given(st.lists(st.integers(1, 900)), st.integers(50, 2000), st.integers(1000, 20_000))
def test_units_keep_every_row_in_order_within_both_limits(lengths: list[int], tokens: int, size: int) -> None:
    limits = UnitLimits(dense_dim=32, multi_dim=8, overhead=4, tokens=tokens, bytes=size)
    rows = [row_of(f"text {number}", tokens=length) for number, length in enumerate(lengths)]
    units = list(cut_units(rows, limits))
    assert [row for unit in units for row in unit] == rows
    for unit in units:
        assert len(unit) == 1 or sum(limits.tokens_of(row) for row in unit) <= tokens
        assert len(unit) == 1 or sum(limits.bytes_of(row) for row in unit) <= size


def test_bytes_of_a_row_bound_what_is_stored(tiny_model: Path) -> None:
    texts = ["the key of the laboratory", "x"]
    encoder = Encoder.load(tiny_model)
    limits = UnitLimits(32, 8, encoder.tokenizer.special_overhead(encoder.spec.passage_prefix))
    counts = encoder.tokenizer.count(texts)
    for text, count, kept in zip(texts, counts, stored_vectors(encoder.encode(texts)), strict=True):
        stored = sum(array.nbytes for array in (kept.dense, kept.lexical_ids, kept.lexical_weights, kept.multi))
        assert stored <= limits.bytes_of(row_of(text, tokens=count))


def test_known_rows_become_references_and_damaged_ones_do_not(tmp_path: Path) -> None:
    rows = [row_of(f"text {number}") for number in range(4)]
    lake = fill_lake(tmp_path, rows[:3])
    known, new = split_known(rows, lake)
    assert list(known.rows) == rows[:3]
    assert [place.key for place in known.vectors] == [row.lake_key for row in rows[:3]]
    assert new == rows[3:]

    file = next(paths_in(tmp_path).lake(FINGERPRINT).glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[8:-1000] = bytes(each ^ 0xFF for each in data[8:-1000])
    file.write_bytes(data)
    known, new = split_known(rows, Lake(paths_in(tmp_path), FINGERPRINT))
    assert (known.rows, new) == ((), rows)


@pytest.fixture
def step(tmp_path: Path, tiny_model: Path) -> EncodeStep:
    lake = Lake(paths_in(tmp_path), FINGERPRINT)
    return EncodeStep(LazyEncoder(tiny_model, ModelSection(threads=1).loading()), lake, 256, said.append_pair)


class Said:
    """What the progress was told."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []

    def append_pair(self, tokens: int, text_bytes: int) -> None:
        self.pairs.append((tokens, text_bytes))


said = Said()


def test_a_unit_is_encoded_once_and_one_file_is_written(step: EncodeStep, tmp_path: Path) -> None:
    said.pairs.clear()
    texts = [f"the key of laboratory {number}" for number in range(5)]
    rows: list[ChunkRow] = [row_of(text) for text in [*texts, texts[0]]]
    assert not step.encoder.loaded

    encoded = encode_unit(rows, step)

    assert list(encoded.reference.rows) == rows
    assert len(list(paths_in(tmp_path).lake(FINGERPRINT).glob("*.parquet"))) == 1
    assert encoded.work.tokens == sum(tokens for tokens, _ in said.pairs) > 0
    assert sum(size for _, size in said.pairs) == sum(len(text) for text in texts)
    kept = step.lake.read(encoded.reference.vectors)
    expected = stored_vectors(step.encoder.get().encode(texts))
    for mine, other in zip(kept, [*expected, expected[0]], strict=True):
        np.testing.assert_allclose(mine.dense, other.dense, atol=1e-3)
        np.testing.assert_array_equal(mine.lexical_ids, other.lexical_ids)

    again = encode_unit(rows, step)
    assert (again.reference, again.work) == (encoded.reference, Work())


def test_what_the_lake_has_needs_no_model(step: EncodeStep, tmp_path: Path) -> None:
    rows = [row_of("one"), row_of("two")]
    fill_lake(tmp_path, rows)
    assert encode_unit(rows, step).work == Work()
    assert not step.encoder.loaded


def test_the_work_of_a_unit_is_counted(step: EncodeStep) -> None:
    # Batches of 256 tokens, the longest texts first: one cut text fills the first, the other three share the second.
    encoder = step.encoder.get()
    texts = ["the key " * 500, "the key of the laboratory", "the key", "the key is at the front desk"]
    lengths = [len(ids) for ids in encoder.tokenizer.encode(texts, "passage: ", 256)[0]]
    encoder.budget.shrink(256, 512)  # what a batch of this unit that does not fit would do
    work = encode_unit([row_of(text) for text in texts], step).work
    assert (work.texts, work.tokens, work.truncated, work.oom_halvings) == (4, sum(lengths), 1, 1)
    assert work.padded_tokens == 3 * max(lengths[1:]) - sum(lengths[1:]) > 0
    assert work.counters["encode-msec"] == round(1000 * work.seconds)

"""The encoder's contract: order, shapes, truncation, streaming, errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3core import Encoder
from m3core.batching import TokenBudget
from m3core.encoder import stored_vectors
from m3core.errors import EncodeMemoryError, ModelError, UsageError
from m3core.model import Backbone
from m3core.types import Encoded, Signal

TEXTS = [f"the key number {i} " * (1 + i % 7) for i in range(23)]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model)


def _same(left: Encoded, right: Encoded) -> None:
    assert left.dense is not None
    assert right.dense is not None
    assert left.dense == pytest.approx(right.dense, abs=1e-5)
    assert left.lexical is not None
    assert right.lexical is not None
    assert left.lexical.indptr.tolist() == right.lexical.indptr.tolist()
    assert left.lexical.ids.tolist() == right.lexical.ids.tolist()
    assert left.multi is not None
    assert right.multi is not None
    assert left.multi.values == pytest.approx(right.multi.values, abs=1e-5)


def test_results_come_in_the_order_of_the_texts_whatever_the_batches(encoder: Encoder) -> None:
    small, large = (encoder.encode(TEXTS, batch_tokens=budget) for budget in (40, 100_000))
    _same(small, large)
    backwards = encoder.encode(TEXTS[::-1])
    assert backwards.dense is not None
    assert small.dense is not None
    assert backwards.dense[::-1] == pytest.approx(small.dense, abs=1e-5)


def test_vectors_do_not_depend_on_lanes(encoder: Encoder) -> None:
    texts = [f"train number {n} " * (1 + n % 8) for n in range(400)]
    names, before = set[str](), torch.get_num_threads()

    def note(places: Sequence[int], tokens: int) -> None:
        names.add(threading.current_thread().name.split("_")[0])

    torch.set_num_threads(1)
    try:
        alone = encoder.encode(texts, progress=note)
        assert names == {threading.current_thread().name}
        torch.set_num_threads(3)
        beside = encoder.encode(texts, progress=note)
    finally:
        torch.set_num_threads(before)
    assert "m3-lane" in names
    _same(beside, alone)


def test_shapes_norms_and_dtypes(encoder: Encoder) -> None:
    encoded = encoder.encode(TEXTS)
    assert encoded.dense is not None
    assert encoded.dense.shape == (len(TEXTS), 32)
    assert np.linalg.norm(encoded.dense, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert encoded.multi is not None
    # n tokens give n - 1 vectors: the first token carries none.
    assert np.diff(encoded.multi.offsets).tolist() == (encoded.token_counts - 1).tolist()
    assert np.linalg.norm(encoded.multi.values, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert encoded.lexical is not None
    assert (encoded.lexical.weights > 0).all()


def test_no_texts_give_empty_arrays(encoder: Encoder) -> None:
    encoded = encoder.encode([])
    assert len(encoded) == 0
    assert encoded.dense is not None
    assert encoded.multi is not None
    assert len(encoded.dense) == len(encoded.multi.values) == 0


def test_the_prefix_of_the_kind_counts(encoder: Encoder) -> None:
    query, passage = encoder.encode(["key"], "query"), encoder.encode(["key"], "passage")
    assert query.dense is not None
    assert not np.allclose(query.dense, passage.dense)
    with pytest.raises(UsageError, match="kind 'document' is neither query nor passage"):
        encoder.encode(["key"], "document")  # type: ignore[arg-type]


def test_a_text_over_the_limit_is_cut_and_marked(encoder: Encoder) -> None:
    encoded = encoder.encode(["short", "the key " * 500])
    assert encoded.truncated.tolist() == [False, True]
    assert int(encoded.token_counts[1]) == encoder.spec.max_length
    rows, _ = encoder.tokenizer.encode(["the key " * 500], "", 16)
    assert (len(rows[0]), rows[0][0], rows[0][-1]) == (16, 0, 2)


def test_streaming_equals_one_call(encoder: Encoder) -> None:
    parts = list(encoder.stream(iter(TEXTS), window=5))
    whole = encoder.encode(TEXTS)
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert np.concatenate([part.dense for part in parts if part.dense is not None]) == pytest.approx(
        whole.dense, abs=1e-5
    )


def test_progress_counts_every_token_once(encoder: Encoder) -> None:
    seen: list[tuple[list[int], int]] = []
    encoded = encoder.encode(
        TEXTS, batch_tokens=64, progress=lambda places, tokens: seen.append((list(places), tokens))
    )
    assert sorted(place for places, _ in seen for place in places) == list(range(len(TEXTS)))
    assert all(tokens == encoded.token_counts[places].sum() for places, tokens in seen)
    assert len(seen) > 1


def test_stored_vectors_are_float16_and_exact_lexical(encoder: Encoder) -> None:
    encoded = encoder.encode(TEXTS[:3])
    assert encoded.lexical is not None
    assert encoded.multi is not None
    for i, row in enumerate(stored_vectors(encoded)):
        assert (row.dense.dtype, row.multi.dtype) == (np.float16, np.float16)
        assert row.multi == pytest.approx(encoded.multi.row(i), abs=1e-3)
        ids, weights = encoded.lexical.row(i)
        assert (row.lexical_ids.tolist(), row.lexical_weights.tolist()) == (ids.tolist(), weights.tolist())


def test_a_query_has_the_vectors_of_its_text(encoder: Encoder) -> None:
    query, encoded = encoder.encode_query("the key"), encoder.encode(["the key"], "query")
    assert encoded.dense is not None
    assert query.dense == pytest.approx(encoded.dense[0])
    dense_only = Encoder.load(encoder.spec.folder, signals=[Signal.DENSE]).encode_query("the key")
    assert dense_only.lexical_ids is dense_only.multi is None


@pytest.mark.parametrize("name", ["no-such-folder", "m3-smal"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is neither m3-small nor a folder"):
        Encoder.load(name)


def test_a_hub_id_needs_its_revision() -> None:
    with pytest.raises(ModelError, match="needs the 40 hex digits of a commit"):
        Encoder.load("BAAI/bge-m3", revision="main")


def _failing(encoder: Encoder, room: int) -> Encoder:
    """The encoder on a device with room for so many tokens in one pass."""

    class Small(Backbone):
        def __call__(self, token_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
            if len(token_ids) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(token_ids, lengths)

    parts = {part.name: getattr(encoder.backbone, part.name) for part in fields(Backbone)}
    return replace(encoder, backbone=Small(**parts), budget=TokenBudget())


def test_batches_that_do_not_fit_in_memory_are_made_smaller(encoder: Encoder) -> None:
    small = _failing(encoder, 120)
    _same(small.encode(TEXTS), encoder.encode(TEXTS))
    assert small.budget.halvings > 0


def test_a_text_that_does_not_fit_alone_is_named_and_the_others_are_there(encoder: Encoder) -> None:
    texts = [*TEXTS[:5], "key " * 150, *TEXTS[5:]]
    with pytest.raises(EncodeMemoryError, match=r"text 5 \(\d+ tokens\): one text alone does not fit") as caught:
        _failing(encoder, 120).encode(texts)
    assert caught.value.indices == (5,)
    found, plain = caught.value.encoded, encoder.encode(TEXTS)
    assert found is not None
    assert found.dense is not None
    assert plain.dense is not None
    assert np.delete(found.dense, 5, axis=0) == pytest.approx(plain.dense, abs=1e-5)
    assert not found.dense[5].any()
    assert found.lexical is not None
    assert found.multi is not None
    assert len(found.lexical.row(5)[0]) == len(found.multi.row(5)) == 0


def test_a_stream_reads_ahead_by_no_more_than_two_windows(encoder: Encoder) -> None:
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield text

    taken = 0
    for encoded in encoder.stream(source(), window=4):
        taken += len(encoded)
        assert read <= taken + 2 * 4
    assert taken == len(TEXTS)


def test_a_window_of_long_texts_is_bounded_by_their_tokens(encoder: Encoder) -> None:
    texts = ["key", "the key " * 500, "the key " * 500, *["the key of the laboratory"] * 40, "the key " * 500]
    read = taken = 0

    def source() -> Iterator[str]:
        nonlocal read
        for text in texts:
            read += 1
            yield text

    parts = []
    for part in encoder.stream(source(), window_tokens=300):
        parts.append(part)
        taken += len(part)
        # 300 tokens are 1,200 characters: a cut text closes its window, and two windows are read ahead at most.
        assert read <= taken + 2 * (1200 // len(texts[3]) + 1)
    assert all(len(part) == 1 or part.token_counts.sum() <= 300 for part in parts)
    assert len(parts) > 4
    whole = encoder.encode(texts)
    assert np.concatenate([part.token_counts for part in parts]).tolist() == whole.token_counts.tolist()
    assert np.concatenate([part.dense for part in parts if part.dense is not None]) == pytest.approx(
        whole.dense, abs=1e-5
    )


def test_what_is_no_text_is_named_by_its_place_in_the_whole_stream(encoder: Encoder) -> None:
    texts = [*TEXTS[:9], None]
    with pytest.raises(UsageError, match="text 9 is a NoneType, not a str"):
        list(encoder.stream(texts, window=4))  # type: ignore[arg-type]


def test_an_error_while_reading_ahead_reaches_the_caller(encoder: Encoder) -> None:
    def source() -> Iterator[str]:
        yield from TEXTS[:6]
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(len(encoded) for encoded in encoder.stream(source(), window=4))
    assert seen in ([], [4])


_ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


@given(st.lists(_ANY_TEXT, max_size=6))
def test_any_strings_encode_or_raise_one_documented_error(encoder: Encoder, texts: list[str]) -> None:
    try:
        encoded = encoder.encode(texts)
    except UsageError as error:
        (index,) = re.findall(r"^text (\d+) has a lone surrogate", error.message)
        with pytest.raises(UnicodeEncodeError):
            texts[int(index)].encode()
    else:
        assert len(encoded) == len(texts)
        assert encoded.dense is not None
        assert np.isfinite(encoded.dense).all()

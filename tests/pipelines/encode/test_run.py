"""Texts through the encoder into a writer: order, ids, counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3core import Encoder
from m3core.encoder import BatchProgress
from m3core.errors import EncodeMemoryError, ModelError, UsageError
from m3core.types import Encoded, TextKind
from pipelines.encode.origin import Origin
from pipelines.encode.progress import Silent
from pipelines.encode.reading import Text
from pipelines.encode.run import Counts, encode_texts
from tests.pipelines.encode.made import row


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model)


class Kept:
    """A writer that keeps rows by id."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        self.rows |= {name: row(encoded, i) for i, name in enumerate(ids)}


class Seen(Silent):
    """Progress that adds up what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []

    def encoded(self, texts: int, tokens: int, text_bytes: int) -> None:
        self.told.append((texts, tokens, text_bytes))


TEXTS = [f"the key {i} " * (1 + i % 5) for i in range(1100)]


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_every_text_comes_out_once_under_its_id(encoder: Encoder, kind: TextKind) -> None:
    kept, seen = Kept(), Seen()
    texts = [*TEXTS, "the key " * 500]
    counts = encode_texts(encoder, (Text(f"id {i}", text) for i, text in enumerate(texts)), kind, kept, seen)
    assert list(kept.rows) == [f"id {i}" for i in range(len(texts))]
    for i in (0, 511, 512, 1099, 1100):
        alone = row(encoder.encode([texts[i]], kind), 0)
        found = kept.rows[f"id {i}"]
        assert found["dense"] == pytest.approx(alone["dense"], abs=2e-2)
        assert (found["tokens"], found["truncated"]) == (alone["tokens"], alone["truncated"])
    tokens = sum(int(str(each["tokens"])) for each in kept.rows.values())
    assert counts == Counts(texts=1101, tokens=tokens, truncated=1, limit=encoder.spec.max_length)
    assert np.sum(seen.told, axis=0).tolist() == [1101, tokens, sum(map(len, texts))]


def test_progress_moves_with_every_batch(encoder: Encoder) -> None:
    # One window of texts of 256 tokens, 16 of them in a batch of 4,096.
    texts = [Text(str(i), "the key " * 500) for i in range(64)]
    seen = Seen()
    encode_texts(encoder, texts, "passage", Kept(), seen)
    assert seen.told == [(16, 16 * 256, 16 * len(texts[0].text))] * 4


def test_no_text_is_fine(encoder: Encoder) -> None:
    assert encode_texts(encoder, [], "passage", Kept(), Silent()) == Counts()


def test_an_error_of_the_input_ends_it(encoder: Encoder) -> None:
    def broken() -> Iterator[Text]:
        yield from (Text(str(i), text) for i, text in enumerate(TEXTS))
        raise UsageError("line 1101: no text")

    with pytest.raises(UsageError, match="line 1101"):
        encode_texts(encoder, broken(), "passage", Kept(), Silent())


def test_the_input_is_read_as_it_is_used(encoder: Encoder) -> None:
    taken = itertools.count()

    class Full(Kept):
        def add(self, ids: Sequence[str], encoded: Encoded) -> None:
            raise UsageError("full")

    with pytest.raises(UsageError, match="full"):
        encode_texts(encoder, (Text(str(next(taken)), "a") for _ in range(100_000)), "query", Full(), Silent())
    assert next(taken) < 5000


def test_vectors_that_are_not_finite_are_refused(encoder: Encoder) -> None:
    words = encoder.backbone.words.clone()
    words[encoder.tokenizer.encode(["key"], "", 16)[0][0][1]] = float("nan")
    damaged = replace(encoder, backbone=replace(encoder.backbone, words=words))
    texts = [Text("good", "front desk"), Text("bad", "key")]
    with pytest.raises(ModelError, match=r"the vectors of text '(good|bad)' are not finite"):
        encode_texts(damaged, texts, "passage", Kept(), Silent())


def test_a_text_that_does_not_fit_in_memory_is_named(encoder: Encoder) -> None:
    whole = encoder.encode(["a", "b"])

    class Small:
        """Encodes one window; the second text of the next one is too large."""

        def stream(self, texts: Iterator[str], kind: TextKind, progress: BatchProgress) -> Iterator[Encoded]:
            assert list(itertools.islice(texts, 2)) == ["a", "b"]
            assert list(itertools.islice(texts, 3)) == ["c", "d", "e"]
            yield whole
            raise EncodeMemoryError.of([1], [9], whole)

    kept = Kept()
    with pytest.raises(UsageError, match="text 'd' alone does not fit in the device's memory"):
        encode_texts(Small(), (Text(name, name) for name in "abcde"), "passage", kept, Silent())  # type: ignore[arg-type]
    assert list(kept.rows) == ["a", "b"]


def test_the_origin_names_the_model(encoder: Encoder) -> None:
    origin = Origin.of(encoder, "query")
    assert (origin.text_kind, origin.dense_dim, origin.multi_dim) == ("query", 32, 8)
    assert origin.labels["fingerprint"] == encoder.fingerprint

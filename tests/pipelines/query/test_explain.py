"""Explanations with a real (tiny) model: the parts must add up to the raw scores."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from m3core import scoring
from m3core.config.model import ModelSection
from m3core.encoder import Encoder
from m3core.errors import EncodeMemoryError
from m3core.fingerprint import encoder_fingerprint
from m3core.types import Encoded, QueryVectors, Signal, TextKind
from pipelines.query.answer import Explanation
from pipelines.query.encoding import ModelEncoder, encode_queries
from pipelines.query.explain import align, explain_texts, multi_tokens

QUERY = "the key of the cryostat"
TEXTS = [
    "The cryostat of the low temperature laboratory",
    "Travel\nnight train is refunded",
    "低温実験室の鍵は受付にあります。",
    "word " * 600,
]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model)


def test_a_query_that_waits_goes_between_the_texts_and_a_caller_who_leaves_stops_them(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def one_at_a_time(_encoder: Encoder, _query: str, _vectors: QueryVectors, texts: list[str]) -> list[Explanation]:
        (text,) = texts
        time.sleep(0.05)
        done.append(text)
        return [Explanation((), ())]

    monkeypatch.setattr("pipelines.query.explain.explain_texts", one_at_a_time)

    async def scene() -> None:
        model = ModelEncoder(ModelSection(name=str(tiny_model)), Path())
        vectors = await model.encode_query(QUERY)
        texts = [str(number) for number in range(20)]
        explaining = asyncio.create_task(model.explain(QUERY, vectors, texts))
        await asyncio.sleep(0.12)
        await model.encode_query("another")
        assert len(done) < 10
        explaining.cancel()
        await asyncio.sleep(0.12)
        assert len(done) < 12
        assert len(await model.explain(QUERY, vectors, texts[:3])) == 3
        assert done[-3:] == ["0", "1", "2"]
        await model.aclose()

    asyncio.run(scene())


def test_products_add_up_to_the_raw_lexical_score(encoder: Encoder) -> None:
    query, encoded = encoder.encode_query(QUERY), encoder.encode(TEXTS)
    assert query.lexical_ids is not None
    assert query.lexical_weights is not None
    assert encoded.lexical is not None
    explanations = explain_texts(encoder, QUERY, query, TEXTS)
    assert len(explanations) == len(TEXTS)
    assert explanations[0].tokens
    for place, explanation in enumerate(explanations):
        raw = scoring.lexical(query.lexical_ids, query.lexical_weights, *encoded.lexical.row(place))
        assert sum(each.product for each in explanation.tokens) == pytest.approx(raw, abs=1e-5)
        products = [each.product for each in explanation.tokens]
        assert products == sorted(products, reverse=True)
        for each in explanation.tokens:
            assert each.query_weight * each.passage_weight == pytest.approx(each.product, rel=1e-5)
            assert each.query_weight in query.lexical_weights
            assert each.passage_weight in encoded.lexical.row(place)[1]


def test_every_vector_has_its_token_and_the_prefix_has_none(encoder: Encoder) -> None:
    kinds: tuple[TextKind, ...] = ("query", "passage")
    for kind in kinds:
        encoded = encoder.encode(TEXTS, kind)
        assert encoded.multi is not None
        for place, text in enumerate(TEXTS):
            tokens = multi_tokens(encoder, text, kind)
            assert len(tokens) == len(encoded.multi.row(place))
            assert tokens[-1] is None
            own = encoder.tokenizer.tokens(encoder.tokenizer.encode([text], "", 10_000)[0][0][1:-1])
            shown = [token for token in tokens if token is not None]
            assert shown == own[: len(shown)]
            assert len(shown) == len(own) or encoded.truncated[place]


def test_alignments_name_the_best_passage_token_of_every_query_token(encoder: Encoder) -> None:
    query = encoder.encode_query(QUERY)
    encoded = encoder.encode(TEXTS)
    assert query.multi is not None
    assert encoded.multi is not None
    names = multi_tokens(encoder, QUERY, "query")
    met = explain_texts(encoder, QUERY, query, TEXTS)[0].alignments
    assert sorted(each.query for each in met) == sorted(name for name in names if name)
    similarity = query.multi @ encoded.multi.row(0).T
    expected = [float(similarity[n].max()) for n, name in enumerate(names) if name]
    assert [each.value for each in met] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_align_on_known_vectors() -> None:
    query = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    passage = np.array([[0, 1], [0.6, 0.8]], dtype=np.float32)
    met = align(query, ["night", "travel", None], passage, ["Reise", None])
    assert [(each.query, each.passage, round(each.value, 6)) for each in met] == [
        ("travel", "Reise", 1.0),
        ("night", "", 0.6),
    ]
    assert align(query, ["a", "b", "c"], passage[:0], []) == ()


def test_encoder_without_a_signal_explains_the_others(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model, signals=[Signal.DENSE, Signal.LEXICAL])
    explanation = explain_texts(encoder, QUERY, encoder.encode_query(QUERY), TEXTS[:1])[0]
    assert explanation.tokens
    assert explanation.alignments == ()


def test_model_encoder_loads_the_weights_only_for_encoding(tiny_model: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        model = ModelEncoder(ModelSection(name=str(tiny_model)), tmp_path)
        facts = await model.facts()
        assert "balanced" in facts.presets
        assert facts.fingerprint == encoder_fingerprint(Encoder.load(tiny_model).spec)
        assert "_encoder" not in vars(model)
        first, second = await asyncio.gather(model.encode_query(QUERY), model.encode_query(QUERY))
        loaded = vars(model)["_encoder"]
        assert np.array_equal(first.dense, second.dense)  # type: ignore[arg-type]
        assert len(await model.explain(QUERY, first, TEXTS)) == len(TEXTS)
        assert vars(model)["_encoder"] is loaded
        await model.aclose()

    asyncio.run(scene())


def test_queries_of_one_pass_have_the_vectors_that_they_have_alone(encoder: Encoder) -> None:
    queries = [QUERY, "night train", QUERY * 3, "低温実験室の鍵"]
    found = encode_queries(encoder, queries)
    for query, vectors in zip(queries, found, strict=True):
        assert isinstance(vectors, QueryVectors)
        alone = encoder.encode_query(query)
        for name in ("dense", "lexical_ids", "lexical_weights", "multi"):
            np.testing.assert_allclose(getattr(vectors, name), getattr(alone, name), atol=1e-5)
            assert getattr(vectors, name).base is None


def test_a_query_too_large_for_memory_fails_alone(encoder: Encoder) -> None:
    class Small:
        """An encoder in whose memory the second text does not fit."""

        def encode(self, texts: list[str], kind: TextKind) -> Encoded:
            raise EncodeMemoryError.of([1], [600], encoder.encode(texts, kind))

    first, second = encode_queries(Small(), [QUERY, "word " * 600])  # type: ignore[arg-type]
    assert isinstance(first, QueryVectors)
    assert isinstance(second, EncodeMemoryError)


def test_a_query_is_encoded_once_and_then_remembered(tiny_model: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        model = ModelEncoder(ModelSection(name=str(tiny_model)), tmp_path)
        await model.ready()
        loaded = vars(model)["_encoder"]
        passes: list[list[str]] = []
        encode = loaded.encode

        class Counting:
            def encode(self, texts: list[str], kind: TextKind) -> Encoded:
                passes.append(texts)
                result: Encoded = encode(texts, kind)
                return result

        vars(model)["_encoder"] = Counting()
        found = await asyncio.gather(*(model.encode_query(query) for query in ("a", "b", "a")))
        assert found[0] is found[2]
        assert await model.encode_query("b") is found[1]
        assert sorted(query for each in passes for query in each) == ["a", "b"]
        await model.aclose()

    asyncio.run(scene())

"""Explanations with a real (tiny) model: the parts must add up to the raw scores."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from m3core import scoring
from m3core.config.model import ModelSection
from m3core.encoder import Encoder
from m3core.fingerprint import encoder_fingerprint
from m3core.types import Signal, TextKind
from pipelines.query.encoding import ModelEncoder
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

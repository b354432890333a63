"""MCLS: a cls in front of every 256 tokens, dense their mean, the other signals as if they were not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m3core import Encoder
from m3core.errors import UsageError
from tests.tiny import make_tiny_model

_CLS, _EOS = 0, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "m"
    return make_tiny_model(folder, family="xlm-roberta", max_length=700, pooling="cls")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.load(folder, long_pooling="mcls")


def _ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer.encode([text], "passage: ", 700, 257)[0][0]


@pytest.mark.parametrize("words", [0, 1, 100, 126, 127, 128, 300])
def test_a_cls_stands_in_front_of_every_256_tokens(encoder: Encoder, words: int) -> None:
    text = "key at " * words
    (plain,), _ = encoder.tokenizer.encode([text], "passage: ", 10_000)
    (ids,), _ = encoder.tokenizer.encode([text], "passage: ", 10_000, 257)
    places = [i for i, token in enumerate(ids) if token == _CLS]
    assert places == list(range(0, max(len(ids) - 1, 1), 257))
    assert ids[-1] == _EOS
    assert [token for token in ids if token != _CLS] == plain[1:]


def test_dense_is_the_mean_of_all_cls_states_and_the_rest_does_not_see_them(encoder: Encoder) -> None:
    texts = ["key at nine " * 130, "the desk", ""]
    encoded = encoder.encode(texts)
    assert encoded.dense is not None
    assert encoded.lexical is not None
    assert encoded.multi is not None
    assert encoder.multi_head is not None
    for i, text in enumerate(texts):
        ids = torch.tensor(_ids(encoder, text))
        states = encoder.backbone(ids, [len(ids)])
        mean = states[ids == _CLS].mean(0)
        assert encoded.dense[i] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
        vectors = encoder.multi_head(states[ids != _CLS])
        expected = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
        assert encoded.multi.row(i) == pytest.approx(expected, abs=1e-5)
        assert _CLS not in encoded.lexical.row(i)[0]
    assert encoded.token_counts[0] > 257


def test_a_short_text_is_as_without_it(folder: Path, encoder: Encoder) -> None:
    plain = Encoder.load(folder).encode(["the key is at the desk"])
    ours = encoder.encode(["the key is at the desk"])
    assert plain.dense is not None
    assert ours.dense is not None
    assert np.array_equal(ours.dense, plain.dense)


def test_a_text_beyond_the_limit_is_cut_and_marked(encoder: Encoder) -> None:
    encoded = encoder.encode(["key at nine " * 900])
    assert encoded.truncated.tolist() == [True]
    assert encoded.token_counts.tolist() == [700]


def test_vectors_of_the_two_poolings_never_meet(folder: Path, encoder: Encoder) -> None:
    assert encoder.fingerprint != Encoder.load(folder).fingerprint


def test_only_models_that_pool_cls_have_it(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="long_pooling 'mcls' with a model that pools mean"):
        Encoder.load(tiny_model, long_pooling="mcls")

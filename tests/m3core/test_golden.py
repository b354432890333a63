"""Our encoder against goldens of FlagEmbedding itself: see tests/reference/README.md."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from m3core import Encoder
from m3core.int8 import int8_is_exact
from m3core.types import Float32Array, QueryVectors, Signal, TextKind
from tests.reference.compare import (
    Differences,
    EncodeTexts,
    compare,
    differing_tokens,
    encode_with,
    load_exact,
    score_pair,
    texts_of,
)
from tests.reference.golden_file import Golden, check_telling, golden_path, model_digest, read_golden, write_golden
from tests.reference.make_models import BGE_M3_RANDOM, LOCAL, XLMR_2_LAYER, make_model, model_folder
from tests.reference.texts import TEXTS, ReferenceText

DENSE, LEXICAL, MULTI, SCORE = 1e-4, 1e-4, 1e-3, 1e-4
KINDS: tuple[TextKind, ...] = ("query", "passage")

# One worker makes and loads the models once.
pytestmark = pytest.mark.xdist_group("golden")


class Oracle(NamedTuple):
    """A model, what the reference says about it, and the texts of both."""

    encoder: Encoder
    golden: Golden
    texts: list[ReferenceText]


def oracle_of(folder: Path, golden: Golden) -> Oracle:
    return Oracle(load_exact(folder), golden, texts_of(golden))


@pytest.fixture(scope="module")
def two_layers(m3_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder = tmp_path_factory.mktemp("reference") / XLMR_2_LAYER.name
    make_model(XLMR_2_LAYER, folder, m3_small / "tokenizer.json")
    return oracle_of(folder, read_golden(golden_path(XLMR_2_LAYER.name)))


@pytest.fixture(scope="module")
def small(m3_small: Path) -> Oracle:
    golden = read_golden(golden_path("m3-small"))
    check_current(golden, m3_small)
    return oracle_of(m3_small, golden)


def check_current(golden: Golden, m3_small: Path) -> None:
    """Fail if the golden is of another training than the model, which its folder's name says.

    Not by the files: the adapter is merged on each machine, so the last bits of the weights may differ.
    """
    if golden.origin.model != m3_small.name:
        pytest.fail(
            f"the golden of m3-small is of {golden.origin.model}, the model here is {m3_small.name}; "
            "make it again: make reference-goldens MODEL=m3-small"
        )


def alone(encoder: Encoder) -> EncodeTexts:
    """Each text in a call of its own."""
    one = encode_with(encoder, batch_tokens=4096)
    return lambda texts, kind: [vectors for text in texts for vectors in one([text], kind)]


def all_together(encoder: Encoder) -> EncodeTexts:
    """One batch for all texts of a kind."""
    return encode_with(encoder, batch_tokens=10**9)


def shuffled(encoder: Encoder) -> EncodeTexts:
    """The usual batches, the texts in another order."""
    usual = encode_with(encoder, batch_tokens=4096)

    def encode(texts: Sequence[str], kind: TextKind) -> list[QueryVectors]:
        order = np.random.default_rng(4).permutation(len(texts)).tolist()
        vectors = usual([texts[i] for i in order], kind)
        return [vectors[place] for place in np.argsort(order).tolist()]

    return encode


def small_batches(encoder: Encoder) -> EncodeTexts:
    """A token budget that few texts share."""
    return encode_with(encoder, batch_tokens=50)


def assert_equal(found: Differences) -> None:
    """Every text and every pair within its tolerance."""
    limits = [("dense", found.dense, DENSE), ("lexical", found.lexical, LEXICAL), ("multi", found.multi, MULTI)]
    for signal, per_text, limit in limits:
        wrong = {name: float(value) for name, value in zip(found.texts, per_text, strict=True) if value > limit}
        assert not wrong, f"{signal} differs by more than {limit:g}: {wrong}"
    for signal, scores in found.scores.items():
        assert scores.max() <= SCORE, f"{signal} score differs by {scores.max():.1e}"
    assert found.pairs.max() <= SCORE, f"compute_score differs by {found.pairs.max():.1e}"


@pytest.mark.parametrize("composition", [alone, all_together, shuffled, small_batches])
def test_a_random_xlm_roberta_equals_the_reference(
    two_layers: Oracle, composition: Callable[[Encoder], EncodeTexts]
) -> None:
    # Texts of 8192 tokens cost most of the time, and under any other budget fill a batch by themselves.
    everything = composition is all_together
    texts = [text for text in two_layers.texts if everything or not text.long]
    assert_equal(compare(two_layers.golden, texts, composition(two_layers.encoder)))


@pytest.mark.slow
@pytest.mark.parametrize("composition", [alone, all_together, shuffled])
def test_m3_small_equals_the_reference(small: Oracle, composition: Callable[[Encoder], EncodeTexts]) -> None:
    # Here the texts of 512 tokens cost most.
    everything = composition is all_together
    texts = [text for text in small.texts if everything or text.body_tokens is None]
    assert_equal(compare(small.golden, texts, composition(small.encoder)))


@pytest.mark.nightly
@pytest.mark.parametrize("composition", [alone, all_together])
def test_a_random_model_of_bge_m3_size_equals_the_reference(composition: Callable[[Encoder], EncodeTexts]) -> None:
    path = golden_path(BGE_M3_RANDOM.name)
    if not path.is_file():
        pytest.skip(f"{path} is not there; make it with: make reference-goldens MODEL={BGE_M3_RANDOM.name}")
    oracle = oracle_of(LOCAL / "models" / BGE_M3_RANDOM.name, read_golden(path))
    assert model_digest(oracle.encoder.spec.folder) == oracle.golden.origin.digest, "the golden is of another model"
    assert_equal(compare(oracle.golden, oracle.texts, composition(oracle.encoder)))


@pytest.fixture(scope="module")
def full_size(m3_small: Path) -> Path:
    """The random model of BGE-M3's size: 2.3 GB, made once and kept."""
    return model_folder(BGE_M3_RANDOM.name, m3_small)


def dense_of_texts(folder: Path, precision: str) -> Float32Array:
    """Of the texts that are not as long as a limit."""
    texts = [text.text for text in TEXTS if text.body_tokens is None]
    dense = Encoder.load(folder, signals=[Signal.DENSE], device="cpu", precision=precision).encode(texts).dense
    assert dense is not None
    return dense


@pytest.fixture(scope="module")
def full_size_dense(full_size: Path) -> Float32Array:
    return dense_of_texts(full_size, "float32")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("precision", "least"),
    [
        ("bfloat16", 0.999),
        pytest.param(
            "int8",
            0.99,
            marks=pytest.mark.skipif(not int8_is_exact(), reason="this CPU has no exact products of bytes"),
        ),
    ],
)
def test_24_layers_in_a_shorter_precision_keep_their_dense_vectors(
    full_size: Path, full_size_dense: Float32Array, precision: str, least: float
) -> None:
    assert (full_size_dense * dense_of_texts(full_size, precision)).sum(axis=1).min() >= least


def test_the_random_model_is_the_same_to_the_last_bit(two_layers: Oracle) -> None:
    assert model_digest(two_layers.encoder.spec.folder) == two_layers.golden.origin.digest


def test_the_goldens_tell_texts_and_tokens_apart(two_layers: Oracle, small: Oracle) -> None:
    for oracle in (two_layers, small):
        check_telling(oracle.golden)
    starts = np.zeros_like(two_layers.golden.lexical_starts)
    with pytest.raises(ValueError, match=r"share of texts without lexical weights is 1\.00, over 0\.34"):
        check_telling(replace(two_layers.golden, lexical_starts=starts))


def test_tokens_equal_the_reference(two_layers: Oracle, small: Oracle) -> None:
    for oracle in (two_layers, small):
        assert differing_tokens(oracle.golden, oracle.encoder, oracle.texts) == []


def test_the_texts_stand_at_every_limit(two_layers: Oracle, small: Oracle) -> None:
    assert len(two_layers.texts) == len(TEXTS) >= 60
    sized = [text for text in TEXTS if text.body_tokens is not None]
    rows, _ = two_layers.encoder.tokenizer.encode([text.text for text in sized], "", 10**6)
    assert [len(ids) - 2 for ids in rows] == [text.body_tokens for text in sized]
    for oracle, kind, limit in [
        (two_layers, "query", 512),
        (two_layers, "passage", 8192),
        (small, "query", 512),
        (small, "passage", 512),
    ]:
        prefix = oracle.encoder.spec.prefix(kind)
        rows, _ = oracle.encoder.tokenizer.encode([text.text for text in sized if text.kind == kind], prefix, 10**6)
        lengths = {len(ids) for ids in rows}
        assert {limit - 1, limit, limit + 1} <= lengths


def test_a_wrong_result_is_found(two_layers: Oracle) -> None:
    names = ("query english", "passage english", "passage german")
    texts = [text for text in two_layers.texts if text.name in names]
    encode = alone(two_layers.encoder)
    right = {kind: encode([text.text for text in texts if text.kind == kind], kind) for kind in KINDS}
    row, other = right["passage"]
    assert row.dense is not None
    assert row.lexical_ids is not None
    assert row.lexical_weights is not None
    assert row.multi is not None
    wrong = {
        "dense differs by more than 0.0001": [replace(row, dense=row.dense + np.float32(2e-4))],
        "lexical differs by more than 0.0001": [
            replace(row, lexical_ids=row.lexical_ids[1:], lexical_weights=row.lexical_weights[1:])
        ],
        "multi differs by more than 0.001": [replace(row, multi=row.multi[:-1]), replace(row, multi=row.multi[::-1])],
    }
    assert_equal(compare(two_layers.golden, texts, lambda _, kind: right[kind]))
    for message, rows in wrong.items():
        for bad in rows:

            def encode_wrongly(_: Sequence[str], kind: TextKind, bad: QueryVectors = bad) -> list[QueryVectors]:
                return [bad, other] if kind == "passage" else right[kind]

            with pytest.raises(AssertionError, match=f"{message}: {{'passage english': "):
                assert_equal(compare(two_layers.golden, texts, encode_wrongly))


def test_a_golden_reads_back_as_written(two_layers: Oracle, tmp_path: Path) -> None:
    write_golden(two_layers.golden, tmp_path / "again.npz")
    assert read_golden(tmp_path / "again.npz").origin == two_layers.golden.origin
    with np.load(tmp_path / "again.npz") as again, np.load(golden_path(XLMR_2_LAYER.name)) as committed:
        assert all(np.array_equal(again[name], committed[name]) for name in committed)
    with pytest.raises(FileNotFoundError, match=r"none\.npz is not there; make it with: make reference-goldens"):
        read_golden(tmp_path / "none.npz")


def test_a_golden_of_another_training_is_not_compared(two_layers: Oracle) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"is of xlmr-2-layer, the model here is m3-small-0123; make"):
        check_current(two_layers.golden, Path("m3-small-0123"))


def test_a_rewritten_text_is_noticed(two_layers: Oracle) -> None:
    stale = replace(two_layers.golden, text_digests=two_layers.golden.text_digests + 1)
    with pytest.raises(ValueError, match=r"is not the text of the golden; make it again: make reference-goldens"):
        texts_of(stale)


# Values that FlagEmbedding gives for the real model, from its model card and others' measurements.
BGE_M3_WEIGHTS = {
    4865: 0.083621,
    83: 0.081470,
    335: 0.129646,
    11679: 0.251870,
    276: 0.170017,
    363: 0.269579,
    32: 0.040755,
}
BGE_M3_QUERIES = ["What is BGE M3?", "Defination of BM25"]
# In float16, query by query: dense, lexical, multi, and all three with 0.4, 0.2, 0.4.
BGE_M3_SCORES = np.array(
    [
        [0.6260, 0.3474, 0.3499, 0.6782],
        [0.1956, 0.0088, 0.0, 0.1803],
        [0.7796, 0.4621, 0.4524, 0.7899],
        [0.6014, 0.3256, 0.3209, 0.6233],
    ]
)
HALF_PRECISION = 2e-3


@pytest.fixture(scope="module")
def bge_m3() -> Encoder:
    folder = os.environ.get("M3_BGE_M3")
    if not folder:
        pytest.skip("M3_BGE_M3 does not name a folder with the checkpoint BAAI/bge-m3; its published values need it")
    return load_exact(Path(folder))


@pytest.mark.slow
def test_bge_m3_gives_the_published_weights(bge_m3: Encoder) -> None:
    first, empty = encode_with(bge_m3, 4096)([BGE_M3_QUERIES[0], ""], "query")
    assert first.lexical_ids is not None
    assert first.lexical_weights is not None
    weights = dict(zip(first.lexical_ids.tolist(), first.lexical_weights.tolist(), strict=True))
    assert weights == pytest.approx(BGE_M3_WEIGHTS, abs=LEXICAL)
    assert empty.lexical_ids is not None
    assert empty.multi is not None
    assert (len(empty.lexical_ids), len(empty.multi)) == (0, 1)


@pytest.mark.slow
def test_bge_m3_gives_the_published_scores(bge_m3: Encoder) -> None:
    card = bge_m3.spec.folder / "README.md"
    if not card.is_file():
        pytest.skip(f"{card} is not there: the published scores are of the two passages in BGE-M3's own model card")
    encode = encode_with(bge_m3, 4096)
    queries = encode(BGE_M3_QUERIES, "query")
    passages = encode(card_passages(card.read_text(encoding="utf-8")), "passage")
    scores = np.array([score_pair(query, passage) for query in queries for passage in passages])
    three_and_fused = scores[:, [0, 1, 2, 4]].T
    assert np.abs(three_and_fused - BGE_M3_SCORES).max() <= HALF_PRECISION


def card_passages(card: str) -> list[str]:
    """The passages of the example in BGE-M3's model card: `sentences_2 = ["...", "..."]`."""
    found = re.search(r"sentences_2\s*=\s*(\[.*?\"\s*\])", card, re.DOTALL)
    assert found, "the model card has no example with sentences_2"
    passages = ast.literal_eval(found[1])
    assert len(passages) == 2
    return list(passages)


def test_the_passages_of_a_model_card_are_found() -> None:
    card = 'Use\n```python\nsentences_1 = ["a"]\nsentences_2 = ["one [1] here.", \n               "and two"]\n```\n'
    assert card_passages(card) == ["one [1] here.", "and two"]

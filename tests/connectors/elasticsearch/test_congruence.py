"""The real server against the oracle on random rows: the same ids and order; scores before and after rescoring."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.elasticsearch.client import index_name
from connectors.elasticsearch.schema import MAX_QUERY_TOKENS
from connectors.elasticsearch.weights import token_weights
from connectors.filters.evaluate import matches
from connectors.filters.grammar import parse_filter
from m3core import scoring
from m3core.types import QueryVectors, Row, Signal
from tests.conformance.data import FIELDS, make_rows
from tests.conformance.store import Store

pytestmark = pytest.mark.xdist_group("elasticsearch")

_TOKENS = 4000
_ROWS = 1200


def zipf_rows(count: int, seed: int) -> list[Row]:
    """Rows whose tokens are as unevenly spread as words are, with weights as M3 gives them; every 40th is a twin."""
    rows = make_rows(count, seed)
    made: list[Row] = []
    for number, row in enumerate(rows):
        rng = np.random.default_rng((seed, 77, number - (number % 40 == 39)))
        ids = np.unique(np.minimum(rng.zipf(1.3, 60), _TOKENS) - 1).astype(np.uint32)
        weights = rng.gamma(1.2, 0.08, len(ids)).astype(np.float32) + np.float32(1e-4)
        made.append(replace(row, vectors=replace(row.vectors, lexical_ids=ids, lexical_weights=weights)))
    return made


ROWS = zipf_rows(_ROWS, seed=5)


@pytest.fixture(scope="module")
def filled(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    """The real store and the oracle with the same rows."""
    folder: Path = tmp_path_factory.mktemp("congruence")
    real = Store.of("elasticsearch", folder / "real")
    oracle = Store.of("memory", folder / "oracle", signals=real.schema.signals)
    for each in (real, oracle):
        each.write(ROWS)
    yield real, oracle
    real.close()
    oracle.close()


def make_query(seed: int, tokens: int) -> QueryVectors:
    rng = np.random.default_rng((9, seed))
    ids = np.unique(np.minimum(rng.zipf(1.3, tokens), _TOKENS) - 1).astype(np.uint32)
    return QueryVectors(None, ids, rng.gamma(1.2, 0.1, len(ids)).astype(np.float32) + np.float32(1e-3), None)


FILTERS = (
    "true",
    'kind = "faq" or year >= 2024',
    'not tags in ("a", "b") and exists(title)',
    'language != "de" and (weight < 2 or public = true)',
)


@given(
    seed=st.integers(0, 10_000),
    tokens=st.sampled_from([1, 3, 8, 40]),
    limit=st.sampled_from([1, 7, 50, 100]),
    text=st.sampled_from(FILTERS),
)
@settings(max_examples=60)
def test_ids_order_and_scores_are_the_oracles(
    filled: tuple[Store, Store], seed: int, tokens: int, limit: int, text: str
) -> None:
    query, where = make_query(seed, tokens), parse_filter(text, FIELDS)
    found, expected = (store.search(Signal.LEXICAL, query, where, limit) for store in filled)
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], rel=1e-6)


@given(seed=st.integers(0, 10_000), text=st.sampled_from(FILTERS))
@settings(max_examples=15)
def test_scores_by_id_counts_and_filters_are_the_oracles(filled: tuple[Store, Store], seed: int, text: str) -> None:
    where = parse_filter(text, FIELDS)
    real, oracle = filled
    passing = {row.chunk.id for row in ROWS if matches(where, row.chunk)}
    assert len(passing) > 0
    assert real.count(where) == len(passing)
    ids = [row.chunk.id for row in ROWS[seed % 7 :: 7]]
    query = make_query(seed, 12)
    scores = real.score(Signal.LEXICAL, query, ids, where)
    assert scores == pytest.approx(oracle.score(Signal.LEXICAL, query, ids, where), rel=1e-6)
    assert scores.keys() == passing & set(ids)


@pytest.mark.parametrize("seed", range(5))
def test_the_servers_own_scores_are_within_what_nine_bits_explain(filled: tuple[Store, Store], seed: int) -> None:
    """Before rescoring, on rows of very different lengths and tokens that half the rows share: nothing is pruned."""
    query = make_query(seed, 40)
    assert query.lexical_ids is not None
    assert query.lexical_weights is not None
    sparse = {
        "field": "lexical",
        "query_vector": token_weights(query.lexical_ids, query.lexical_weights),
        "prune": False,
    }
    options = filled[0].options
    body = {"query": {"sparse_vector": sparse}, "size": 200, "_source": False}
    request = urllib.request.Request(  # noqa: S310 - the server of the tests
        f"{options.connection.url}/{index_name(options)}/_search",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - the server of the tests
        hits = json.load(answer)["hits"]["hits"]
    vectors = {row.chunk.id: row.vectors for row in ROWS}
    errors = []
    for hit in hits:
        row = vectors[hit["_id"]]
        exact = scoring.lexical(query.lexical_ids, query.lexical_weights, row.lexical_ids, row.lexical_weights)
        errors.append(hit["_score"] / exact - 1)
    assert len(errors) == 200
    assert max(map(abs, errors)) <= 0.002
    assert abs(float(np.mean(errors))) <= 0.0003  # rounded, not cut off


def test_a_query_of_more_tokens_than_the_cap_is_answered_by_its_heaviest(filled: tuple[Store, Store]) -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(_TOKENS, dtype=np.uint32)
    weights = (rng.random(_TOKENS) ** 8 + 1e-5).astype(np.float32)
    query = QueryVectors(None, ids, weights, None)
    real, oracle = filled
    assert len(ids) > real.sink().capabilities.max_query_tokens == MAX_QUERY_TOKENS  # type: ignore[operator]
    found, expected = (store.search(Signal.LEXICAL, query, limit=20) for store in filled)
    # Scores are of all tokens; only who is a candidate is decided by the heaviest.
    exact = oracle.score(Signal.LEXICAL, query, [hit.id for hit in found])
    assert {hit.id: hit.score for hit in found} == pytest.approx(exact, rel=1e-6)
    assert len({hit.id for hit in found} & {hit.id for hit in expected}) >= 18


def test_requests_at_once_do_not_mix(filled: tuple[Store, Store]) -> None:
    real, oracle = filled
    queries = [make_query(seed, 8) for seed in range(12)]
    expected = [oracle.search(Signal.LEXICAL, query, limit=5) for query in queries]

    async def all_at_once(searcher: object) -> list[list[str]]:
        asks = [searcher.search(Signal.LEXICAL, query, parse_filter("true", FIELDS), 5, 60.0) for query in queries]  # type: ignore[attr-defined]
        return [[hit.id for hit in hits] for hits in await asyncio.gather(*asks)]

    assert real.ask(all_at_once) == [[hit.id for hit in hits] for hits in expected]

"""Filters as queries: shape and nesting. What they mean is the conformance suite's."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from connectors.elasticsearch.filters import es_filter, indexed_value
from connectors.filters.tree import And, Between, Equals, Exists, Filter, Not, Or
from m3core.errors import FilterError
from tests.conformance.data import FIELDS


def depth(query: Any) -> int:
    """Levels of queries as the server counts them: a wrapper's content is parsed on its own."""
    parts = [part for clause in query.get("bool", {}).values() if isinstance(clause, list) for part in clause]
    return 1 + max(map(depth, parts), default=0)


def alternating(levels: int) -> Filter:
    def deeper(where: Filter, level: int) -> Filter:
        joined = And if level % 2 else Or
        return joined((where, Exists("tags")))

    return reduce(deeper, range(levels), Equals("kind", "faq"))


def test_no_filter_comes_near_the_servers_limit_of_thirty_levels() -> None:
    for levels in range(32):
        assert depth(es_filter(alternating(levels), FIELDS)) <= 14
    negations = reduce(lambda where, _: Not(where), range(31), Equals("kind", "faq"))  # type: ignore[arg-type,return-value]
    assert es_filter(negations, FIELDS) == {"bool": {"must_not": [{"term": {"fields.kind": {"value": "faq"}}}]}}


def test_a_value_is_a_json_value_and_never_part_of_a_query_string() -> None:
    text = '"}}, "match_all": {} /* '
    assert es_filter(Equals("kind", text), FIELDS) == {"term": {"fields.kind": {"value": text}}}


def test_of_two_bounds_of_one_side_the_tighter_holds() -> None:
    def bounds(**given: Any) -> Any:
        return es_filter(Between("year", **given), FIELDS)["range"]["fields.year"]

    assert bounds(gt=1, gte=2) == {"gte": 2}
    assert bounds(gt=2, gte=2) == {"gt": 2}
    assert bounds(lt=1, lte=2) == {"lt": 1}
    assert bounds(lt=3, lte=2, gt=0) == {"gt": 0, "lte": 2}


@pytest.mark.parametrize("text", ["x" * 1025, "\x01sha256:", "\U0001f600" * 300])
def test_long_text_is_compared_by_its_hash_and_no_text_can_pass_for_one(text: str) -> None:
    hashed = indexed_value(text)
    assert isinstance(hashed, str)
    assert len(hashed) == len("\x01sha256:") + 64
    assert hashed not in (text, indexed_value(text[:-1]), indexed_value(hashed))


def test_zero_has_one_sign_and_short_text_stays() -> None:
    assert str(indexed_value(-0.0)) == "0.0"
    assert indexed_value(True) is True
    assert indexed_value("x" * 1024) == "x" * 1024


def test_what_no_store_answers_is_refused() -> None:
    with pytest.raises(FilterError, match="not declared"):
        es_filter(Equals("_id", "x"), FIELDS)

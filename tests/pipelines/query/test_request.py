"""What a request refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import UsageError
from m3core.types import Identity, Signal
from pipelines.query.request import (
    MAX_CURSOR_CHARS,
    MAX_QUERY_CHARS,
    Fusion,
    SearchRequest,
    parse_fusion,
    parse_identity,
    parse_signals,
)

STAFF = Identity("acme", ("staff",))


def test_plain_request_takes_every_default_from_the_configuration() -> None:
    request = SearchRequest("night train", STAFF)
    assert (request.limit, request.preset, request.weights, request.signals, request.timeout) == (None,) * 5


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "the query is empty; it needs at least one word"),
        (" \t\n", "the query is empty; it needs at least one word"),
        ("x" * (MAX_QUERY_CHARS + 1), "the query has 8193 characters; at most 8192 are read"),
        ("a\x00b", "the query has the control character U+0000 at character 2"),
        ("ab\x1b[31m", "the query has the control character U+001B at character 3"),
        ("\x85x", "the query has the control character U+0085 at character 1"),
        ("ab\ud800", "the query has the lone surrogate U+D800 at character 3; that is no text"),
    ],
)
def test_bad_query_is_refused(query: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        SearchRequest(query, STAFF)
    assert caught.value.message == words
    assert caught.value.remedy


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=200))
def test_any_text_without_controls_is_taken(query: str) -> None:
    if query.strip():
        assert SearchRequest(query, STAFF).query == query


def test_query_of_the_largest_size_and_pasted_lines_are_taken() -> None:
    SearchRequest("x" * MAX_QUERY_CHARS, STAFF)
    SearchRequest("first line\nsecond\tline\r\n", STAFF)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limit_out_of_range(limit: int) -> None:
    with pytest.raises(UsageError, match=rf"limit {limit}: it must lie within 1\.\.1000"):
        SearchRequest("x", STAFF, limit=limit)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 5e-324, 0.009, 301.0, float("nan")])
def test_timeout_out_of_range(timeout: float) -> None:
    with pytest.raises(UsageError, match=r"it must lie within 0\.01\.\.300 seconds"):
        SearchRequest("x", STAFF, timeout=timeout)


def test_identity_without_tenant_and_with_too_many_principals() -> None:
    with pytest.raises(UsageError, match="the identity has no tenant"):
        SearchRequest("x", Identity("", ("staff",)))
    with pytest.raises(UsageError, match="1001 principals; at most 1000"):
        SearchRequest("x", Identity("acme", tuple(map(str, range(1001)))))


def test_no_signal_named() -> None:
    with pytest.raises(UsageError, match="signals: none was named"):
        SearchRequest("x", STAFF, signals=())


def test_parse_identity() -> None:
    assert parse_identity("acme:staff, hr") == Identity("acme", ("staff", "hr"))
    assert parse_identity("acme:user:7") == Identity("acme", ("user:7",))
    assert parse_identity("acme:") == Identity("acme", ())
    for text in ("acme", ":staff", ""):
        with pytest.raises(UsageError, match="it must be TENANT:PRINCIPALS"):
            parse_identity(text)


def test_parse_signals() -> None:
    assert parse_signals("multi, dense") == (Signal.DENSE, Signal.MULTI)
    with pytest.raises(UsageError) as caught:
        parse_signals("dens")
    assert (caught.value.message, caught.value.remedy) == (
        "--signals 'dens': no such signal",
        'did you mean "dense"?',
    )
    with pytest.raises(UsageError, match="none was named"):
        parse_signals(",")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunks": 0}, r"chunks 0: it must lie within 1\.\.10"),
        ({"chunks": 11}, "chunks 11"),
        ({"offset": -1}, r"offset -1: it must lie within 0\.\.1000"),
        ({"offset": 1001}, "offset 1001"),
        ({"min_score": float("nan")}, "min_score nan: it must be a finite number"),
        ({"min_score": float("inf")}, "min_score inf"),
        ({"cursor": "x", "offset": 1}, "offset and cursor are both given"),
        ({"cursor": "x" * (MAX_CURSOR_CHARS + 1)}, "the cursor has 262145 characters; none of ours has more"),
    ],
)
def test_values_out_of_bounds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchRequest("x", STAFF, **changes)


def test_parse_fusion() -> None:
    assert parse_fusion("reciprocal-rank") is Fusion.RECIPROCAL_RANK
    with pytest.raises(UsageError) as caught:
        parse_fusion("reciprocal_rank")
    assert (caught.value.message, caught.value.remedy) == (
        "--fusion 'reciprocal_rank': no such way to make one score",
        'did you mean "reciprocal-rank"?',
    )


def test_required_signals_are_named_like_the_others() -> None:
    with pytest.raises(UsageError, match="--require 'dens': no such signal"):
        parse_signals("dens", "--require")
    with pytest.raises(UsageError, match="require: none was named"):
        parse_signals(",", "--require")

"""Waits between attempts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.bulk.backoff import Backoff, retry_after_seconds


@given(
    seed=st.integers(0, 1000),
    base=st.floats(0.01, 2.0),
    limit=st.floats(0.01, 30.0),
    asked=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60),
)
def test_waits_lie_between_what_was_asked_for_and_that_plus_the_growing_bound(
    seed: int, base: float, limit: float, asked: list[float]
) -> None:
    backoff = Backoff(base, limit, Random(seed))
    for failures, retry_after in enumerate(asked):
        assert retry_after <= backoff.wait(retry_after) <= retry_after + min(limit, base * 2.0**failures)


def test_jitter_is_full_and_success_begins_anew() -> None:
    backoff = Backoff(1.0, 8.0, Random(0))
    firsts = []
    for _ in range(400):
        backoff.reset()
        firsts.append(backoff.wait())
    assert min(firsts) < 0.05
    assert max(firsts) > 0.95
    assert 0.45 < sum(firsts) / len(firsts) < 0.55


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0.0),
        ("0", 0.0),
        (" 17 ", 17.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 59.0),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-3", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float) -> None:
    assert retry_after_seconds(header, 946_684_740.0) == seconds

"""Bounded searches: refused at once beyond the bound, a share per tenant, places always given back."""

from __future__ import annotations

import pickle
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import UsageError
from pipelines.query.admission import Admission, AdmissionRules
from pipelines.query.errors import OverloadedError, TenantBusyError


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_tenant_gets_its_share_and_leaves_room_for_the_others() -> None:
    admission = Admission(AdmissionRules(searches=4, tenant_share=0.5))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(admission.place("greedy"))
        with pytest.raises(TenantBusyError) as caught, admission.place("greedy"):
            pass
        assert caught.value.message == "this tenant has 2 searches running, its share of 4"
        for tenant in ("b", "c"):
            stack.enter_context(admission.place(tenant))
        with pytest.raises(OverloadedError) as overloaded, admission.place("d"):
            pass
        assert not isinstance(overloaded.value, TenantBusyError)
        assert (overloaded.value.code, overloaded.value.retry_after) == ("overloaded", 1.0)
        assert admission.running == 4
    assert admission.running == 0


def test_retry_after_follows_how_long_searches_take() -> None:
    clock = FakeClock()
    admission = Admission(AdmissionRules(searches=1), clock)
    for _ in range(80):
        with admission.place("a"):
            clock.now += 3.4
    with admission.place("a"), pytest.raises(OverloadedError) as caught, admission.place("a"):
        pass
    assert caught.value.retry_after == 4.0


def test_a_place_is_given_back_whatever_happens_inside() -> None:
    admission = Admission(AdmissionRules(searches=1))
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), admission.place("a"):
            raise error
    with admission.place("a"):
        assert admission.running == 1


def test_slow_searches_take_places_away_once_and_timely_ones_bring_them_back() -> None:
    clock = FakeClock()
    admission = Admission(AdmissionRules(searches=20, slow=1.0), clock)

    def together(count: int, seconds: float) -> None:
        with ExitStack() as stack:
            for number in range(count):
                stack.enter_context(admission.place(f"tenant {number}"))
            clock.now += seconds

    together(20, 5.0)
    # All twenty were slow for one reason.
    assert (admission.places, admission.per_tenant) == (16, 8)
    together(16, 5.0)
    assert admission.places == 12
    for _ in range(30):
        together(1, 5.0)
    assert (admission.places, admission.per_tenant) == (2, 1)
    with pytest.raises(OverloadedError):
        together(3, 0.1)
    together(1, 0.1)
    for _ in range(300):
        together(1, 0.1)
    assert admission.places == 20
    together(20, 0.1)


def test_seconds_aside_do_not_make_a_search_slow() -> None:
    clock = FakeClock()
    admission = Admission(AdmissionRules(searches=10, slow=1.0), clock)
    with admission.place("a") as held:
        clock.now += 5.0
        held.aside = 4.5
    assert admission.places == 10
    with admission.place("a") as held:
        clock.now += 5.0
        held.aside = 3.5
    assert admission.places == 8


def test_what_fails_at_once_brings_no_place_back() -> None:
    clock = FakeClock()
    admission = Admission(AdmissionRules(searches=10, slow=1.0), clock)
    with admission.place("a"):
        clock.now += 2.0
    for _ in range(50):
        with pytest.raises(ValueError, match="at once"), admission.place("a"):
            raise ValueError("at once")
    assert admission.places == 8


@given(st.integers(1, 8), st.floats(0.05, 1.0), st.lists(st.sampled_from("abc"), max_size=30))
def test_never_more_than_the_bounds_and_nobody_is_refused_below_them(
    searches: int, share: float, tenants: list[str]
) -> None:
    admission = Admission(AdmissionRules(searches, share))
    held = dict.fromkeys("abc", 0)
    with ExitStack() as stack:
        for tenant in tenants:
            full, busy = sum(held.values()) == searches, held[tenant] == admission.per_tenant
            refusal = OverloadedError if full else TenantBusyError if busy else None
            with pytest.raises(refusal) if refusal else nullcontext() as caught:
                stack.enter_context(admission.place(tenant))
            if caught is None:
                held[tenant] += 1
            else:
                assert type(caught.value) is refusal
    assert admission.running == 0


@pytest.mark.parametrize(("searches", "share"), [(0, 0.5), (4, 0.0), (4, 1.5)])
def test_rules_out_of_bounds(searches: int, share: float) -> None:
    with pytest.raises(UsageError):
        AdmissionRules(searches, share)


def test_errors_keep_their_seconds_across_processes() -> None:
    error = pickle.loads(pickle.dumps(TenantBusyError("busy", "wait", 7.0)))
    assert (type(error), error.message, error.remedy, error.retry_after) == (TenantBusyError, "busy", "wait", 7.0)

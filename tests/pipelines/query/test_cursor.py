"""Tokens: what goes in comes out, and nothing that was not sealed here, in time, for this caller and request."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.config.model import SearchSection
from m3core.errors import UsageError
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.types import Identity, Signal
from pipelines.query.answer import Coverage, Origin
from pipelines.query.cursor import Cursors, Frozen, FrozenChunk, FrozenDocument, FrozenScore, binding
from pipelines.query.errors import CursorError
from pipelines.query.plan import make_plan
from pipelines.query.request import Fusion, SearchRequest
from pipelines.state.collection import Generation, StoreBinding

STAFF = Identity("acme", ("staff", "hr"))
KEY = b"k" * 32


@dataclass
class FakeClock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


FLOATS = st.floats(-2, 2, allow_nan=False)
IDS = st.uuids().map(str)
SCORES = st.one_of(
    st.builds(FrozenScore, FLOATS, st.integers(1, 20_000), st.sampled_from([Origin.RETRIEVED, Origin.COMPLETED])),
    st.just(FrozenScore(None, None, Origin.MISSING)),
)
CHUNKS = st.builds(FrozenChunk, IDS, FLOATS, st.tuples(SCORES, SCORES))
DOCUMENTS = st.builds(
    FrozenDocument,
    CHUNKS,
    st.lists(CHUNKS, max_size=2).map(tuple),
    st.lists(IDS, max_size=2).map(tuple),
    st.integers(0),
)
FROZEN = st.builds(
    Frozen,
    generation=st.integers(1, 9),
    created=st.text(max_size=20),
    next=st.integers(0, 2000),
    weights=st.just({Signal.DENSE: 0.6, Signal.MULTI: 0.4}),
    coverage=st.dictionaries(st.sampled_from(list(Signal)), st.sampled_from(list(Coverage))),
    candidates=st.integers(0, 400),
    documents=st.lists(DOCUMENTS, max_size=5).map(tuple),
)


@given(FROZEN, st.text("0123456789abcdef", min_size=4, max_size=8))
def test_what_is_sealed_comes_back_exactly(frozen: Frozen, bound: str) -> None:
    clock = FakeClock()
    token = Cursors(KEY, 900.0, clock).seal(frozen, bound)
    opened = Cursors(KEY, 900.0, clock).open(token)
    assert (opened.frozen, opened.bound, opened.expires) == (frozen, bound, 1_900.0)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


SMALL = Frozen(
    3, "2026", 10, {Signal.DENSE: 1.0}, {Signal.DENSE: Coverage.OK}, 7,
    (FrozenDocument(FrozenChunk(str(UUID(int=5)), 0.5, (FrozenScore(0.5, 1, Origin.RETRIEVED),))),),
)  # fmt: skip


@given(st.integers(0, 1_000), st.integers(1, 255))
def test_no_changed_token_is_opened(anywhere: int, flipped: int) -> None:
    cursors = Cursors(KEY)
    raw = bytearray(base64.urlsafe_b64decode(cursors.seal(SMALL, "b") + "=="))
    place = anywhere % len(raw)
    raw[place] ^= flipped
    for changed in (bytes(raw), bytes(raw[:place]), bytes(raw) + b"x"):
        with pytest.raises(CursorError, match="not made here, or was changed"):
            cursors.open(base64.urlsafe_b64encode(changed).decode().rstrip("="))


@given(st.text(max_size=60))
def test_no_other_text_is_opened(text: str) -> None:
    with pytest.raises(CursorError, match="not made here, or was changed"):
        Cursors(KEY).open(text)


def test_another_key_does_not_open_it_and_the_default_key_is_each_processes_own() -> None:
    for other in (Cursors(b"j" * 32), Cursors()):
        with pytest.raises(CursorError):
            other.open(Cursors(KEY).seal(SMALL, "b"))
    with pytest.raises(UsageError, match="has 31 bytes; at least 32"):
        Cursors(b"k" * 31)
    assert "kkk" not in repr(Cursors(KEY))


def test_a_token_is_good_for_its_scope_only() -> None:
    token = Cursors(KEY, scope="handbook").seal(SMALL, "b")
    assert Cursors(KEY, scope="handbook").open(token).frozen == SMALL
    for scope in ("", "handboo", "handbook2"):
        with pytest.raises(CursorError, match="not made here"):
            Cursors(KEY, scope=scope).open(token)


def test_it_expires_and_leafing_does_not_prolong_it() -> None:
    clock = FakeClock()
    cursors = Cursors(KEY, 900.0, clock)
    token = cursors.seal(SMALL, "b")
    clock.now += 800
    opened = cursors.open(token)
    following = cursors.seal(SMALL, opened.bound, opened.expires)
    clock.now += 99.9
    cursors.open(following)
    clock.now += 0.1
    for expired in (token, following):
        with pytest.raises(CursorError, match="the cursor has expired: it can be used for 900 s"):
            cursors.open(expired)


def bound_of(request: SearchRequest, generation: int = 3, **search: Any) -> str:
    stores = (StoreBinding("main", "memory", ("dense", "lexical", "multi"), True),)
    built = Generation(
        generation, "c", "float-0", "tiny", 8, 4, {"year": "integer"}, stores, "live", "2026-01-01T00:00:00Z"
    )
    return binding(
        request.identity, request.query, make_plan(request, built, BUILT_IN_PRESETS, SearchSection(**search))
    )


REQUEST = SearchRequest("night train", STAFF, limit=5, paged=True)


@pytest.mark.parametrize(
    "changes",
    [{"limit": 50}, {"timeout": 3.0}, {"explain": True}, {"identity": Identity("acme", ("hr", "staff", "hr"))},
     {"cursor": "x", "paged": False}],
)  # fmt: skip
def test_what_a_page_may_choose(changes: Mapping[str, Any]) -> None:
    assert bound_of(replace(REQUEST, **changes)) == bound_of(REQUEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"query": "night trains"},
        {"identity": Identity("other", ("staff", "hr"))},
        {"identity": Identity("acme", ("staff",))},
        {"filter": "year > 2020"},
        {"preset": "dense-only"},
        {"weights": Weights(1, 1, 1)},
        {"signals": (Signal.DENSE,)},
        {"min_score": 0.1},
        {"chunks": 2},
        {"once": False},
        {"quotes": False, "query": '"night train"'},
        {"fusion": Fusion.RECIPROCAL_RANK},
        {"require": (Signal.DENSE,)},
    ],
)
def test_what_belongs_to_the_cursor(changes: Mapping[str, Any]) -> None:
    cursors = Cursors(KEY)
    opened = cursors.open(cursors.seal(SMALL, bound_of(REQUEST)))
    opened.check(bound_of(REQUEST))
    with pytest.raises(CursorError, match="of another caller or another request"):
        opened.check(bound_of(replace(REQUEST, **changes)))
    with pytest.raises(CursorError):
        opened.check(bound_of(REQUEST, generation=4))

"""Looking at a store without changing it: what it says of itself, and whether a generation is there as it should be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from connectors.protocol import ExaminedSink
from m3core.errors import StoreError
from tests.conformance.data import DENSE_DIM, make_rows
from tests.conformance.store import Store


@contextmanager
def examined(store: Store) -> Iterator[ExaminedSink]:
    with closing(store.opened()) as sink:
        assert isinstance(sink, ExaminedSink)
        yield sink


def test_a_store_tells_its_version_clock_and_disk(store: Store) -> None:
    with examined(store) as sink:
        facts = sink.facts()
    assert any(char.isdigit() for char in facts.version)
    assert facts.clock is None or abs(facts.clock - time.time()) < 60
    assert (facts.free_bytes is None) == (facts.total_bytes is None)
    if facts.free_bytes is not None and facts.total_bytes is not None:
        assert 0 < facts.free_bytes <= facts.total_bytes
    for limit in facts.limits:
        assert limit.value >= limit.least > 0


def test_verifying_makes_nothing(store: Store) -> None:
    for _ in range(2):
        with examined(store) as sink:
            assert not sink.verify()
    store.write(make_rows(2))
    with examined(store) as sink:
        assert sink.verify()
    with closing(store.opened()) as sink:
        sink.drop()
    with examined(store) as sink:
        assert not sink.verify()


def test_a_generation_that_differs_is_said_so(store: Store) -> None:
    store.write(make_rows(1))
    changed = Store.of(store.kind, store.root, dense_dim=DENSE_DIM + 1)
    with examined(changed) as sink, pytest.raises(StoreError, match=r"dense_dim 32, not 33|another schema"):
        sink.verify()
    assert len(store.listed()) == 1

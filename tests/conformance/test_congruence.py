"""The router's plan on every store and on the oracle: the same candidates, scores and order; equal within the stored
form's tolerance counts as a tie. The oracle holds what the store holds: fp16 vectors, fp32 weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, seed, settings

from connectors.filters.tree import Filter
from connectors.protocol import Scored
from m3core.types import Row, Signal
from tests.conformance.data import make_query, make_rows
from tests.conformance.store import Store, quick_folder
from tests.conformance.test_searching import TOLERANCE
from tests.conformance.trees import trees

_CANDIDATES = 100
_SCORED = 60
_BATCH = 1000
Pair = tuple[Store, Store]


def _filled(kind: str, folder: Path, rows: Sequence[Row]) -> Iterator[Pair]:
    store = Store.of(kind, folder / "store")
    oracle = Store.of("memory", folder / "oracle", signals=store.schema.signals)

    def load(sink: object) -> None:
        for start in range(0, len(rows), _BATCH):
            result = sink.write(rows[start : start + _BATCH])  # type: ignore[attr-defined]
            assert result.failures == ()

    for each in (store, oracle):
        each.change(load)
    yield store, oracle
    store.close()
    oracle.close()


@pytest.fixture(scope="module")
def some(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with quick_folder(tmp_path_factory.mktemp("some")) as folder:
        yield from _filled(kind, folder, make_rows(400, seed=8))


@pytest.fixture(scope="module")
def many(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with quick_folder(tmp_path_factory.mktemp("many")) as folder:
        yield from _filled(kind, folder, make_rows(20_000, seed=9))


def assert_same(found: Sequence[Scored], expected: Sequence[Scored], tolerance: float) -> None:
    """The same rows with the same scores, best first; only what ties may change places, also at the cut."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=tolerance)
    wanted = {hit.id: hit.score for hit in expected}
    for hit in found:
        assert hit.score == pytest.approx(wanted.get(hit.id, expected[-1].score), abs=2 * tolerance)


def check(pair: Pair, where: Filter, number: int) -> None:
    """Candidates by every signal that finds some, then the scores of them all."""
    store, oracle = pair
    query, tolerances = make_query(number), TOLERANCE[store.kind]
    candidates: list[str] = []
    for signal in set(store.signals) - {Signal.MULTI}:  # which only scores: `search(multi)` may read every row
        found, expected = (each.search(signal, query, where, _CANDIDATES) for each in pair)
        assert_same(found, expected, tolerances[signal])
        candidates += [hit.id for hit in found]
    ids = sorted(set(candidates))[:_SCORED]
    for signal in store.signals:
        expected_scores = oracle.score(signal, query, ids, where)
        assert store.score(signal, query, ids, where) == pytest.approx(expected_scores, abs=tolerances[signal])


@given(where=trees())
@settings(max_examples=12)
def test_a_plan_gives_what_it_gives_on_the_oracle(some: Pair, where: Filter) -> None:
    check(some, where, 3)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(5))
def test_a_plan_on_twenty_thousand_rows_gives_what_it_gives_on_the_oracle(many: Pair, number: int) -> None:
    @seed(number)
    @given(where=trees())
    @settings(max_examples=12, derandomize=False, database=None)
    def campaign(where: Filter) -> None:
        check(many, where, number)

    campaign()


@pytest.mark.nightly
def test_dense_recall_of_twenty_thousand_rows_is_whole(many: Pair) -> None:
    """What approximates declares it; at its defaults it still finds 99 of 100."""
    if Signal.DENSE not in many[0].signals:
        pytest.skip(f"{many[0].kind} declares no dense vectors")
    hits = [
        [{hit.id for hit in each.search(Signal.DENSE, make_query(number), limit=10)} for each in many]
        for number in range(100, 150)
    ]
    assert sum(len(found & expected) for found, expected in hits) / (10 * len(hits)) >= 0.99

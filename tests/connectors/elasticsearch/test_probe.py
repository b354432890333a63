"""The probe at first contact, on the real server: with its own default it would prune, and that is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from elasticsearch import Elasticsearch

from connectors.elasticsearch import probe
from connectors.elasticsearch.client import open_client
from m3core.errors import LockedError, StoreError
from tests.conformance.store import Store

pytestmark = pytest.mark.xdist_group("elasticsearch")


@pytest.fixture
def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elasticsearch]:
    monkeypatch.setattr(probe, "_proven", set())
    opened = open_client(store.options)
    yield opened
    assert opened.indices.get(index=f"{store.options.connection.prefix}*").body == {}  # nothing is left behind
    opened.close()


def test_a_server_that_keeps_dot_products_passes_once(client: Elasticsearch, store: Store) -> None:
    probe.prove(client, "cluster", "9.5.3", store.options)
    assert probe._proven == {("cluster", "9.5.3")}
    probe.prove(None, "cluster", "9.5.3", store.options)  # type: ignore[arg-type]  # not asked again


def test_a_server_that_prunes_is_refused_loudly(
    client: Elasticsearch, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_PRUNE", True)
    with pytest.raises(StoreError, match=r"version 9\.5\.3 scored [0-9.]+ where the dot product is [0-9.]+"):
        probe.prove(client, "cluster", "9.5.3", store.options)
    assert probe._proven == set()


def test_weights_that_are_not_rounded_first_would_not_pass(
    client: Elasticsearch, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "rounded", lambda weights: weights)
    with pytest.raises(StoreError, match="where the dot product is"):
        probe.prove(client, "cluster", "9.5.3", store.options)


def test_the_lease_is_checked_first(client: Elasticsearch, store: Store) -> None:
    def lost() -> None:
        raise LockedError("the lease was lost")

    options = store.options
    object.__setattr__(options, "before_request", lost)
    with pytest.raises(LockedError):
        probe.prove(client, "cluster", "9.5.3", options)

"""Reaching the server: keys, certificates, versions, and errors that name the remedy and no secret."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.elasticsearch.client import check_version, error_type, open_client
from connectors.elasticsearch.sink import ElasticsearchSink
from connectors.protocol import Connection, RefusedByStoreError, StoreOptions, StoreTimeoutError
from connectors.registry import open_searcher
from m3core.errors import ConfigError, M3Error, StoreError
from tests.conformance.data import make_rows
from tests.conformance.store import Store
from tests.servers.certificates import self_signed
from tests.servers.faults import Answer, FaultProxy, Freeze, fault_proxy
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = pytest.mark.xdist_group("elasticsearch")

CANARY = "canary-4711-secret"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    try:
        return self_signed(tmp_path_factory.mktemp("tls"))
    except MissingPartError as missing:
        skip_or_fail(missing)


@pytest.fixture
def guarded(server: str) -> Iterator[FaultProxy]:
    """The server behind a proxy that asks for an API key."""
    with fault_proxy(server, api_key=CANARY) as proxy:
        yield proxy


def reach(store: Store, url: str, **settings: str) -> StoreOptions:
    connection = replace(store.options.connection, url=url, **settings)
    return replace(store.options, name="text", connection=connection)


def ensure(options: StoreOptions) -> None:
    sink = ElasticsearchSink(options)
    try:
        sink.ensure(options.schema)
    finally:
        sink.close()


def test_a_key_by_reference_opens_the_server(
    store: Store, guarded: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ES_KEY", CANARY)
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    for reference in ("env:ES_KEY", f"file:{file}"):
        options = reach(store, guarded.url, api_key=reference)
        sink = ElasticsearchSink(options)
        sink.ensure(options.schema)
        assert sink.write(make_rows(3)).acknowledged == 3
        for shown in (repr(sink), repr(options), pickle.dumps(options).decode("latin-1"), str(sink.__dict__)):
            assert CANARY not in shown
        sink.close()
    assert guarded.requests
    assert CANARY not in caplog.text


@pytest.mark.parametrize("key", ["wrong", CANARY + "x"])
def test_a_wrong_key_is_named_by_its_setting_only(
    store: Store, guarded: FaultProxy, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ES_KEY", key)
    with pytest.raises(StoreError, match=r"refused our credentials \(401\)") as caught:
        ensure(reach(store, guarded.url, api_key="env:ES_KEY"))
    assert "stores.text.api_key" in caught.value.remedy
    assert key not in str(caught.value)
    with pytest.raises(StoreError, match="refused our credentials"):
        ensure(reach(store, guarded.url))


def test_a_key_that_expires_during_a_load_loses_nothing_and_the_next_key_goes_on(
    store: Store, guarded: FaultProxy, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(CANARY)
    options, rows = reach(store, guarded.url, api_key=f"file:{file}"), make_rows(12)
    sink = ElasticsearchSink(options)
    sink.ensure(options.schema)
    assert sink.write(rows[:6]).acknowledged == 6
    guarded.api_key = "the-next-key"
    with pytest.raises(StoreError, match=r"refused our credentials \(401\)") as caught:
        sink.write(rows[6:])
    assert "stores.text.api_key" in caught.value.remedy
    assert CANARY not in str(caught.value)
    sink.close()
    file.write_text("the-next-key")
    again = ElasticsearchSink(options)
    assert dict(again.scan()).keys() == {row.chunk.id for row in rows[:6]}
    assert again.write(rows[6:]).acknowledged == 6
    assert again.count() == 12
    again.close()


def test_a_search_with_a_wrong_key_is_the_same_error(
    store: Store, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ES_KEY", "wrong")
    store.write(make_rows(1))
    other = Store.of("elasticsearch", store.root)
    options = reach(store, guarded.url, api_key="env:ES_KEY")
    loop_store = _Through(other, options)
    with pytest.raises(StoreError, match=r"refused our credentials \(401\)"):
        loop_store.count()
    loop_store.close()


class _Through(Store):
    """A store whose requests take another way."""

    def __init__(self, store: Store, options: StoreOptions) -> None:
        super().__init__(store.kind, store.root, store.schema)
        self._way = options

    @property
    def options(self) -> StoreOptions:
        return self._way


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "env:NOT_SET_ANYWHERE"}, "stores.text.api_key: the variable 'NOT_SET_ANYWHERE' is not set"),
        ({"api_key": "file:/nowhere/key"}, "stores.text.api_key: the file '/nowhere/key'"),
        ({"api_key": CANARY}, "stores.text.api_key is no reference to a secret"),
        ({"username": "m3", "password": CANARY}, "stores.text.password is no reference to a secret"),
        ({"url": f"http://m3:{CANARY}@127.0.0.1:9200"}, r"stores.text.url is not http\(s\)://HOST:PORT"),
        ({"url": ""}, "stores.text.url is not"),
        ({"url": "http://es.example.org:9200", "api_key": "env:ES_KEY"}, "would send a secret over http"),
        ({"url": "https://127.0.0.1:1", "ca": "/nowhere/ca.pem"}, "stores.text.ca: there is no file"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_never_shown(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ES_KEY", CANARY)
    schema = Store.of("elasticsearch", tmp_path).schema
    options = StoreOptions("text", tmp_path, schema, connection=Connection(**{"url": "http://127.0.0.1:9", **settings}))
    with pytest.raises(ConfigError, match=message) as caught:
        open_client(options)
    assert CANARY not in str(caught.value)


def test_tls_needs_a_certificate_that_is_trusted(store: Store, server: str, certificate: tuple[str, str]) -> None:
    with fault_proxy(server, certificate=certificate) as proxy:
        with pytest.raises(StoreError, match="certificate that is not trusted") as caught:
            ensure(reach(store, proxy.url))
        assert caught.value.remedy == "set stores.text.ca"
        assert proxy.requests == []
        options = reach(store, proxy.url, ca=certificate[0])
        ensure(options)
        through = _Through(store, options)
        through.write(make_rows(4))
        assert through.count() == 4
        through.close()


def test_a_server_that_is_not_there_is_an_error_with_its_address(store: Store) -> None:
    options = reach(store, "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"store 'text': the server at 127\.0\.0\.1:9 cannot be reached"):
        ensure(options)
    through = _Through(store, options)
    with pytest.raises(StoreError, match="cannot be reached"):
        through.count()
    through.close()


def test_a_frozen_server_ends_at_the_deadline_of_the_query(store: Store, server: str) -> None:
    store.write(make_rows(2))
    frozen = False
    with fault_proxy(server, lambda method, path: Freeze(6.0, forward=False) if frozen else None) as proxy:
        through = _Through(store, reach(store, proxy.url))
        assert through.count() == 2  # connected, so that the deadline is the server's alone
        asked, frozen = len(proxy.requests), True
        with pytest.raises(StoreTimeoutError, match=r"did not answer within 2 s"):
            through.ask(lambda searcher: searcher.count(_everything(), 2.0))
        through.close()
        assert len(proxy.requests) == asked + 1  # asked once: a second attempt would double the wait


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_search_that_is_refused_is_asked_once_and_names_the_type(store: Store, server: str, status: int) -> None:
    store.write(make_rows(2))
    with fault_proxy(server, lambda method, path: Answer(status, type="circuit_breaking_exception")) as proxy:
        through = _Through(store, reach(store, proxy.url))
        with pytest.raises(StoreError, match=f"{status} circuit_breaking_exception") as caught:
            through.count()
        assert isinstance(caught.value, RefusedByStoreError) == (status == 400)
        through.close()
        assert len(proxy.requests) == 1


def test_before_the_first_run_a_search_says_what_to_do(store: Store) -> None:
    with pytest.raises(StoreError, match="has no index") as caught:
        store.count()
    assert caught.value.remedy == "run m3 ingest first"


@pytest.mark.parametrize("number", ["8.14.3", "7.17.9", "", "x.y", "8"])
def test_a_version_below_the_floor_is_refused(store: Store, number: str) -> None:
    with pytest.raises(StoreError, match=r"not 8\.15 or newer"):
        check_version({"version": {"number": number}}, store.options)


def test_versions_from_the_floor_on_are_taken(store: Store) -> None:
    for number in ("8.15.0", "8.19.21", "9.0.0-SNAPSHOT", "10.1.0"):
        assert check_version({"version": {"number": number}}, store.options) == number


def test_a_servers_words_are_never_quoted(store: Store, server: str) -> None:
    assert error_type({"error": {"type": "mapper_parsing_exception", "reason": CANARY}}) == "mapper_parsing_exception"
    assert error_type({"type": f"odd {CANARY}"}) == "unknown error"
    assert error_type(CANARY) == "unknown error"
    with fault_proxy(server, lambda method, path: Answer(400, type="x_exception")) as proxy:
        with pytest.raises(M3Error) as caught:
            ensure(reach(store, proxy.url))
        assert "on purpose" not in str(caught.value)


def test_closing_twice_is_no_error(store: Store) -> None:
    searcher = open_searcher("elasticsearch", store.options)
    store.ask(lambda _: searcher.aclose())
    store.ask(lambda _: searcher.aclose())


def _everything() -> object:
    from connectors.filters.tree import Everything

    return Everything()

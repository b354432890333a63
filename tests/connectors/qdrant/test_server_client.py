"""Reaching a Qdrant server: keys, certificates, versions, and errors that name the remedy and no secret."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.filters.tree import Everything
from connectors.protocol import Connection, RefusedByStoreError, StoreOptions, StoreTimeoutError
from connectors.qdrant.server.client import open_async_client, open_client
from connectors.qdrant.server.sink import QdrantSink
from m3core.errors import ConfigError, StoreError
from tests.conformance.data import SCHEMA, make_rows
from tests.conformance.store import Store
from tests.servers.certificates import self_signed
from tests.servers.faults import Answer, Freeze, Reset, fault_proxy
from tests.servers.missing import MissingPartError, skip_or_fail
from tests.servers.qdrant import QdrantStandIn, qdrant_stand_in
from tests.servers.running import Servers

CANARY = "canary-4711-secret"
pytestmark = pytest.mark.xdist_group("qdrant")


class Through(Store):
    """A store with settings of its own."""

    def __init__(self, root: Path, **settings: str) -> None:
        super().__init__("qdrant", root, SCHEMA)
        self._connection = Connection(**settings)

    @property
    def options(self) -> StoreOptions:
        return replace(super().options, name="vectors", connection=self._connection)


@pytest.fixture
def guarded(tmp_path: Path) -> object:
    with qdrant_stand_in(api_key=CANARY) as server:
        yield server


def test_a_key_by_reference_opens_the_server(
    guarded: QdrantStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("QDRANT_KEY", CANARY)
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    for reference in ("env:QDRANT_KEY", f"file:{file}"):
        store = Through(tmp_path, url=guarded.url, api_key=reference)
        assert store.write(make_rows(3)).acknowledged == 3
        assert store.count() == 3
        for shown in (repr(store.options), pickle.dumps(store.options).decode("latin-1"), repr(store.sink().__dict__)):
            assert CANARY not in shown
        store.close()
    assert CANARY not in caplog.text


@pytest.mark.parametrize("settings", [{"api_key": "env:QDRANT_KEY"}, {}])
def test_a_wrong_or_missing_key_is_named_by_its_setting_only(
    guarded: QdrantStandIn, tmp_path: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_KEY", "wrong-canary")
    store = Through(tmp_path, url=guarded.url, **settings)
    for ask in (store.sink, store.count):
        with pytest.raises(StoreError, match=r"refused our credentials \(401\)") as caught:
            ask()
        assert "wrong-canary" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        store.count()
    assert caught.value.remedy == "give it a key that may use m3_docs_g00001: stores.vectors.api_key"
    store.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "env:NOT_SET_ANYWHERE"}, "stores.vectors.api_key: the variable 'NOT_SET_ANYWHERE' is not set"),
        ({"api_key": CANARY}, "stores.vectors.api_key is no reference to a secret"),
        ({"username": "m3", "password": "env:QDRANT_KEY"}, "stores.vectors.username is set; Qdrant knows keys only"),
        ({"url": "http://q.example.org", "api_key": "env:QDRANT_KEY"}, "would send a secret over http"),
        ({"url": "https://127.0.0.1:1", "ca": "/nowhere/ca.pem"}, "stores.vectors.ca: there is no file"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_never_shown(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QDRANT_KEY", CANARY)
    options = Through(tmp_path, **{"url": "http://127.0.0.1:9", **settings}).options
    for opened in (open_client, open_async_client):
        with pytest.raises(ConfigError, match=message) as caught:
            opened(options)
        assert CANARY not in str(caught.value)


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"stores\.vectors\.ca: .* has no certificates"):
        open_client(Through(tmp_path, url="https://127.0.0.1:1", ca=str(tmp_path / "ca.pem")).options)


def test_tls_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    try:
        certificate = self_signed(tmp_path)
    except MissingPartError as missing:
        skip_or_fail(missing)
    with qdrant_stand_in(certificate=certificate) as server:
        store = Through(tmp_path, url=server.url)
        for ask in (store.sink, store.count):
            with pytest.raises(StoreError, match="certificate that is not trusted") as caught:
                ask()
            assert caught.value.remedy == "set stores.vectors.ca"
        store.close()
        sink = QdrantSink(store.options)
        with pytest.raises(StoreError, match="certificate that is not trusted"):
            sink.write(make_rows(1))  # at once: it is no fault that passes
        sink.close()
        assert server.requests == []
        trusting = Through(tmp_path, url=server.url, ca=certificate[0])
        trusting.write(make_rows(4))
        assert trusting.count() == 4
        trusting.close()


def test_a_server_that_is_not_there_is_an_error_with_its_address(tmp_path: Path) -> None:
    store = Through(tmp_path, url="http://127.0.0.1:9")
    for ask in (store.sink, store.count):
        with pytest.raises(StoreError, match=r"store 'vectors': the server at 127\.0\.0\.1:9 cannot be reached"):
            ask()
    store.close()


@pytest.mark.parametrize("version", ["1.15.4", "0.11.0", "", "x.y"])
def test_a_version_below_the_floor_is_refused(tmp_path: Path, version: str) -> None:
    with qdrant_stand_in(version=version) as server:
        store = Through(tmp_path, url=server.url)
        with pytest.raises(StoreError, match=r"not Qdrant 1\.16 or newer"):
            store.sink()
        store.close()


def test_another_server_is_refused_by_its_title(tmp_path: Path) -> None:
    with fault_proxy("http://127.0.0.1:9", lambda method, path: Answer(200)) as proxy:
        store = Through(tmp_path, url=proxy.url)
        with pytest.raises(StoreError, match=r"an answer that cannot be read|not Qdrant"):
            store.sink()
        store.close()


def test_a_frozen_server_ends_at_the_deadline_of_the_query(servers: Servers, tmp_path: Path) -> None:
    with fault_proxy(servers.need("qdrant"), lambda method, path: Freeze(3.0, forward=False)) as proxy:
        store = Through(tmp_path, url=proxy.url)
        with pytest.raises(StoreTimeoutError, match=r"did not answer within 0\.4 s"):
            store.ask(lambda searcher: searcher.count(Everything(), 0.4))
        store.close()
        assert len(proxy.requests) == 1  # asked once: a second attempt would double the wait


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Answer(429), "is busy"),
        (Answer(429, retry_after=3), "is busy"),
        (Answer(400), r"refuses this request \(400\)"),
        (Answer(503), r"failed a request \(503\)"),
        (Reset("before"), "closed the connection"),
    ],
)
def test_a_search_that_is_refused_is_asked_once(servers: Servers, tmp_path: Path, fault: object, message: str) -> None:
    with fault_proxy(servers.need("qdrant"), lambda method, path: fault) as proxy:  # type: ignore[arg-type,return-value]
        store = Through(tmp_path, url=proxy.url)
        with pytest.raises(StoreError, match=message) as caught:
            store.count()
        assert "on purpose" not in str(caught.value)
        assert isinstance(caught.value, RefusedByStoreError) == ("refuses" in message)
        store.close()
        assert len(proxy.requests) == 1


def test_before_the_first_run_a_search_says_what_to_do(servers: Servers, tmp_path: Path) -> None:
    store = Store("qdrant", tmp_path, SCHEMA)
    servers.need("qdrant")
    with pytest.raises(StoreError, match="has no collection") as caught:
        store.count()
    assert caught.value.remedy == "run m3 ingest first"
    store.close()

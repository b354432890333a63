"""Reaching the server: addresses, secrets, versions, deadlines, and errors that quote nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from pymilvus import MilvusException
from pymilvus.exceptions import DataNotMatchException

from connectors.filters.tree import Equals, Everything
from connectors.milvus.client import Milvus, check_version, collection_name
from connectors.milvus.codes import Code, code_of
from connectors.milvus.sink import MilvusSink
from connectors.protocol import Connection, StoreOptions, StoreTimeoutError
from connectors.registry import open_searcher
from m3core.errors import ConfigError, StoreError
from m3core.types import Signal
from tests.conformance.data import make_query, make_rows, with_chunk
from tests.conformance.store import Store
from tests.servers.milvus import MilvusServer, start_milvus
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = pytest.mark.xdist_group("milvus")

CANARY = "canary-4711-secret"


class Through(Store):
    """A store on a server of the test's own."""

    def __init__(self, root: Path, server: MilvusServer) -> None:
        super().__init__("milvus", root, Store.of("milvus", root).schema)
        self._url = server.url

    @property
    def options(self) -> StoreOptions:
        return replace(super().options, connection=Connection(self._url))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MilvusServer]:
    """A server that the test may stop, freeze and start again."""
    try:
        server = start_milvus(tmp_path / "server")
    except MissingPartError as missing:
        skip_or_fail(missing)
    yield server
    server.process.stop()


def options(tmp_path: Path, **settings: str) -> StoreOptions:
    connection = Connection(**{"url": "http://127.0.0.1:9", **settings})
    return StoreOptions("vectors", tmp_path, Store.of("milvus", tmp_path).schema, connection=connection)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "env:NOT_SET_ANYWHERE"}, "stores.vectors.api_key: the variable 'NOT_SET_ANYWHERE' is not set"),
        ({"api_key": CANARY}, "stores.vectors.api_key is no reference to a secret"),
        ({"username": "m3", "password": CANARY}, "stores.vectors.password is no reference to a secret"),
        ({"url": f"http://m3:{CANARY}@127.0.0.1:19530"}, r"stores.vectors.url is not http\(s\)://HOST:PORT"),
        ({"url": "ftp://127.0.0.1:19530"}, r"stores.vectors.url is not http\(s\)://HOST:PORT"),
        ({"url": "./milvus.db"}, 'set kind = "milvus-lite" and no url'),
        ({"url": "http://127.0.0.1:19530/default"}, "stores.vectors.url has a path"),
        ({"url": "http://milvus.example.org:19530", "api_key": "env:KEY"}, "would send a secret over http"),
        ({"url": "https://127.0.0.1:1", "ca": "/nowhere/ca.pem"}, "stores.vectors.ca: there is no file"),
        ({"prefix": "a-b_"}, "stores.vectors.prefix 'a-b_': names of Milvus have letters"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_never_shown(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KEY", CANARY)
    with pytest.raises(ConfigError, match=message) as caught:
        MilvusSink(options(tmp_path, **settings)).count()
    assert CANARY not in str(caught.value)


def test_the_prefix_stands_in_front_of_the_physical_name(tmp_path: Path) -> None:
    assert collection_name(options(tmp_path, prefix="team_")) == "team_m3_docs_g00001"


@pytest.mark.parametrize("version", ["v2.6.3", "2.5.14", "v2.6", "milvus_lite-3.1.9", "", "unknown"])
def test_a_version_below_the_floor_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="or newer"):
        check_version(version, options(tmp_path))


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        ("v2.6.4", "2.6.4"),
        ("2.6.10-dev", "2.6.10-dev"),
        ("v3.0.0", "3.0.0"),
        ("milvus_lite-3.2.2", "3.2.2 (Milvus Lite)"),
        ("milvus_lite-4.0", "4.0 (Milvus Lite)"),
    ],
)
def test_versions_from_the_floor_on_are_taken(version: str, shown: str, tmp_path: Path) -> None:
    assert check_version(version, options(tmp_path)) == shown


class _Status(grpc.RpcError):
    def __init__(self, status: grpc.StatusCode) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (_Status(grpc.StatusCode.DEADLINE_EXCEEDED), Code.LATE),
        (_Status(grpc.StatusCode.UNAUTHENTICATED), Code.REFUSED_US),
        (_Status(grpc.StatusCode.RESOURCE_EXHAUSTED), Code.TOO_LARGE),
        (MilvusException(grpc.StatusCode.UNAVAILABLE, CANARY), Code.UNREACHABLE),
        (MilvusException(2, CANARY), Code.UNREACHABLE),
        (MilvusException(8, CANARY), Code.BUSY),
        (MilvusException(9, CANARY), Code.OTHER),
        (MilvusException(65535, CANARY, retriable=True), Code.BUSY),
        (MilvusException(100, CANARY), Code.NO_COLLECTION),
        (MilvusException(101, CANARY), Code.NOT_LOADED),
        (MilvusException(1100, CANARY), Code.BAD_INPUT),
        (DataNotMatchException(1, CANARY), Code.BAD_INPUT),
        (ValueError(CANARY), Code.OTHER),
    ],
)
def test_a_failure_is_known_by_its_code_and_never_quoted(error: Exception, code: Code, tmp_path: Path) -> None:
    assert code_of(error) is code
    if isinstance(error, ValueError):
        return

    def failing(*_: object) -> None:
        raise error

    server = Milvus(options(tmp_path))
    server._client = lambda seconds: object()  # type: ignore[method-assign,assignment]
    if code is Code.NOT_LOADED:
        return  # asked again after loading: below, on a real server
    with pytest.raises(StoreError) as caught:
        server.ask(failing)
    assert CANARY not in str(caught.value)
    assert isinstance(caught.value, StoreTimeoutError) == (code is Code.LATE)


def test_a_server_that_is_not_there_is_an_error_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store 'vectors': the server at 127\.0\.0\.1:9 cannot be reached"):
        MilvusSink(options(tmp_path)).count()


def test_before_the_first_run_a_search_says_what_to_do(store: Store) -> None:
    with pytest.raises(StoreError, match="has no collection") as caught:
        store.count()
    assert caught.value.remedy == "run m3 ingest first"


def test_a_frozen_server_ends_at_the_deadline_of_the_query(own: MilvusServer, tmp_path: Path) -> None:
    with closing(Through(tmp_path / "store", own)) as store:
        store.write(make_rows(4))
        assert store.count() == 4
        # It is still frozen when the error comes.
        with own.process.frozen(), pytest.raises(StoreTimeoutError, match=r"did not answer within 0\.5 s"):
            store.ask(lambda searcher: searcher.count(Everything(), 0.5))
        assert store.count() == 4


def test_a_server_that_was_restarted_is_asked_to_load_and_answers_at_once(own: MilvusServer, tmp_path: Path) -> None:
    store = Through(tmp_path / "store", own)
    store.write(make_rows(6))
    before = store.search(Signal.DENSE, make_query(0))
    own.process.kill()
    with pytest.raises(StoreError, match="cannot be reached"):
        store.count()
    again = start_milvus(tmp_path / "server", int(own.url.rpartition(":")[2]))
    try:
        assert store.search(Signal.DENSE, make_query(0)) == before
        assert store.listed() == sorted((row.chunk.id, 1) for row in make_rows(6))
    finally:
        store.close()
        again.process.stop()


def test_neither_documents_nor_filters_nor_secrets_reach_the_log(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pymilvus logs what a server answers, and a server quotes what it was sent."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KEY", CANARY)
    opened = replace(store.options, connection=replace(store.options.connection, api_key="env:KEY"))
    sink = MilvusSink(opened)
    with pytest.raises(StoreError):
        sink.write([with_chunk(make_rows(1)[0], text=CANARY, title=CANARY)])  # there is no collection yet
    sink.ensure(opened.schema)
    sink.write([with_chunk(make_rows(1)[0], text=CANARY, title=CANARY, metadata={"kind": CANARY}, acl=(CANARY,))])
    assert store.visible(Equals("kind", CANARY)) == {make_rows(1)[0].chunk.id}
    for shown in (repr(sink), repr(sink._server), str(sink._server.__dict__), repr(opened)):
        assert CANARY not in shown
    sink.close()
    assert CANARY not in caplog.text


def test_closing_twice_is_no_error(store: Store) -> None:
    searcher = open_searcher("milvus", store.options)
    store.ask(lambda _: searcher.aclose())
    store.ask(lambda _: searcher.aclose())

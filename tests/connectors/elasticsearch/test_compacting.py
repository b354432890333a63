"""Deleted documents in a real server's files, before and after compacting."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from connectors.elasticsearch.client import index_name
from connectors.elasticsearch.sink import ElasticsearchSink
from connectors.protocol import CompactingSink
from m3core.errors import StoreError
from tests.conformance.data import make_rows, with_chunk
from tests.conformance.store import Store
from tests.pipelines.operate.traces import traces

pytestmark = pytest.mark.xdist_group("elasticsearch")

_CANARIES = ("wq7ztext", "xk3ptitle", "zj9kdoc", "vr5nmeta", "ux2cacl")


def files_of_index(url: str, name: str) -> Path:
    """Where the server keeps an index."""
    with urllib.request.urlopen(f"{url}/_nodes/stats/fs", timeout=60) as answer:  # noqa: S310 - the tests' server
        [node] = json.load(answer)["nodes"].values()
    with urllib.request.urlopen(f"{url}/{name}/_settings", timeout=60) as answer:  # noqa: S310 - the tests' server
        [index] = json.load(answer).values()
    for place in node["fs"]["data"]:
        folder = Path(place["path"]) / "indices" / index["settings"]["index"]["uuid"]
        if folder.is_dir():
            return folder
    pytest.skip("the server's files are not on this machine")


def test_no_byte_of_a_deleted_document_is_left(store: Store) -> None:
    text, title, doc_id, kind, acl = _CANARIES
    rows = make_rows(20)
    rows[7] = with_chunk(rows[7], text=text, title=title, doc_id=doc_id, metadata={"kind": kind}, acl=(acl,))
    store.write(rows)
    store.change(lambda sink: sink.delete([rows[7].chunk.id]))
    folder = files_of_index(store.options.connection.url, index_name(store.options))
    assert traces(folder, *_CANARIES) != []
    listed = store.listed()

    sink = store.sink()
    assert isinstance(sink, CompactingSink)
    sink.compact()

    assert traces(folder, *_CANARIES) == []
    assert store.listed() == listed
    sink.compact()


def test_an_index_that_is_gone_is_an_error_of_ours(store: Store) -> None:
    sink = ElasticsearchSink(store.options)
    with pytest.raises(StoreError, match="has no index"):
        sink.compact()
    sink.close()

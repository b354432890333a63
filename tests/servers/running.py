"""The servers of this session: one per kind that needs one, started when a test first asks for it, stopped at the end.

ELASTICSEARCH_URL and QDRANT_URL name servers that run already; the suite then keeps to indices and collections under
prefixes of its own and drops them at the end. Without QDRANT_URL a stand-in answers (`tests.servers.qdrant`): that
server comes in no package, so REQUIRE_SERVERS does not ask for it. MILVUS_URI names a Milvus server in the same way;
without it a Milvus Lite server is started. What only larger Milvus servers have is shown on a server of ours beside it
(`tests.servers.contract`, "milvus-contract").
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from connectors.protocol import Connection
from tests.servers.contract.server import contract_server
from tests.servers.elasticsearch import running_elasticsearch
from tests.servers.milvus import running_milvus
from tests.servers.missing import MissingPartError, skip_or_fail
from tests.servers.qdrant import qdrant_stand_in

# Servers of ours that stand in for one of a kind.
STAND_INS = {"milvus-contract": "milvus"}
_SESSION = f"t{secrets.token_hex(4)}_"
# Read by stores that tests make themselves, wherever they are: urls of what runs, by kind.
_urls: dict[str, str] = {}


@dataclass
class Servers:
    """Starts what is needed, once."""

    folders: pytest.TempPathFactory
    _stack: ExitStack = field(default_factory=ExitStack)

    def need(self, kind: str) -> str:
        """The url of the server that stores of `kind` need ("" if none); skips or fails where it cannot start."""
        start = {
            "elasticsearch": self._elasticsearch,
            "milvus": self._milvus,
            "milvus-contract": self._milvus_contract,
            "qdrant": self._qdrant,
        }.get(kind)
        if start is None:
            return ""
        if kind not in _urls:
            try:
                _urls[kind] = start()
            except MissingPartError as missing:
                skip_or_fail(missing)
            self._stack.callback(_urls.pop, kind)
        return _urls[kind]

    def close(self) -> None:
        """Stop what was started here."""
        self._stack.close()

    def _elasticsearch(self) -> str:
        if named := os.environ.get("ELASTICSEARCH_URL"):
            self._stack.callback(_drop_indices, named)
            return named
        return self._stack.enter_context(running_elasticsearch(self.folders.mktemp("elasticsearch"))).url

    def _qdrant(self) -> str:
        if named := os.environ.get("QDRANT_URL"):
            self._stack.callback(_drop_collections, named)
            return named
        return self._stack.enter_context(qdrant_stand_in()).url

    def _milvus(self) -> str:
        if named := os.environ.get("MILVUS_URI"):
            self._stack.callback(_drop_milvus_collections, named)
            return named
        return self._stack.enter_context(running_milvus(self.folders.mktemp("milvus"))).url

    def _milvus_contract(self) -> str:
        return self._stack.enter_context(contract_server()).url


def kind_of(name: str) -> str:
    """The registry's kind of a store of the tests."""
    return STAND_INS.get(name, name)


def connection_of(kind: str, root: Path, url: str = "") -> Connection:
    """How to reach the store that `root` stands for: a prefix of its own on the running server of its kind.

    `url` is another way to the same server, such as a proxy.
    """
    if kind not in _urls:
        return Connection()
    prefix = _SESSION + hashlib.sha256(str(root).encode()).hexdigest()[:10] + "_"
    return Connection(url=url or _urls[kind], prefix=prefix)


def _drop_indices(url: str) -> None:
    """One by one: servers refuse to delete by pattern."""
    listing = f"{url}/{_SESSION}*?expand_wildcards=all"
    with urllib.request.urlopen(listing, timeout=120) as answer:  # noqa: S310 - named by the user
        names = list(json.load(answer))
    for name in names:
        request = urllib.request.Request(f"{url}/{name}", method="DELETE")  # noqa: S310 - named by the user
        urllib.request.urlopen(request, timeout=120).close()  # noqa: S310 - named by the user


def _drop_collections(url: str) -> None:
    with urllib.request.urlopen(f"{url}/collections", timeout=120) as answer:  # noqa: S310 - named by the user
        names = [found["name"] for found in json.load(answer)["result"]["collections"]]
    for name in names:
        if name.startswith(_SESSION):
            request = urllib.request.Request(f"{url}/collections/{name}", method="DELETE")  # noqa: S310 - as above
            urllib.request.urlopen(request, timeout=120).close()  # noqa: S310 - as above


def _drop_milvus_collections(url: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(url, timeout=60, dedicated=True)
    for name in client.list_collections(timeout=60):
        if name.startswith(_SESSION):
            client.drop_collection(name, timeout=60)
    client.close()

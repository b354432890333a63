"""The servers of this session: one per kind that needs one, started when a test first asks for it, stopped at the end.

ELASTICSEARCH_URL names a server that runs already; the suite then keeps to indices under prefixes of its own and drops
them at the end.
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
from tests.servers.elasticsearch import running_elasticsearch
from tests.servers.missing import MissingPartError, skip_or_fail

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
        if kind != "elasticsearch":
            return ""
        if kind not in _urls:
            try:
                _urls[kind] = self._start()
            except MissingPartError as missing:
                skip_or_fail(missing)
            self._stack.callback(_urls.pop, kind)
        return _urls[kind]

    def close(self) -> None:
        """Stop what was started here."""
        self._stack.close()

    def _start(self) -> str:
        if named := os.environ.get("ELASTICSEARCH_URL"):
            self._stack.callback(_drop_indices, named)
            return named
        return self._stack.enter_context(running_elasticsearch(self.folders.mktemp("elasticsearch"))).url


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

"""The stores of a configuration in which every signal has the one that suits it best, on the servers of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers.running import Servers, connection_of


def three_stores(servers: Servers, root: Path) -> dict[str, Any]:
    """Dense vectors embedded, words and texts in Elasticsearch, multi-vectors in Milvus; names belong to `root`."""
    for kind in ("elasticsearch", "milvus"):
        servers.need(kind)
    words, tokens = connection_of("elasticsearch", root), connection_of("milvus", root)
    return {
        "vectors": {"kind": "qdrant-edge", "signals": ["dense"], "text": False},
        "words": {"kind": "elasticsearch", "signals": ["lexical"], "url": words.url, "prefix": words.prefix},
        "tokens": {
            "kind": "milvus",
            "signals": ["multi"],
            "text": False,
            "url": tokens.url,
            "prefix": tokens.prefix,
        },
    }

"""Deleted documents made to go from an index's files: a server merges them away in its own time otherwise.

A delete marks a document; its terms and its source stay in the segment until that is merged, and in the translog until
a flush. A merge keeps what a replica may still ask for (soft deletes): up to the last safe commit, which a flush moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from elasticsearch import Elasticsearch

from connectors.elasticsearch.client import es_errors
from connectors.protocol import StoreOptions, StoreTimeoutError
from m3core.errors import StoreError

# A merge of a large index takes minutes; without any progress for so long, it counts as stuck.
COMPACT_SECONDS = 3600.0
_LOOK_SECONDS = 0.5
_ALLOWED = "index.merge.policy.expunge_deletes_allowed"


def compact_index(
    client: Elasticsearch, index: str, options: StoreOptions, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Flush and merge until the primaries hold no deleted document. StoreError if that does not come to an end."""
    options.before_request()
    with es_errors(options):
        client.indices.put_settings(index=index, settings={_ALLOWED: 0})
    try:
        deadline = time.monotonic() + COMPACT_SECONDS
        while not _clean(client, index, options):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"store {options.name!r}: {index} still holds deleted documents after {COMPACT_SECONDS:,.0f} s of "
                    "merging",
                    "see the server's merges, then run it again",
                )
            sleep(_LOOK_SECONDS)
    finally:
        with es_errors(options):
            client.indices.put_settings(index=index, settings={_ALLOWED: None})


def _clean(client: Elasticsearch, index: str, options: StoreOptions) -> bool:
    """Whether nothing deleted is left; if something is and no merge is at work, begin one."""
    options.before_request()
    with es_errors(options):
        client.indices.flush(index=index, force=True, wait_if_ongoing=True)
        client.indices.refresh(index=index)
        found = client.indices.stats(index=index, metric="docs,merge")["_all"]["primaries"]
    if not found["docs"]["deleted"]:
        return True
    if not found["merges"]["current"]:
        with suppress(StoreTimeoutError), es_errors(options):  # past the timeout the server goes on with it
            client.indices.forcemerge(index=index, only_expunge_deletes=True)
    return False

"""What the nodes of a cluster say of themselves: disk, clock, and the bounds that they were set up with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from elasticsearch import Elasticsearch

from connectors.protocol import Limit, StoreFacts


def server_facts(client: Elasticsearch, version: str, least_bytes: int) -> StoreFacts:
    """The scarcest disk and the smallest request of all nodes, the clock of the first.

    `least_bytes`: the largest request that we send. Raises what the client raises.
    """
    stats = _nodes(client.nodes.stats(metric="fs").body)
    disks = [found for node in stats if "available_in_bytes" in (found := node.get("fs", {}).get("total", {}))]
    scarce = min(disks, key=lambda found: int(found["available_in_bytes"]), default=None)
    clock = next((node["timestamp"] / 1000 for node in stats if "timestamp" in node), None)
    requests = [node.get("http", {}).get("max_content_length_in_bytes") for node in _nodes(_http(client))]
    sizes = [int(size) for size in requests if size is not None]
    return StoreFacts(
        version=version,
        clock=clock,
        free_bytes=None if scarce is None else int(scarce["available_in_bytes"]),
        total_bytes=None if scarce is None else int(scarce["total_in_bytes"]),
        limits=(Limit("http.max_content_length", min(sizes), least_bytes),) if sizes else (),
    )


def _http(client: Elasticsearch) -> Any:
    return client.nodes.info(metric="http").body


def _nodes(body: Any) -> list[dict[str, Any]]:
    found: Iterable[dict[str, Any]] = body.get("nodes", {}).values()
    return list(found)

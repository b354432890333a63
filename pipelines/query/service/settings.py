"""What the service allows. Frozen; `m3 serve` fills it from its options."""

from __future__ import annotations

from dataclasses import dataclass

# A body holds one query, one filter (4 KiB at most), a few numbers, and maybe a cursor over 1,000 documents.
MAX_BODY_BYTES = 256 << 10
MAX_HEAD_BYTES = 16 << 10
MAX_HITS = 100
MAX_TEXTS = 16
MAX_CHUNKS = 200
MAX_SNIPPET = 1_000
MAX_FACETS = 16
# Documents that facets are counted over, at least: what a page shows is too few to choose from.
FACET_DOCUMENTS = 100
LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and rules of one service.

    `hosts` are the names that a Host header may carry (lower case, no port): another name means that a browser was
    led here by a name that somebody else owns. `open_access` lets requests without a key in as long as no key was ever
    made; it is only set on a loopback address. `body_seconds` is how long a client may take to send its body;
    `max_requests` are answered at once, of which the router lets some search.
    """

    hosts: frozenset[str] = frozenset(LOOPBACK_NAMES)
    open_access: bool = True
    max_body_bytes: int = MAX_BODY_BYTES
    max_head_bytes: int = MAX_HEAD_BYTES
    body_seconds: float = 10.0
    max_requests: int = 512
    audit_queries: bool = False

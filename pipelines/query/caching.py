"""Queries that were encoded before: the least recently used go first, and memory is bounded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from m3core.types import QueryVectors

CACHE_QUERIES = 1_000
# As many of ordinary length with vectors of 1,024.
CACHE_BYTES = 64 << 20


@dataclass
class QueryCache:
    """(encoder fingerprint, query) -> its vectors, at most `most` of them with `most_bytes` of vectors and texts."""

    most_bytes: int = CACHE_BYTES
    most: int = CACHE_QUERIES
    bytes: int = 0
    _kept: OrderedDict[tuple[str, str], QueryVectors] = field(default_factory=OrderedDict)

    def get(self, fingerprint: str, query: str) -> QueryVectors | None:
        """The vectors if they are here; they count as used."""
        key = (fingerprint, query)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, fingerprint: str, query: str, vectors: QueryVectors) -> None:
        """Keep the vectors; what is larger than the whole cache is not kept."""
        key = (fingerprint, query)
        replaced = self._kept.pop(key, None)
        if replaced is not None:
            self.bytes -= _size(query, replaced)
        if (size := _size(query, vectors)) > self.most_bytes:
            return
        self._kept[key] = vectors
        self.bytes += size
        while self.bytes > self.most_bytes or len(self._kept) > self.most:
            (_, oldest), gone = self._kept.popitem(last=False)
            self.bytes -= _size(oldest, gone)

    def __len__(self) -> int:
        return len(self._kept)


def _size(query: str, vectors: QueryVectors) -> int:
    arrays = (vectors.dense, vectors.lexical_ids, vectors.lexical_weights, vectors.multi)
    return 4 * len(query) + sum(array.nbytes for array in arrays if array is not None)

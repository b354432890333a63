"""Values of declared fields counted over the best candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from m3core.errors import UsageError
from m3core.nearest import did_you_mean
from pipelines.query.answer import Hit
from pipelines.query.live import LiveStores
from pipelines.query.service.schemas import SearchBody

# Values told per field, the most frequent first.
MAX_VALUES = 12
_LANGUAGE = "language"


async def check_facets(body: SearchBody, stores: LiveStores) -> None:
    """Raises UsageError for a field that is neither declared in the live generation nor `language`, and for facets of a
    later page.
    """
    if not body.facets:
        return
    async with stores.pin() as pinned:
        known = (*pinned.generation.fields, _LANGUAGE)
    for name in body.facets:
        if name not in known:
            raise UsageError(f"facet {name!r}: no such field", did_you_mean(name, known))
    if body.offset or body.paged or body.cursor:
        raise UsageError("facets go with a first page only", "leave out offset, paged and cursor, or facets")


def count_facets(hits: Sequence[Hit], wanted: Sequence[str]) -> dict[str, Any]:
    """Per field the values with the number of documents that have them, most frequent first, ties by value.

    A document counts once per value. `documents` is how many were looked at.
    """
    return {"documents": len(hits), "fields": {name: _values(hits, name) for name in dict.fromkeys(wanted)}}


def _values(hits: Sequence[Hit], name: str) -> list[dict[str, Any]]:
    # 1, 1.0 and True are equal to Python, not to a reader: the type is part of the key.
    counts = Counter((type(value).__name__, value) for hit in hits for value in set(_of(hit, name)))
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0][1])))
    return [{"value": value, "count": count} for (_, value), count in ordered[:MAX_VALUES]]


def _of(hit: Hit, name: str) -> tuple[str | int | float | bool, ...]:
    value = hit.language if name == _LANGUAGE else hit.metadata.get(name)
    if value is None or value == "":
        return ()
    return value if isinstance(value, tuple) else (value,)

"""A document by its id, checked like a hit. A missing document and a forbidden one answer alike, and as fast."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from connectors.filters.identity import identity_filter, is_visible
from connectors.protocol import Payload
from m3core.errors import StateError
from m3core.types import Identity
from pipelines.query.live import LiveStores
from pipelines.query.service.problems import not_found
from pipelines.state.files import DamagedError
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths

_SECONDS = 5.0
_ATTEMPTS = 3


async def read_document(
    stores: LiveStores, paths: StatePaths, identity: Identity, doc_id: str, part: slice
) -> dict[str, Any]:
    """The document with the chunks of `part` (start and stop are set).

    Raises ProblemError (404) if there is none that the identity may see, StoreError if the store does not answer.
    """
    async with stores.pin() as pinned:
        generation = pinned.generation
        ids = await asyncio.to_thread(_chunk_ids, paths, generation.number, (identity.tenant, doc_id))
        texts = next(binding.name for binding in generation.stores if binding.text)
        # A document that is not there costs the same request, so that time does not tell it from a forbidden one.
        asked = [*(ids[:1] or (str(uuid.uuid4()),)), *ids[part]]
        found = await pinned.searchers[texts].fetch(asked, identity_filter(identity), _SECONDS)
    # The store applied the filter; who may see a row is not left to one line of defence.
    rows = {each: payload for each, payload in found.items() if is_visible(payload, identity)}
    if not rows:
        raise not_found("document")
    first = next(iter(rows.values()))
    return {
        "doc_id": doc_id,
        "generation": generation.number,
        "title": first.title,
        "language": first.language,
        "metadata": {key: list(value) if isinstance(value, tuple) else value for key, value in first.metadata.items()},
        "total": len(ids),
        "offset": part.start,
        "chunks": [_chunk(rows[each]) for each in ids[part] if each in rows],
    }


def _chunk(payload: Payload) -> dict[str, Any]:
    return {
        "id": payload.id,
        "ordinal": payload.ordinal,
        "span": list(payload.span),
        "context": payload.context,
        "text": payload.text,
    }


def _chunk_ids(paths: StatePaths, generation: int, key: tuple[str, str]) -> Sequence[str]:
    """Ids of the document's chunks, in their order; none if it is not there."""
    for attempt in range(_ATTEMPTS):
        try:
            record = Manifest(paths, generation).find([key]).get(key)
            break
        except DamagedError:
            raise
        except StateError:
            # A run that compacts the manifest meanwhile takes files away: then it is read again.
            if attempt == _ATTEMPTS - 1:
                raise
    return () if record is None else record.chunk_ids

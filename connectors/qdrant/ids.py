"""Ids that a Qdrant store can have: chunk ids are UUIDs in their canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID


def known_form(ids: Sequence[str]) -> list[str]:
    """The distinct ids that can exist here at all."""
    return [chunk_id for chunk_id in dict.fromkeys(ids) if _is_canonical(chunk_id)]


def _is_canonical(chunk_id: str) -> bool:
    try:
        return str(UUID(chunk_id)) == chunk_id
    except ValueError:
        return False

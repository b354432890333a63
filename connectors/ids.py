"""Ids that a store can have: chunk ids are UUIDs in their canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID


def is_canonical(chunk_id: str) -> bool:
    """Whether the id is a UUID as we write it: lower case, with hyphens."""
    try:
        return str(UUID(chunk_id)) == chunk_id
    except ValueError:
        return False


def known_form(ids: Sequence[str]) -> list[str]:
    """The distinct ids that can exist in a store at all."""
    return [chunk_id for chunk_id in dict.fromkeys(ids) if is_canonical(chunk_id)]

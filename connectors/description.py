"""What a store of ours says of itself, so that rows of another build or model are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from connectors.protocol import CollectionSchema
from m3core.errors import StoreError


def describe(schema: CollectionSchema, version: int) -> dict[str, Any]:
    """What a generation was made for, as JSON keeps it; `version` is that of how a kind of store writes rows."""
    return {
        "format": version,
        "collection": schema.collection,
        "generation": schema.generation,
        "signals": sorted(schema.signals),
        "dense_dim": schema.dense_dim,
        "multi_dim": schema.multi_dim,
        "fields": {name: str(kind) for name, kind in sorted(schema.fields.items())},
        "keeps_text": schema.keeps_text,
        "encoder_fingerprint": schema.encoder_fingerprint,
    }


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], start: str) -> None:
    """Raise StoreError, beginning with `start`, for the first key that differs."""
    different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if different:
        key = different[0]
        raise StoreError(
            f"{start} has {key} {_short(found.get(key))}, not {_short(wanted.get(key))}",
            "build a new generation"
            if key in _OF_THE_SCHEMA
            else "install the version that wrote it, or remove it and fill it again from the lake: m3 load",
        )


_OF_THE_SCHEMA = frozenset(
    ("collection", "generation", "signals", "dense_dim", "multi_dim", "fields", "keeps_text", "encoder_fingerprint")
)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

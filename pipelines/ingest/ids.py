"""Identities: the chunk id and the hashes that say what changed. Fixed for ever: stores and manifests hold them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable

from m3core.types import Document, Metadata

# The namespace of our chunk ids (RFC 9562, version 5); a random constant of this project.
CHUNK_NAMESPACE = uuid.UUID("e6a1cec8-4aca-4d44-ab8b-e7340e20000a")


def canonical_json(value: object) -> str:
    """One spelling per value: sorted keys, no spaces, ASCII only."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text_hash(text: str) -> str:
    """sha256 of the text's UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def chunk_id(tenant: str, collection: str, doc_id: str, text_hash: str, occurrence: int) -> str:
    """uuid5 over a canonical JSON array.

    `text_hash` is the sha256 (hex) of the encoded text, `occurrence` counts from 0 the equal texts before it in the
    document. The ordinal is not part of it: an insertion at the top of a document renames nothing below.
    """
    return str(uuid.uuid5(CHUNK_NAMESPACE, canonical_json([tenant, collection, doc_id, text_hash, occurrence])))


def content_hash(document: Document) -> str:
    """Hash of everything that the chunks' texts depend on: title, text, language and markup."""
    return _hashed([document.title, text_hash(document.text), document.language, document.markup])


def metadata_hash(metadata: Metadata) -> str:
    """Hash of the metadata, whatever the order of its keys; the order inside a list counts, and 1 differs from 1.0."""
    return _hashed(dict(metadata))


def acl_hash(acl: Iterable[str]) -> str:
    """Hash of the set of principals; neither order nor repetition counts."""
    return _hashed(sorted(set(acl)))


def _hashed(value: object) -> str:
    return text_hash(canonical_json(value))

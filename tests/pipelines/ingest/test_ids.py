"""Identities are goldens: stores and manifests hold them, so they never change."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.types import Document
from pipelines.ingest.ids import (
    CHUNK_NAMESPACE,
    acl_hash,
    canonical_json,
    chunk_id,
    content_hash,
    metadata_hash,
    text_hash,
)

DOCUMENT = Document("acme", "a.md", "Text.", "Title", "en", {"year": 2024}, ("staff",))


def test_chunk_ids_are_fixed() -> None:
    digest = text_hash("Title\nText.")
    assert digest == "06abb77d5ed9e6c0c09eb32c1eb7a285ca57882450d52d943fd08c3dfde3f20e"
    assert chunk_id("acme", "handbook", "a.md", digest, 0) == "d2a6fae3-e2da-5c49-9ac5-727e962c5d57"
    assert chunk_id("acme", "handbook", "a.md", digest, 1) == "386b410c-1668-574f-9b4b-1bf29b838cfd"
    assert chunk_id("acme", "handbook", "夜/行.md", digest, 0) == "752de306-2bf2-5a05-922b-b5cb927a3501"


def test_a_chunk_id_is_uuid5_over_a_json_array() -> None:
    name = f'["t","c","d","{text_hash("x")}",3]'
    assert chunk_id("t", "c", "d", text_hash("x"), 3) == str(uuid.uuid5(CHUNK_NAMESPACE, name))


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3)), min_size=2, unique=True))
def test_no_two_places_share_a_chunk_id(places: list[tuple[str, str, str]]) -> None:
    digest = text_hash("x")
    assert len({chunk_id(*place, digest, 0) for place in places}) == len(places)


def test_content_hashes_are_fixed() -> None:
    assert content_hash(DOCUMENT) == "f15b1112bb716dc171c80bfe02587917509182d1057eb908da07605985090658"
    assert metadata_hash(DOCUMENT.metadata) == "cd6015925dbbefe14b4dc4c36503ec36128b69f45e7d3932c243eea503bf1c58"
    assert acl_hash(DOCUMENT.acl) == "1ecb9f08fc546b20c8095a9f6cfe09ff137806ad965a22b67192359494bac839"


@pytest.mark.parametrize("change", [{"text": "Other."}, {"title": ""}, {"language": "de"}, {"markup": "markdown"}])
def test_what_chunks_depend_on_is_content(change: dict[str, str]) -> None:
    assert content_hash(replace(DOCUMENT, **change)) != content_hash(DOCUMENT)  # type: ignore[arg-type]


def test_metadata_and_acl_are_not_content() -> None:
    assert content_hash(replace(DOCUMENT, metadata={}, acl=())) == content_hash(DOCUMENT)


def test_order_of_keys_and_principals_does_not_count() -> None:
    assert metadata_hash({"a": 1, "b": ("x", "y")}) == metadata_hash({"b": ("x", "y"), "a": 1})
    assert acl_hash(("b", "a", "b")) == acl_hash(("a", "b"))


def test_types_and_order_of_values_count() -> None:
    hashes = [metadata_hash({"a": value}) for value in (1, 1.0, True, "1", ("x", "y"), ("y", "x"))]
    assert len(set(hashes)) == len(hashes)
    assert acl_hash(()) != acl_hash(("",))


def test_canonical_json_refuses_what_json_cannot_say() -> None:
    assert canonical_json({"b": "é", "a": [1, None]}) == '{"a":[1,null],"b":"\\u00e9"}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))

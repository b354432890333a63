"""Every rule of one document, by its message; none of them quotes the document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import DocumentError
from m3core.types import Document
from pipelines.ingest.documents import (
    DocumentRules,
    check_text,
    document_from_record,
    document_from_text,
    identity_of,
)

RULES = DocumentRules(
    tenant="acme",
    allowed_tenants=("globex",),
    acl=("everyone",),
    language="en",
    max_document_bytes=1000,
    fields={"year": "integer", "price": "number", "kind": "string", "tags": "strings", "open": "boolean"},
)


def made(**values: Any) -> Document:
    return document_from_record({"doc_id": "d", "text": "Text.", **values}, RULES)


def test_defaults_come_from_the_source() -> None:
    assert made() == Document("acme", "d", "Text.", "", "en", {}, ("everyone",))


def test_all_fields_are_taken() -> None:
    document = made(
        doc_id=17,
        text="a\r\nb",
        title=" A \n title ",
        language="zh-Hant",
        metadata={"year": 2024, "note": "n", "tags": ["x", "y"], "empty": [], "none": None},
        price=3,
        tenant="globex",
        acl=["staff", "board", "staff"],
        other="ignored",
    )
    expected = {"year": 2024, "note": "n", "tags": ("x", "y"), "price": 3.0}
    assert document == Document("globex", "17", "a\nb", "A title", "zh-Hant", expected, ("board", "staff"))
    assert isinstance(document.metadata["price"], float)


def test_metadata_may_be_a_json_string() -> None:
    assert made(metadata='{"year": 1999, "open": false}').metadata == {"open": False, "year": 1999}
    assert made(metadata="").metadata == {}


def test_an_empty_acl_means_nobody_and_is_kept() -> None:
    assert made(acl=[]).acl == ()


SECRET = "PRIVATE-WORDS"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"doc_id": None}, "doc_id is missing"),
    ({"doc_id": ""}, "doc_id is empty"),
    ({"doc_id": 1.5}, "doc_id is a number; a string is needed"),
    ({"doc_id": True}, "doc_id is a boolean; a string is needed"),
    ({"doc_id": "x" * 513}, "doc_id has 513 code points; at most 512 are allowed"),
    ({"doc_id": "a\nb"}, r"doc_id has control character U\+000A at code point 1"),
    ({"doc_id": "a\ud800"}, r"doc_id has control character U\+D800 at code point 1"),
    ({"text": None}, "text is missing"),
    ({"text": [SECRET]}, "text is a list; a string is needed"),
    ({"text": ""}, "text is empty: 0 code points, all blank"),
    ({"text": " \n\t\u200b\ufeff\x0c"}, "text is empty: 6 code points, all blank"),
    ({"text": SECRET + "\0"}, r"text has U\+0000 \(NUL\) at code point 13"),
    ({"text": SECRET + "\udc00"}, r"text has U\+DC00 \(a lone surrogate\) at code point 13"),
    ({"text": SECRET * 100}, "1,300 bytes; max_document_bytes is 1,000"),
    ({"text": "鍵" * 334}, "1,002 bytes; max_document_bytes is 1,000"),
    ({"title": 3}, "title is an integer; a string is needed"),
    ({"title": SECRET * 100}, "title has 1,300 code points; at most 1,000 are allowed"),
    ({"title": "a\0"}, r"title has U\+0000 \(NUL\) at code point 1"),
    ({"language": "en_US"}, "language 'en_US' is no language tag"),
    ({"language": "x" * 40}, "language 'x{35}' is no language tag"),
    ({"language": 5}, "language is an integer; a string is needed"),
    ({"tenant": "other"}, r"tenant 'other' is not the source's \('acme'\) nor in its allowed_tenants"),
    ({"tenant": ["acme"]}, "tenant is a list; a string is needed"),
    ({"acl": "staff"}, "acl is a string; a list of strings is needed"),
    ({"acl": [None]}, "acl holds null; strings are needed"),
    ({"acl": [""]}, "principal is empty"),
    ({"acl": ["p" * 257]}, "principal has 257 code points; at most 256 are allowed"),
    ({"acl": [str(n) for n in range(1001)]}, "acl has 1,001 principals; at most 1,000 are allowed"),
    ({"metadata": [SECRET]}, "metadata is a list; an object is needed"),
    ({"metadata": "{" + SECRET}, "metadata is not JSON at code point 1: Expecting property name"),
    ({"metadata": {"tenant": "x"}}, "metadata field 'tenant' is a name of the row itself"),
    ({"metadata": {"": 1}}, "metadata field name is empty"),
    ({"metadata": {"a": {"b": SECRET}}}, "metadata field 'a' is an object; a string, number, boolean or list"),
    ({"metadata": {"a": [SECRET, 1]}}, "metadata field 'a' is a list; a string, number, boolean or list"),
    ({"metadata": {"a": 2**53 + 1}}, r"metadata field 'a' is an integer beyond 2\^53"),
    ({"metadata": {"a": -(2**53) - 1}}, r"metadata field 'a' is an integer beyond 2\^53"),
    ({"metadata": {"a": float("nan")}}, "metadata field 'a' is not a finite number"),
    ({"metadata": {"a": float("inf")}}, "metadata field 'a' is not a finite number"),
    ({"metadata": {"a": "x\0"}}, r"metadata field 'a' has U\+0000 \(NUL\) at code point 1"),
    ({"metadata": {"a": SECRET * 6000}}, "metadata has 78,009 bytes as JSON; at most 65,536 are allowed"),
    ({"year": "2024"}, "metadata field 'year' is a string; it is declared as integer"),
    ({"year": True}, "metadata field 'year' is a boolean; it is declared as integer"),
    ({"year": 2024.0}, "metadata field 'year' is a number; it is declared as integer"),
    ({"open": 1}, "metadata field 'open' is an integer; it is declared as boolean"),
    ({"tags": "x"}, "metadata field 'tags' is a string; it is declared as strings"),
    ({"price": False}, "metadata field 'price' is a boolean; it is declared as number"),
    ({"year": 1, "metadata": {"year": 1}}, "field 'year' is given twice, by itself and in metadata"),
]


@pytest.mark.parametrize(("values", "reason"), REFUSED)
def test_a_broken_rule_is_named_with_a_remedy_and_without_the_text(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(DocumentError, match=f"^{reason}") as caught:
        made(**values)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_bounds_are_allowed() -> None:
    document = made(doc_id="x" * 512, acl=["p" * 256], metadata={"a": 2**53, "b": -(2**53)}, text="鍵" * 333)
    assert document.metadata == {"a": 2**53, "b": -(2**53)}


def test_without_a_default_a_missing_acl_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"^acl is missing and the source has no default"):
        document_from_record({"doc_id": "d", "text": "t"}, replace(RULES, acl=None))


def test_a_file_belongs_to_the_sources_tenant() -> None:
    document = document_from_text("a/b.md", "Text.", "Title", "markdown", RULES)
    assert document == Document("acme", "a/b.md", "Text.", "Title", "en", {}, ("everyone",), "markdown")


@given(st.text(max_size=50))
def test_any_text_is_kept_whole_or_refused(text: str) -> None:
    try:
        kept = check_text(text, RULES)
    except DocumentError:
        return
    assert kept == text.replace("\r\n", "\n").replace("\r", "\n")


def test_a_refused_record_still_has_its_identity() -> None:
    assert identity_of({"doc_id": "d", "text": None}, RULES) == ("acme", "d")
    assert identity_of({"doc_id": "d", "tenant": "globex", "acl": 3}, RULES) == ("globex", "d")
    assert identity_of({"doc_id": "d", "tenant": "other"}, RULES) is None
    assert identity_of({"text": "t"}, RULES) is None


def test_every_setting_that_shapes_documents_is_in_the_stamp() -> None:
    changed = [
        replace(RULES, tenant="x"),
        replace(RULES, allowed_tenants=()),
        replace(RULES, acl=None),
        replace(RULES, language="de"),
        replace(RULES, id_field="id"),
        replace(RULES, text_field="body"),
        replace(RULES, max_document_bytes=1),
        replace(RULES, fields={}),
    ]
    assert len({rules.canonical() for rules in [RULES, *changed]}) == 9

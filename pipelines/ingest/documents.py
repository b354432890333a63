"""From a source's values to a Document: every rule that one document must keep, each with its own reason.

Nothing here guesses or repairs: a value that breaks a rule is a DocumentError, which names the field, the rule and, for
text, the place, but never the text itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m3core.config.model import FieldKind, SourceSection
from m3core.errors import DocumentError
from m3core.types import Document, Markup
from pipelines.ingest.ids import canonical_json
from pipelines.ingest.metadata import metadata_of
from pipelines.ingest.parsing import PARSER_VERSION, normalise_newlines
from pipelines.ingest.values import check_characters, kind_of, short_string

MAX_ID = 512
MAX_TENANT = 128
MAX_TITLE = 1000
MAX_PRINCIPALS = 1000
MAX_PRINCIPAL = 256

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class DocumentRules:
    """What a source's section and the declared fields demand of each of its documents."""

    tenant: str
    allowed_tenants: tuple[str, ...] = ()
    acl: tuple[str, ...] | None = None
    language: str = ""
    id_field: str = "doc_id"
    text_field: str = "text"
    max_document_bytes: int = 10 << 20
    fields: Mapping[str, FieldKind] = field(default_factory=dict)

    @classmethod
    def of(cls, section: SourceSection, fields: Mapping[str, FieldKind]) -> DocumentRules:
        """The rules of one configured source."""
        return cls(
            tenant=section.tenant,
            allowed_tenants=section.allowed_tenants,
            acl=section.acl,
            language=section.language,
            id_field=section.id_field,
            text_field=section.text_field,
            max_document_bytes=section.max_document_bytes,
            fields=dict(fields),
        )

    def canonical(self) -> str:
        """One spelling of everything that shapes a document here; part of every stamp."""
        acl = None if self.acl is None else sorted(set(self.acl))
        settings = [self.tenant, sorted(self.allowed_tenants), acl, self.language, self.id_field, self.text_field]
        return canonical_json([PARSER_VERSION, settings, self.max_document_bytes, dict(self.fields)])


def document_from_record(record: Mapping[str, Any], rules: DocumentRules) -> Document:
    """A Document from the fields of one JSON object or Parquet row.

    `text` of the result, and so every span into it, has LF line ends; nothing else is changed.

    Raises:
        DocumentError: a field is missing or breaks a rule.
    """
    doc_id = check_doc_id(record.get(rules.id_field), rules.id_field)
    text = check_text(record.get(rules.text_field), rules)
    return Document(
        tenant=_tenant(record.get("tenant"), rules),
        doc_id=doc_id,
        text=text,
        title=_title(record.get("title")),
        language=_language(record.get("language"), rules),
        metadata=metadata_of(record, rules.fields),
        acl=_acl(record.get("acl"), rules),
    )


def document_from_text(doc_id: str, text: str, title: str, markup: Markup, rules: DocumentRules) -> Document:
    """A Document from a file's decoded text; tenant, language and acl are the source's own.

    Raises:
        DocumentError: id or text breaks a rule.
    """
    return Document(
        tenant=rules.tenant,
        doc_id=check_doc_id(doc_id, "path"),
        text=check_text(text, rules),
        title=_title(title),
        language=_language(None, rules),
        acl=_acl(None, rules),
        markup=markup,
    )


def identity_of(record: Mapping[str, Any], rules: DocumentRules) -> tuple[str, str] | None:
    """(tenant, doc_id) of a record, whatever else is wrong with it; None if these are."""
    try:
        return _tenant(record.get("tenant"), rules), check_doc_id(record.get(rules.id_field), rules.id_field)
    except DocumentError:
        return None


def check_doc_id(value: object, name: str) -> str:
    """A document's id: a string (or an integer, taken as its digits) of 1 to 512 code points without controls."""
    if value is None:
        raise DocumentError(f"{name} is missing", f"give every document its {name}, or set id_field of the source")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DocumentError(f"{name} is {kind_of(value)}; a string is needed", "give the id as a string")
    return short_string(value, name, MAX_ID)


def check_text(value: object, rules: DocumentRules) -> str:
    """The text with LF line ends: not empty, no NUL, no lone surrogate, within `max_document_bytes` of UTF-8."""
    name = rules.text_field
    if value is None:
        raise DocumentError(f"{name} is missing", "give every document a text, or set text_field of the source")
    if not isinstance(value, str):
        raise DocumentError(f"{name} is {kind_of(value)}; a string is needed", "give the text as a string")
    check_characters(value, name)
    if len(value) * 4 > rules.max_document_bytes:
        size = len(value.encode())
        if size > rules.max_document_bytes:
            raise too_large(size, rules.max_document_bytes)
    if not _has_content(value):
        raise DocumentError(f"{name} is empty: {len(value)} code points, all blank", "remove the document or fill it")
    return normalise_newlines(value)


def too_large(size: int, limit: int) -> DocumentError:
    """The error of a document over `max_document_bytes`."""
    return DocumentError(
        f"{size:,} bytes; max_document_bytes is {limit:,}", "split the document or raise max_document_bytes"
    )


def _has_content(text: str) -> bool:
    # Zero-width and control characters are as empty as blanks: no model reads them.
    return any(not char.isspace() and unicodedata.category(char) not in {"Cc", "Cf"} for char in text)


def _tenant(value: object, rules: DocumentRules) -> str:
    if value is None:
        return rules.tenant
    if not isinstance(value, str):
        raise DocumentError(
            f"tenant is {kind_of(value)}; a string is needed", "give the tenant as a string or leave it out"
        )
    tenant = short_string(value, "tenant", MAX_TENANT)
    if tenant != rules.tenant and tenant not in rules.allowed_tenants:
        raise DocumentError(
            f"tenant {tenant!r} is not the source's ({rules.tenant!r}) nor in its allowed_tenants",
            "add it to allowed_tenants or correct the document",
        )
    return tenant


def _title(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DocumentError(
            f"title is {kind_of(value)}; a string is needed", "give the title as a string or leave it out"
        )
    check_characters(value, "title")
    title = " ".join(value.split())
    if len(title) > MAX_TITLE:
        raise DocumentError(f"title has {len(title):,} code points; at most {MAX_TITLE:,} are allowed", "shorten it")
    return title


def _language(value: object, rules: DocumentRules) -> str:
    if value is None or value == "":
        value = rules.language
    if not isinstance(value, str):
        raise DocumentError(f"language is {kind_of(value)}; a string is needed", "give a tag like en or zh-Hant")
    if value and (len(value) > 35 or not _LANGUAGE.fullmatch(value)):
        raise DocumentError(f"language {value[:35]!r} is no language tag", "give a tag like en, pt-BR or zh-Hant")
    return value


def _acl(value: object, rules: DocumentRules) -> tuple[str, ...]:
    if value is None:
        if rules.acl is None:
            raise DocumentError(
                "acl is missing and the source has no default", "name principals or set acl of the source"
            )
        value = rules.acl
    if not isinstance(value, list | tuple):
        raise DocumentError(
            f"acl is {kind_of(value)}; a list of strings is needed", 'give it as a list, like ["staff"]'
        )
    if len(value) > MAX_PRINCIPALS:
        raise DocumentError(f"acl has {len(value):,} principals; at most {MAX_PRINCIPALS:,} are allowed", "use groups")
    for principal in value:
        if not isinstance(principal, str):
            raise DocumentError(f"acl holds {kind_of(principal)}; strings are needed", "name principals as strings")
        short_string(principal, "principal", MAX_PRINCIPAL)
    return tuple(sorted(set(value)))

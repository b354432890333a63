"""A collection in which one document can be told from all others by every string of it, and a search for such strings
in all files, in their decoded form too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipelines.ingest.projects import Project

TENANT = "acme"
DOC_ID = "kvq-2291-zrt"
# Nothing of it occurs anywhere else: long enough to stand literally in a compressed block, too.
CANARIES = {
    "id": DOC_ID,
    "title": "Wgh7 Title Plzb",
    "heading": "Xoqy3 Heading",
    "text": "Jbrm9 ktq vwx body",
    "metadata": "Yfnc5-metadata",
    "acl": "principal-Ub4s",
}


def row(doc_id: str, text: str, **more: Any) -> dict[str, Any]:
    return {"doc_id": doc_id, "tenant": TENANT, "text": text, "acl": ["staff"], **more}


def secret_row() -> dict[str, Any]:
    """The document to be erased."""
    body = f"{CANARIES['heading']}\n\n{CANARIES['text']}, once more {CANARIES['text']}.\n\nThe end of it.\n"
    return row(DOC_ID, body, title=CANARIES["title"], acl=[CANARIES["acl"]], kind=CANARIES["metadata"])


def plain_rows(count: int, tenant: str = TENANT) -> list[dict[str, Any]]:
    return [
        {**row(f"p{number}", f"Note {number}\n\nThe key of room {number * 7} is at the desk.\n"), "tenant": tenant}
        for number in range(count)
    ]


def prepare(project: Project, rows: list[dict[str, Any]], stores: dict[str, Any]) -> None:
    """Write the rows and the configuration of their source."""
    project.write_lines(rows)
    project.settings["sources"]["rows"] |= {"acl": ["staff"], "tenant": TENANT, "allowed_tenants": ["globex"]}
    project.settings["fields"] = {"kind": "string"}
    project.settings["stores"] = stores


def traces(folder: Path, *strings: str) -> list[str]:
    """`string: file` of every file below `folder` that holds one of the strings, as bytes, as JSON or as a value of a
    Parquet file; `folder` may hold files of any kind."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents = list(_contents(path))
            found += [f"{one}: {path.relative_to(folder)}" for one in strings if any(_forms(one, contents))]
    return found


def _forms(string: str, contents: list[bytes]) -> Iterator[bool]:
    for form in (string.encode(), string.encode("utf-16-le")):
        yield from (form in content for content in contents)


def _contents(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()
    yield str(path.name).encode()
    if path.suffix == ".parquet":
        with suppress(pa.ArrowInvalid):  # a damaged one has been read as bytes
            yield repr(pq.read_table(path).to_pylist()).encode()


def kept_chunks(project: Project, tenant: str, *doc_ids: str) -> tuple[set[str], set[bytes], set[bytes]]:
    """Of some documents, in all chunk files of any run: chunk ids, lake keys, and those that other documents have too.
    Without `doc_ids`, of the whole tenant."""
    ids: set[str] = set()
    own: set[bytes] = set()
    others: set[bytes] = set()
    for path in project.paths.chunks(1).rglob("*.parquet"):
        for one in pq.read_table(path, columns=["id", "tenant", "doc_id", "lake_key"]).to_pylist():
            if one["tenant"] == tenant and (not doc_ids or one["doc_id"] in doc_ids):
                ids.add(one["id"])
                own.add(one["lake_key"])
            else:
                others.add(one["lake_key"])
    return ids, own, own & others

"""The commented configuration that `m3 init` writes. Pure: what was found in, TOML out."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3core.config.toml import toml_key, toml_value
from pipelines.cli.survey import Found

_COMMENT_COLUMN = 40


@dataclass(frozen=True)
class Wishes:
    """What the command line decided."""

    name: str
    tenant: str
    base: Path


def compose(found: Sequence[Found], wishes: Wishes) -> str:
    """The file's text. It holds what has to be decided and what is often changed; the rest keeps its defaults."""
    lines = [
        "# What threefold ingests and how it is searched. Paths are relative to this file.",
        "# Every key there is: m3 config schema. Values in force: m3 config show.",
        "",
        "[collection]",
        _entry("name", wishes.name, "names state and stores; another name is another collection"),
        "",
        "[storage]",
        _entry("path", "m3-data", "state and stores; keep it on a local disk"),
        "",
        "[model]",
        _entry("name", "m3-small", "or a folder in BGE-M3's layout"),
        "",
    ]
    for name, source in _named(found):
        lines += [*_source(name, source, wishes), ""]
    lines += [*_fields(found), "", *_stores(), "", *_search(wishes)]
    return "\n".join(lines) + "\n"


def collection_name(path: Path) -> str:
    """A valid collection name made from a folder's or file's: `My Docs.jsonl` gives `my_docs`."""
    stem = path.stem if path.is_file() else path.name
    ascii_only = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii")
    cleaned = re.sub(r"[^a-z0-9]+", "_", ascii_only.lower()).strip("_")
    if not cleaned:
        return "documents"
    return (cleaned if cleaned[0].isalpha() else f"c_{cleaned}")[:41]


def _named(found: Sequence[Found]) -> Iterator[tuple[str, Found]]:
    """Each source with a name of its own."""
    taken: set[str] = set()
    for source in found:
        name = stem = collection_name(source.path.absolute())
        number = 2
        while name in taken:
            name, number = f"{stem[:36]}_{number}", number + 1
        taken.add(name)
        yield name, source


def _source(name: str, source: Found, wishes: Wishes) -> list[str]:
    lines = [
        f"[sources.{toml_key(name)}]",
        _entry("kind", source.kind, _counted(source)),
        _entry("path", _relative(source.path, wishes.base), 'or url = "s3://bucket/prefix" in its place'),
        _entry("tenant", wishes.tenant, "every document belongs to it"),
        *_acl(source),
    ]
    if source.columns is not None:
        lines += [_entry("id_field", source.columns.id_field, "unique per document")]
        lines += [_entry("text_field", source.columns.text_field, "what is encoded and searched")]
        lines.append("# Where rows have them, also read: title, language, tenant, acl, metadata.")
        if source.columns.unused:
            lines.append(f"# Not used: {', '.join(map(toml_key, source.columns.unused[:12]))}.")
    else:
        lines.append('# language = "en"'.ljust(_COMMENT_COLUMN) + "# of all documents here, if it is one")
    return lines


def _acl(source: Found) -> list[str]:
    if source.columns is not None and source.columns.own_acl:
        return [
            "# Documents here name their readers themselves; one that does not is refused, unless this is set.",
            '# acl = ["everyone"]',
        ]
    return [
        '# Who finds a document that does not name its readers itself. "everyone" is a principal like any',
        "# other: it is whom m3 search asks for unless --as says otherwise. Without an acl nothing is guessed:",
        "# such documents are refused.",
        _entry("acl", ["everyone"]),
    ]


def _counted(source: Found) -> str:
    texts = ", ".join(f"{count:,} {extension}" for extension, count in sorted(source.extensions.items()))
    return texts + (f"; others, left out: {source.others:,}" if source.others else "")


def _fields(found: Sequence[Found]) -> list[str]:
    declared = {name: kind for source in found if source.columns for name, kind in source.columns.fields.items()}
    head = [
        "# Metadata that searches can filter on: string, strings, integer, number or boolean. A document whose",
        "# value has another type is listed as failed.",
        "[fields]",
    ]
    return head + ([_entry(name, kind) for name, kind in declared.items()] or ['# year = "integer"'])


def _stores() -> list[str]:
    return [
        "[stores.main]",
        _entry("kind", "qdrant-edge", "embedded: no server needed"),
        _entry("signals", ["dense", "lexical", "multi"]),
        _entry("text", True, "exactly one store keeps the texts"),
    ]


def _search(wishes: Wishes) -> list[str]:
    return [
        "[search]",
        _entry("preset", "balanced", "long-documents, cross-lingual, dense-only"),
        _entry("limit", 10),
        _entry("tenant", wishes.tenant, "whom m3 search asks for without --as"),
        _entry("principals", ["everyone"]),
    ]


def _entry(key: str, value: object, comment: str = "") -> str:
    line = f"{toml_key(key)} = {toml_value(value)}"
    return f"{line:<{_COMMENT_COLUMN - 1}} # {comment}" if comment else line


def _relative(path: Path, base: Path) -> str:
    """`path` as seen from the configuration's folder, with forward slashes."""
    relative = Path(os.path.relpath(path.absolute(), base.absolute())).as_posix()
    return relative if relative.startswith("..") else f"./{relative}"

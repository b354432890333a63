"""From a section of the configuration to its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from m3core.config.model import FieldKind, SourceSection
from m3core.errors import ConfigError
from pipelines.ingest.documents import DocumentRules
from pipelines.ingest.sources.bucket import BucketTree
from pipelines.ingest.sources.files import LocalTree
from pipelines.ingest.sources.folder import FolderSource
from pipelines.ingest.sources.jsonl import JsonLinesSource
from pipelines.ingest.sources.parquet import ParquetSource
from pipelines.ingest.sources.protocol import Source
from pipelines.ingest.sources.tree import Tree


def open_source(name: str, section: SourceSection, base: Path, fields: Mapping[str, FieldKind] | None = None) -> Source:
    """The source of one section. `base` is what its path is relative to; `fields` are the declared metadata fields.

    Nothing is read yet.

    Raises:
        ConfigError: a folder has no default acl: its documents cannot name their own; an address is none.
        MissingExtraError: a bucket needs obstore.
    """
    rules = DocumentRules.of(section, fields or {})
    tree = tree_of(name, section, base)
    match section.kind:
        case "folder":
            if section.acl is None:
                raise ConfigError(
                    f"sources.{name}.acl is missing; a folder's documents cannot name their own principals",
                    f'set it, for example acl = ["everyone"] under [sources.{name}]',
                )
            return FolderSource(name, tree, rules, section.max_total_bytes)
        case "jsonl":
            return JsonLinesSource(name, tree, rules, section.max_total_bytes)
        case "parquet":
            return ParquetSource(name, tree, rules, section.max_total_bytes)


def tree_of(name: str, section: SourceSection, base: Path) -> Tree:
    """Where the files of one section lie; nothing is asked yet. ConfigError, MissingExtraError for a bucket."""
    if section.path is not None:
        return LocalTree(base / section.path.expanduser())
    # A folder is never one object.
    url = f"{section.url.rstrip('/')}/" if section.kind == "folder" else section.url
    return BucketTree.at(url, f"sources.{name}.url")

"""From a section of the configuration to its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from m3core.config.model import FieldKind, SourceSection
from m3core.errors import ConfigError
from pipelines.ingest.documents import DocumentRules
from pipelines.ingest.sources.folder import FolderSource
from pipelines.ingest.sources.jsonl import JsonLinesSource
from pipelines.ingest.sources.parquet import ParquetSource
from pipelines.ingest.sources.protocol import Source


def open_source(name: str, section: SourceSection, base: Path, fields: Mapping[str, FieldKind] | None = None) -> Source:
    """The source of one section. `base` is what its path is relative to; `fields` are the declared metadata fields.

    Nothing is read yet.

    Raises:
        ConfigError: a folder has no default acl: its documents cannot name their own.
    """
    rules = DocumentRules.of(section, fields or {})
    path = base / section.path.expanduser()
    match section.kind:
        case "folder":
            if section.acl is None:
                raise ConfigError(
                    f"sources.{name}.acl is missing; a folder's documents cannot name their own principals",
                    f'set it, for example acl = ["everyone"] under [sources.{name}]',
                )
            return FolderSource(name, path, rules, section.max_total_bytes)
        case "jsonl":
            return JsonLinesSource(name, path, rules, section.max_total_bytes)
        case "parquet":
            return ParquetSource(name, path, rules, section.max_total_bytes)

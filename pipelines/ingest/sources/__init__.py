"""Where documents come from: a folder of text and Markdown, JSON Lines, Parquet; on this machine or in a bucket."""

from __future__ import annotations

from pipelines.ingest.sources.protocol import SkipKind, Skipped, Source, SourceItem, Split, SplitLimits
from pipelines.ingest.sources.registry import open_source, tree_of

__all__ = ["SkipKind", "Skipped", "Source", "SourceItem", "Split", "SplitLimits", "open_source", "tree_of"]

"""A small collection in a folder: documents, configuration, and what its stores hold after a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from connectors.protocol import Sink
from connectors.registry import open_sink
from m3core.config.model import Config
from m3core.types import Row
from pipelines.ingest.generation import Build
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.report import IngestReport
from pipelines.ingest.run import IngestOptions, ingest
from pipelines.ingest.session import Request
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import store_options
from pipelines.state.collection import read_collection
from pipelines.state.manifest import DocumentRecord, Manifest
from pipelines.state.paths import StatePaths

MEMORY = {"main": {"kind": "memory"}}
EDGE = {"main": {"kind": "qdrant-edge"}}
EDGE_AND_MEMORY = {
    "main": {"kind": "qdrant-edge", "signals": ["dense", "lexical"]},
    "rerank": {"kind": "memory", "signals": ["multi"], "text": False},
}


@dataclass
class Project:
    """A folder with `docs/`, and a configuration that may be changed between runs.

    `number`: the generation that is looked at; 0 is the newest in the stores, and the first in the manifest.
    """

    base: Path
    model: Path
    settings: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    @property
    def docs(self) -> Path:
        return self.base / "docs"

    @property
    def config(self) -> Config:
        return Config.model_validate(self.raw())

    def raw(self) -> dict[str, Any]:
        """The configuration as plain values; `settings` override sections."""
        plain: dict[str, Any] = {
            "collection": {"name": "notes"},
            "model": {"name": str(self.model), "threads": 1},
            "sources": {"docs": {"kind": "folder", "path": "docs", "acl": ["everyone"]}},
            "chunking": {"max_tokens": 48},
            "ingest": {"wave_bytes": 1 << 16, "min_free_bytes": 1 << 20, "max_delete_fraction": 0.5},
            "stores": MEMORY,
        }
        return {**plain, **self.settings}

    def of_generation(self, number: int) -> Project:
        """The same folder, seen through one generation."""
        return replace(self, number=number)

    def write(self, name: str, text: str | bytes) -> None:
        """One document."""
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def write_many(self, count: int, paragraphs: int = 4) -> None:
        """Documents d000.md, d001.md, ..., each with its own words."""
        for number in range(count):
            self.write(f"d{number:03}.md", document(number, paragraphs))

    def write_lines(self, rows: Sequence[Mapping[str, Any] | str], name: str = "rows.jsonl") -> None:
        """A JSON Lines source instead of the folder; a string is a line as it is."""
        lines = (json.dumps(row) if isinstance(row, Mapping) else row for row in rows)
        (self.base / name).write_text("\n".join(lines) + "\n")
        self.settings["sources"] = {"rows": {"kind": "jsonl", "path": name}}

    def ingest(self, **options: Any) -> IngestReport:
        """One run in this process."""
        return ingest(self.config, self.base, NoProgress(), options=IngestOptions(**options))

    @property
    def paths(self) -> StatePaths:
        return StatePaths.of(self.base / self.config.storage.path, self.config.collection.name)

    @contextmanager
    def sink(self, store: str = "main") -> Iterator[Sink]:
        """The writing side of a store, to look at what is published."""
        state = read_collection(self.paths)
        assert state is not None
        generation = state.generation(self.number) if self.number else state.generations[-1]
        request = Request(
            config=self.config,
            options=IngestOptions(),
            storage=(self.base / self.config.storage.path).absolute(),
            build=Build.of(self.config, self.base),
            sources={},
            progress=NoProgress(),
            stop=StopFlag(),
        )
        binding = next(binding for binding in generation.stores if binding.name == store)
        sink = open_sink(binding.kind, store_options(generation, request)[store])
        try:
            yield sink
        finally:
            sink.close()

    def rows(self, store: str = "main") -> dict[str, int]:
        """Chunk id -> revision of everything that is published."""
        with self.sink(store) as sink:
            return dict(sink.scan())

    def records(self) -> dict[str, DocumentRecord]:
        """The manifest, by document id."""
        return {record.doc_id: record for record in Manifest(self.paths, self.number or 1).records()}

    def manifest_ids(self) -> set[str]:
        """Chunk ids that the manifest names."""
        return {chunk_id for record in self.records().values() for chunk_id in record.chunk_ids}

    def check_agreement(self) -> None:
        """Stores and manifest hold the same chunks, nothing is pending, nothing is left to delete."""
        records = list(Manifest(self.paths, self.number or 1).records())
        assert all(set(record.status.values()) == {"done"} for record in records)
        assert not any(record.obsolete_chunk_ids for record in records)
        expected = {chunk_id: record.revision for record in records for chunk_id in record.chunk_ids}
        for store in self.config.stores:
            assert self.rows(store) == expected


def document(number: int, paragraphs: int = 4) -> str:
    """Markdown with words of its own."""
    body = "\n\n".join(
        f"Paragraph {part} of note {number}: the key of laboratory {number * 7 + part} is at the front desk."
        for part in range(paragraphs)
    )
    return f"# Note {number}\n\n{body}\n"


def texts_of(rows: list[Row]) -> list[str]:
    """Bodies of rows, sorted."""
    return sorted(row.chunk.text for row in rows)

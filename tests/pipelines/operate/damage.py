"""Damage done by hand: to stores, chunk files and lake."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from connectors.protocol import EmbeddedSink, Sink
from m3core.types import Row
from pipelines.operate.audit import Audit, audit, work_folder
from pipelines.operate.collection import Collection, Place
from pipelines.state.chunks import ChunkFiles
from pipelines.state.lake import Lake
from tests.pipelines.ingest.projects import Project


def place_of(project: Project) -> Place:
    return Place.of(project.config, project.base)


def audited(project: Project, sample: int = 50) -> Audit:
    """One audit in this process; its findings are gone with its folder."""
    place = place_of(project)
    with work_folder(place) as folder:
        return audit(place, folder, sample=sample)


def change(project: Project, store: str, damage: Callable[[Sink], None]) -> None:
    """Change a store behind the back of the collection."""
    with project.sink(store) as sink:
        damage(sink)
        if isinstance(sink, EmbeddedSink):
            sink.publish()


def stored_rows(project: Project) -> dict[str, Row]:
    """Every chunk of the manifest as a row, from chunk files and lake."""
    collection = Collection.open(place_of(project))
    revisions = {name: record.revision for record in project.records().values() for name in record.chunk_ids}
    lake = Lake(project.paths, collection.generation.encoder_fingerprint)
    rows = {}
    for found in ChunkFiles(project.paths, 1).read(revisions, revisions):
        (vectors,) = lake.read(list(lake.find([found.lake_key]).values()))
        rows[found.chunk.id] = Row(found.chunk, vectors, found.run)
    return rows


def foreign(row: Row) -> Row:
    """The same row under an id that no document has."""
    return replace(row, chunk=replace(row.chunk, id=str(uuid.uuid4())))


def opposite(row: Row) -> Row:
    """The same row with vectors of another direction."""
    vectors = row.vectors
    turned = replace(vectors, dense=-vectors.dense, multi=-vectors.multi, lexical_weights=vectors.lexical_weights * 2)
    return replace(row, vectors=turned)


def spoil(path: Path) -> None:
    """Flip some bytes in the first quarter of a file, where its data is: a footer has no checksum."""
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[len(data) // 4 : len(data) // 4 + 8] ^= 0xFF
    path.write_bytes(data.tobytes())


def once_in_the_lake(project: Project) -> bool:
    """Whether no text was encoded into two files."""
    (folder,) = (project.paths.root / "lake").iterdir()
    files = Lake(project.paths, folder.name).files()
    names = [key for path in files for key in pq.read_table(path, columns=["key"]).column("key").to_pylist()]
    return len(names) == len(set(names)) > 0


def lake_files(project: Project) -> list[Path]:
    return sorted((project.paths.root / "lake").glob("*/*.parquet"))

"""From records of the manifest back to chunk rows: documents that are as they were, but that a store waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipelines.ingest.stores import Standing
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.documents import REFUSED
from pipelines.state.manifest import DocumentRecord


@dataclass
class Restored:
    """Records with the stores that wait for them marked, their rows, and the stores that each row is for.

    `lost` records have chunks that no chunk file has.
    """

    records: list[DocumentRecord] = field(default_factory=list)
    rows: list[ChunkRow] = field(default_factory=list)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lost: list[DocumentRecord] = field(default_factory=list)


def restore(records: Iterable[DocumentRecord], chunk_files: ChunkFiles, standing: Standing) -> Restored:
    """Rows from the chunk files, with the revision that the manifest names: stores that have them stay as they are.

    Documents that only absent stores wait for are left out.
    """
    wanted = [record for record in records if standing.can_serve(record)]
    revisions = {chunk_id: record.revision for record in wanted for chunk_id in record.chunk_ids}
    rows = {row.chunk.id: row for row in chunk_files.read(revisions, revisions)}
    restored = Restored()
    for record in wanted:
        if not all(chunk_id in rows for chunk_id in record.chunk_ids):
            restored.lost.append(record)
            continue
        waiting = standing.waiting(record)
        others = {name: state if state == REFUSED else "done" for name, state in record.status.items()}
        restored.records.append(replace(record, status={**others, **dict.fromkeys(waiting, "pending")}))
        restored.rows += [rows[chunk_id] for chunk_id in record.chunk_ids]
        restored.targets.update(dict.fromkeys(record.chunk_ids, waiting))
    return restored

"""What earlier attempts of a job left behind, taken into the commit of the one that ends it.

An engine repeats a job that fails. A document may have changed in between, and then stores may hold rows of a version
that nobody else knows of: its chunk files name them, as they do for the next run when a whole run died (`adopting.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipelines.ingest.commit import Outcome
from pipelines.ingest.reading import Prepared
from pipelines.state.manifest import DocumentKey


def with_strays(outcomes: Iterable[Outcome], written: Iterable[Sequence[tuple[str, DocumentKey]]]) -> list[Outcome]:
    """The outcomes of a wave, where documents also owe the deletion of chunks that the wave wrote for them (`written`,
    by chunk file) and that their last version does not have."""
    every = list(outcomes)
    prepared = {one.record.key: one.record for one in every if isinstance(one, Prepared)}
    strays: dict[DocumentKey, set[str]] = {}
    for owners in written:
        for chunk_id, key in owners:
            record = prepared.get(key)
            if record is not None and chunk_id not in record.chunk_ids:
                strays.setdefault(key, set()).add(chunk_id)
    return [_owing(one, strays) for one in every] if strays else every


def _owing(outcome: Outcome, strays: dict[DocumentKey, set[str]]) -> Outcome:
    if not isinstance(outcome, Prepared) or outcome.record.key not in strays:
        return outcome
    record = outcome.record
    obsolete = tuple(sorted(strays[record.key].union(record.obsolete_chunk_ids)))
    return replace(outcome, record=replace(record, obsolete_chunk_ids=obsolete))

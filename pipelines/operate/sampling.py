"""A sample of stored vectors against the lake, through what the protocol offers: scores of given rows.

Three texts of the sample are the probes: a store scores every row of the sample against each, and so do the formulas,
from the lake's vectors. Another vector of the same text length would have to agree in three directions to pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from connectors.filters.tree import Everything
from connectors.protocol import Searcher
from m3core import scoring
from m3core.types import ChunkVectors, QueryVectors, Signal
from pipelines.operate.collection import Collection
from pipelines.operate.expected import Expected, ExpectedRow, row_of
from pipelines.operate.findings import Finding, Findings
from pipelines.operate.stores import SECONDS, Store
from pipelines.state.lake import Lake, LakeDamageError
from pipelines.state.tables import duckdb_connection

_PROBES = 3
# Stores may keep 8 bits of a multi-vector (1.2e-3 seen); what is another text's vector differs by far more.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class Sample:
    """Some chunks and their vectors in the lake."""

    rows: Mapping[str, ExpectedRow]
    vectors: Mapping[str, ChunkVectors]

    @property
    def probes(self) -> list[QueryVectors]:
        """Vectors of the first few, as queries."""
        return [_query(self.vectors[name]) for name in list(self.vectors)[:_PROBES]]


def draw(collection: Collection, expected: Expected, size: int) -> Sample:
    """At most `size` chunks that wait for no store: other ones after another run, the same ones of the same state."""
    query = """
    SELECT * FROM read_parquet($expected)
    WHERE NOT obsolete AND len(pending) = 0 AND lake_key IS NOT NULL
    ORDER BY md5(id || $seed), id LIMIT $size
    """
    values = {"expected": str(expected.file), "seed": str(collection.state.run), "size": size}
    with duckdb_connection(expected.folder) as database:
        found = database.sql(query, params=values).to_arrow_table().to_pylist()
    rows = {row.id: row for row in map(row_of, found)}
    lake = Lake(collection.paths, collection.generation.encoder_fingerprint, read_only=True)
    places = lake.find({row.lake_key or "" for row in rows.values()})
    vectors: dict[str, ChunkVectors] = {}
    for name, row in rows.items():
        place = places.get(row.lake_key or "")
        if place is None:
            continue
        try:
            vectors[name] = lake.read([place])[0]
        except LakeDamageError:
            continue  # told by the check of the lake
    return Sample({name: rows[name] for name in vectors}, vectors)


def compare_vectors(store: Store, sample: Sample, findings: Findings) -> int:
    """Scores of the store against the formulas' on the lake's vectors; how many rows were compared."""

    async def compare(searcher: Searcher) -> int:
        wrong: set[str] = set()
        compared: set[str] = set()
        ids = list(sample.vectors)
        for probe in sample.probes:
            for signal in store.signals:
                scores = await searcher.score(signal, probe, ids, Everything(), SECONDS)
                wrong |= {name for name in scores if _differs(scores[name], signal, probe, sample.vectors[name])}
                compared |= scores.keys()
        for name in sorted(wrong):
            row = sample.rows[name]
            findings.add(Finding(store.name, "wrong_vectors", name, row.tenant, row.doc_id, row.revision, row.revision))
        return len(compared)

    return store.ask(compare) if store.published and sample.vectors else 0


def _differs(score: float, signal: Signal, probe: QueryVectors, vectors: ChunkVectors) -> bool:
    right = _score(signal, probe, vectors)
    return abs(score - right) > TOLERANCE * max(1.0, abs(right))


def _score(signal: Signal, probe: QueryVectors, vectors: ChunkVectors) -> float:
    if signal is Signal.DENSE and probe.dense is not None:
        return float(scoring.dense(probe.dense, vectors.dense[None, :])[0])
    if signal is Signal.LEXICAL and probe.lexical_ids is not None and probe.lexical_weights is not None:
        return scoring.lexical(probe.lexical_ids, probe.lexical_weights, vectors.lexical_ids, vectors.lexical_weights)
    return scoring.max_sim(_multi(probe), vectors.multi)


def _multi(probe: QueryVectors) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.zeros((0, 0), np.float32) if probe.multi is None else probe.multi


def _query(vectors: ChunkVectors) -> QueryVectors:
    return QueryVectors(
        dense=vectors.dense.astype(np.float32),
        lexical_ids=vectors.lexical_ids,
        lexical_weights=vectors.lexical_weights,
        multi=vectors.multi.astype(np.float32),
    )

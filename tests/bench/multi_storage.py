"""Multi-vectors in every form that Qdrant Edge and Milvus can keep them in: bytes, time, and what nDCG loses.

Edge: fp32, fp16, 8 bits by its own code (Turbo8), and fp16 that is first searched in 8 bits or in 1 bit. Milvus Lite
keeps fp16 packed; scores are computed here. MaxSim alone ranks, because nothing else would show a loss.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from connectors.snapshots.disk import allocated_bytes
from m3core import scoring
from m3core.evaluate.beir import ndcg_rows
from m3core.types import Float32Array, Row, Signal
from tests.bench.store_rows import DevSet

_BATCH = 256
_SCORED = 200


def _forms() -> Mapping[str, Mapping[str, Any]]:
    kinds = edge.VectorStorageDatatype
    forms: dict[str, Mapping[str, Any]] = {
        "f32": {"datatype": kinds.Float32},
        "f16": {"datatype": kinds.Float16},
        "turbo8": {"datatype": kinds.Turbo8},
    }
    if hasattr(edge, "ScalarQuantizationConfig"):
        scalar = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, always_ram=False)
        forms["f16 + int8"] = {"datatype": kinds.Float16, "quantization_config": scalar}
    if hasattr(edge, "BinaryQuantizationConfig"):
        binary = edge.BinaryQuantizationConfig(always_ram=False)
        forms["f16 + binary"] = {"datatype": kinds.Float16, "quantization_config": binary}
    return forms


def storage_table(dev: DevSet, rows: Sequence[Row], place: Path) -> None:
    """Print a line per form."""
    exact = ndcg_rows(dev.exact[Signal.MULTI], dev.gains).mean()
    print(f"\nmulti-vectors, {len(rows):,} rows of {dev.name}; MaxSim alone in fp32: nDCG@10 {exact:.4f}")
    for name, form in _forms().items():
        shard = _filled(place / name.replace(" ", ""), form, rows)
        size = allocated_bytes(place / name.replace(" ", "")) / len(rows)
        scores, milliseconds = _scores(shard, dev)
        shard.close()
        loss = 100 * (exact - ndcg_rows(scores, dev.gains).mean())
        print(f"  edge {name:<13} {size:8,.0f} bytes/chunk  {_SCORED} ids {milliseconds:6.1f} ms  loses {loss:+.2f}")
    packed = np.array(
        [[scoring.max_sim(_multi(query), row.vectors.multi) for row in dev.rows] for query in dev.queries], np.float32
    )
    loss = 100 * (exact - ndcg_rows(packed, dev.gains).mean())
    size = sum(2 * row.vectors.multi.size for row in rows) / len(rows)
    print(f"  milvus fp16 packed or in structs: {size:,.0f} bytes/chunk before its own, loses {loss:+.2f}", flush=True)


def _filled(folder: Path, form: Mapping[str, Any], rows: Sequence[Row]) -> edge.EdgeShard:
    folder.mkdir(parents=True)
    params = edge.EdgeVectorParams(
        size=rows[0].vectors.multi.shape[1],
        distance=edge.Distance.Dot,
        multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
        hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        memory=edge.Memory.Cold,
        **form,
    )
    shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors={"multi": params}, wal_enabled=False))
    for start in range(0, len(rows), _BATCH):
        points = [
            edge.Point(row.chunk.id, {"multi": row.vectors.multi.tolist()}, {}) for row in rows[start : start + _BATCH]
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.flush()
    return shard


def _scores(shard: edge.EdgeShard, dev: DevSet) -> tuple[Float32Array, float]:
    """`[Q, N]` of the set's rows, and the median milliseconds for 200 of them."""
    ids = [row.chunk.id for row in dev.rows]
    place = {chunk_id: index for index, chunk_id in enumerate(ids)}
    scores = np.zeros((len(dev.queries), len(ids)), np.float32)
    times = []
    for number, query in enumerate(dev.queries):
        vectors = _multi(query)
        for wanted in filter(None, (ids[:_SCORED], ids[_SCORED:])):
            began = time.perf_counter()
            hits = shard.query(
                edge.QueryRequest(
                    query=edge.Query.Nearest(vectors.tolist(), using="multi"),
                    filter=edge.Filter(must=[edge.HasIdCondition(set(wanted))]),
                    limit=len(wanted),
                )
            )
            if wanted[0] == ids[0]:
                times.append(1e3 * (time.perf_counter() - began))
            for hit in hits:
                scores[number, place[str(hit.id)]] = hit.score / len(vectors)
    return scores, float(np.median(times))


def _multi(query: Any) -> Float32Array:
    vectors: Float32Array = query.multi
    return vectors

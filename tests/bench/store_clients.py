"""How fast rows go into a store: ours, and the client's own bulk helper with the same rows and the same stored form.

Both turn rows into what the client takes within the measured time. Ours writes in batches as a run does: a unit of the
lake, as far as it is within a batch's bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from connectors.protocol import Sink, StoreOptions
from connectors.registry import open_sink
from m3core.types import Row
from pipelines.state.lake import UNIT_TOKENS

_BATCH = 256
Load = Callable[[StoreOptions, Sequence[Row]], float]


def ours(kind: str) -> Load:
    """Seconds that our sink takes until the rows are acknowledged and flushed."""

    def load(options: StoreOptions, rows: Sequence[Row]) -> float:
        sink = prepared(kind, options)
        began = time.perf_counter()
        for batch in as_a_run_does(rows):
            assert not sink.write(batch).failures
        sink.flush()
        seconds = time.perf_counter() - began
        sink.close()
        return seconds

    return load


def as_a_run_does(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in the batches that a run would write: units of so many tokens, whose vectors are within a batch's bytes."""
    batch: list[Row] = []
    tokens = 0
    for row in rows:
        if batch and tokens + row.chunk.token_count > UNIT_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += row.chunk.token_count
    yield batch


def prepared(kind: str, options: StoreOptions) -> Sink:
    """A sink on an empty generation that is being built."""
    sink = open_sink(kind, replace(options, building=True, revision=1))
    sink.ensure(options.schema)
    return sink


def edge_alone(options: StoreOptions, rows: Sequence[Row]) -> float:
    """`EdgeShard.update` with batches of points, then `flush`."""
    import qdrant_edge as edge

    from connectors.qdrant.edge.schema import index_operations, point_of, shard_config

    folder = options.root / "alone"
    folder.mkdir(parents=True)
    shard = edge.EdgeShard.create(str(folder), shard_config(options.schema))
    for operation in index_operations(options.schema):
        shard.update(operation)
    began = time.perf_counter()
    for start in range(0, len(rows), _BATCH):
        points = [point_of(row, options.schema) for row in rows[start : start + _BATCH]]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    seconds = time.perf_counter() - began
    shard.close()
    return seconds


def elasticsearch_streaming(options: StoreOptions, rows: Sequence[Row]) -> float:
    """`helpers.streaming_bulk` with its defaults."""
    from elasticsearch import helpers

    return _elasticsearch(options, rows, helpers.streaming_bulk)


def elasticsearch_parallel(options: StoreOptions, rows: Sequence[Row]) -> float:
    """`helpers.parallel_bulk` with its defaults: four threads."""
    from elasticsearch import helpers

    return _elasticsearch(options, rows, helpers.parallel_bulk)


def _elasticsearch(options: StoreOptions, rows: Sequence[Row], bulk: Callable[..., object]) -> float:
    from connectors.elasticsearch.client import index_name, open_client
    from connectors.elasticsearch.schema import document_of

    prepared("elasticsearch", options).close()
    client, index = open_client(options), index_name(options)
    actions = (
        {
            "_op_type": "index",
            "_index": index,
            "_id": row.chunk.id,
            "version": 1,
            "version_type": "external_gte",
            "_source": document_of(row, options.schema),
        }
        for row in rows
    )
    began = time.perf_counter()
    for ok, _ in bulk(client, actions):  # type: ignore[attr-defined]
        assert ok
    client.indices.refresh(index=index)
    seconds = time.perf_counter() - began
    client.close()
    return seconds


def milvus_alone(options: StoreOptions, rows: Sequence[Row]) -> float:
    """`MilvusClient.upsert` with batches of records."""
    from connectors.milvus.client import Milvus
    from connectors.milvus.records import part_records, record_of
    from connectors.milvus.sink import MilvusSink

    prepared("milvus", options).close()
    server = Milvus(options)
    layout = server.layout()
    main, *beside = (each.name for each in server.collections())

    def upsert(client: object, seconds: float) -> None:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            for name in beside:
                client.upsert(name, [part for row in batch for part in part_records(row)])  # type: ignore[attr-defined]
            client.upsert(main, [record_of(row, options.schema, layout) for row in batch])  # type: ignore[attr-defined]

    began = time.perf_counter()
    server.ask(upsert, 3600.0)
    sink = MilvusSink(options)
    sink.flush()
    seconds = time.perf_counter() - began
    sink.close()
    server.close()
    return seconds


THEIRS: dict[str, dict[str, Load]] = {
    "qdrant-edge": {"EdgeShard.update": edge_alone},
    "elasticsearch": {"streaming_bulk": elasticsearch_streaming, "parallel_bulk": elasticsearch_parallel},
    "milvus": {"MilvusClient.upsert": milvus_alone},
}


def bytes_of(kind: str, options: StoreOptions, server_data: Path | None) -> int:
    """What the loaded generation takes on the disk."""
    if kind == "elasticsearch":
        from connectors.elasticsearch.client import index_name, open_client

        client, index = open_client(options), index_name(options)
        client.options(request_timeout=300).indices.forcemerge(index=index, max_num_segments=1)
        size = client.indices.stats(index=index, metric="store")["_all"]["primaries"]["store"]["size_in_bytes"]
        client.close()
        return int(size)
    from connectors.snapshots.disk import allocated_bytes

    return allocated_bytes(options.folder if server_data is None else server_data)

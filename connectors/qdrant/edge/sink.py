"""The writing side of Qdrant Edge: changes a working copy of the published snapshot and publishes it at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path

import qdrant_edge as edge

from connectors.protocol import Capabilities, CollectionSchema, Patch, StoreFacts, StoreOptions, WriteResult
from connectors.qdrant.edge.schema import (
    READ_ONLY_FILES,
    SHARD_FOLDER,
    check_description,
    edge_capabilities,
    index_operations,
    patched_payload,
    point_of,
    shard_config,
    vacuum,
    write_description,
)
from connectors.qdrant.edge.shard import load_shard, shard_errors
from connectors.rows import check_opened_for, checked_patches, split_rows
from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.disk import allocated_bytes, private_folder, require_free
from connectors.snapshots.slots import SnapshotCopy
from m3core.disk import disk_usage
from m3core.types import Row

# Vectors of one upsert as float32; its Python and Rust forms are a few times that for a moment.
_BATCH_BYTES = 16 << 20
_PAGE = 1000


class EdgeSink:
    """Sink of kind "qdrant-edge" (an `EmbeddedSink` and a `CompactingSink`).

    The published snapshot is copied at the first change, so a run without changes copies nothing. Edge holds Python's
    global lock during a call: `optimize`, at `publish`, stops every other thread for as long as it takes.
    """

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._chain = SnapshotChain(options.folder, READ_ONLY_FILES)
        self._folder: Path | None = None
        self._shard: edge.EdgeShard | None = None

    @property
    def capabilities(self) -> Capabilities:
        return edge_capabilities(self._schema)

    @property
    def dirty(self) -> bool:
        return self._folder is not None

    def ensure(self, schema: CollectionSchema) -> None:
        """Check the published snapshot against `schema`; before the first, begin an empty one."""
        check_opened_for(schema, self._options)
        published = self._chain.current_folder()
        if published is None:
            self._writable()
        else:
            check_description(published, schema, self._options.name)

    def write(self, rows: Sequence[Row]) -> WriteResult:
        good, failures = split_rows(rows, self._schema, self.capabilities)
        for batch in self._batches(good):
            shard = self._writable()
            require_free(self._options.root, self._options.min_free_bytes + 2 * sum(map(_row_bytes, batch)))
            with self._errors():
                shard.update(edge.UpdateOperation.upsert_points([point_of(row, self._schema) for row in batch]))
        return WriteResult(len(good), failures)

    def delete(self, ids: Sequence[str]) -> None:
        if ids:
            shard = self._writable()
            with self._errors():
                shard.update(edge.UpdateOperation.delete_points(list(ids)))

    def patch(self, patches: Sequence[Patch]) -> None:
        if not checked_patches(patches, self._schema):
            return
        shard = self._writable()
        require_free(self._options.root, self._options.min_free_bytes)
        with self._errors():
            found = shard.retrieve([patch.id for patch in patches], ["tenant"], False)
            tenants = {str(row.id): str((row.payload or {})["tenant"]) for row in found}
            for patch in patches:
                if patch.id in tenants:
                    payload = patched_payload(patch, tenants[patch.id], self._schema)
                    shard.update(edge.UpdateOperation.set_payload([patch.id], payload))

    def scan(self) -> Iterator[tuple[str, int]]:
        with self._readable() as shard:
            at: str | None = None
            while shard is not None:
                with self._errors():
                    request = edge.ScrollRequest(offset=at, limit=_PAGE, with_payload=["revision"])
                    records, following = shard.scroll(request)
                for record in records:
                    yield str(record.id), int((record.payload or {})["revision"])
                if following is None:
                    return
                at = str(following)

    def count(self) -> int:
        with self._readable() as shard:
            if shard is None:
                return 0
            with self._errors():
                return shard.count(edge.CountRequest(exact=True))

    def facts(self) -> StoreFacts:
        disk = disk_usage(self._options.root)
        return StoreFacts(version("qdrant-edge-py"), free_bytes=disk.free, total_bytes=disk.total)

    def verify(self) -> bool:
        published = self._chain.current_folder()
        if published is not None:
            check_description(published, self._schema, self._options.name)
        return published is not None

    def flush(self) -> None:
        """Make the working copy durable; readers see nothing before `publish`."""
        if self._shard is not None:
            with self._errors():
                self._shard.flush()

    def compact(self) -> None:
        """Edge keeps the bytes of deleted rows until a fifth of a segment is deleted: here one row is enough."""
        self._writable()
        if self._folder is None:
            return
        place = self._folder / SHARD_FOLDER
        require_free(self._options.root, self._options.min_free_bytes + allocated_bytes(self._folder))
        self._close_shard()
        self._shard = load_shard(place, self._options.name, shard_config(self._schema, vacuum(always=True)))
        with self._errors():
            self._shard.optimize()
            self._shard.flush()
        self._close_shard()
        self._shard = load_shard(place, self._options.name, shard_config(self._schema, vacuum(always=False)))

    def publish(self) -> None:
        if self._folder is None:
            return
        shard = self._writable()
        # Optimizing writes a changed segment anew before it drops the old one.
        require_free(self._options.root, self._options.min_free_bytes + allocated_bytes(self._folder))
        with self._errors():
            shard.optimize()
            shard.flush()
        self._close_shard()
        self._chain.publish(self._options.min_free_bytes)
        self._folder = None

    def discard(self) -> None:
        try:
            self._close_shard()
        finally:
            self._chain.discard()
            self._folder = None

    def drop(self) -> None:
        self.discard()
        self._chain.drop()

    def close(self) -> None:
        """Release the store; what was not published is dropped."""
        self.discard()

    def _writable(self) -> edge.EdgeShard:
        """The working copy's shard; begins one if there is none."""
        if self._folder is None:
            self._folder = self._chain.begin(self._options.min_free_bytes)
        if self._shard is None:
            self._shard = self._open(self._folder)
        return self._shard

    def _open(self, folder: Path) -> edge.EdgeShard:
        place = folder / SHARD_FOLDER
        if place.exists():
            check_description(folder, self._schema, self._options.name)
            return load_shard(place, self._options.name)
        private_folder(place)
        write_description(folder, self._schema)
        with self._errors():
            shard = edge.EdgeShard.create(str(place), shard_config(self._schema))
            for operation in index_operations(self._schema):
                shard.update(operation)
        return shard

    @contextmanager
    def _readable(self) -> Iterator[edge.EdgeShard | None]:
        """The working copy's shard, else a private copy of the published one, else None."""
        if self._folder is not None:
            yield self._writable()
        elif self._chain.current() is None:
            yield None
        else:
            with self._chain.open_copy(min_free=self._options.min_free_bytes) as copy:
                shard = self._open_copy(copy)
                try:
                    yield shard
                finally:
                    shard.close()

    def _open_copy(self, copy: SnapshotCopy) -> edge.EdgeShard:
        check_description(copy.path, self._schema, self._options.name)
        return load_shard(copy.path / SHARD_FOLDER, self._options.name)

    def _close_shard(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            with self._errors():
                shard.close()

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += _row_bytes(row)
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _errors(self) -> AbstractContextManager[None]:
        return shard_errors(self._options.name)


def _row_bytes(row: Row) -> int:
    vectors = row.vectors
    return 4 * (vectors.dense.size + vectors.multi.size + 2 * vectors.lexical_ids.size) + 4 * len(row.chunk.text) + 1024

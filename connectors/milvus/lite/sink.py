"""The writing side of Milvus Lite in process: changes a working copy of the published snapshot, as Edge does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from connectors.milvus.lite.folder import OpenFolder, check_folder, lite_capabilities, lite_version
from connectors.milvus.sink import MilvusSink
from connectors.protocol import Capabilities, CollectionSchema, Patch, StoreFacts, StoreOptions, WriteResult
from connectors.rows import check_opened_for, checked_patches
from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.disk import allocated_bytes, require_free
from m3core.disk import disk_usage
from m3core.types import Row


class LiteSink:
    """Sink of kind "milvus-lite" (an `EmbeddedSink`). The published snapshot is copied at the first change."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._chain = SnapshotChain(options.folder)
        self._folder: Path | None = None
        self._opened: OpenFolder | None = None
        self._inner: MilvusSink | None = None

    @property
    def capabilities(self) -> Capabilities:
        return lite_capabilities(self._schema)

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
            check_folder(published, self._options)

    def write(self, rows: Sequence[Row]) -> WriteResult:
        if not rows:
            return WriteResult(0)
        require_free(self._options.root, self._options.min_free_bytes + sum(map(_row_bytes, rows)))
        return self._writable().write(rows)

    def delete(self, ids: Sequence[str]) -> None:
        if ids:
            self._writable().delete(ids)

    def patch(self, patches: Sequence[Patch]) -> None:
        if checked_patches(patches, self._schema):
            require_free(self._options.root, self._options.min_free_bytes)
            self._writable().patch(patches)

    def scan(self) -> Iterator[tuple[str, int]]:
        with self._readable() as inner:
            if inner is not None:
                yield from inner.scan()

    def count(self) -> int:
        with self._readable() as inner:
            return 0 if inner is None else inner.count()

    def facts(self) -> StoreFacts:
        disk = disk_usage(self._options.root)
        return StoreFacts(lite_version(), free_bytes=disk.free, total_bytes=disk.total)

    def verify(self) -> bool:
        published = self._chain.current_folder()
        if published is not None:
            check_folder(published, self._options)
        return published is not None

    def flush(self) -> None:
        """Nothing: what is not published is thrown away, and publishing writes everything."""

    def publish(self) -> None:
        if self._folder is None:
            return
        self._writable()
        # Closing writes what is in memory beside what is there.
        require_free(self._options.root, self._options.min_free_bytes + allocated_bytes(self._folder))
        self._release()
        self._chain.publish(self._options.min_free_bytes)
        self._folder = None

    def discard(self) -> None:
        try:
            self._release()
        finally:
            self._chain.discard()
            self._folder = None

    def drop(self) -> None:
        self.discard()
        self._chain.drop()

    def close(self) -> None:
        """Release the store; what was not published is dropped."""
        self.discard()

    def _writable(self) -> MilvusSink:
        """A sink on the working copy; begins one if there is none."""
        if self._folder is None:
            self._folder = self._chain.begin(self._options.min_free_bytes)
        if self._opened is None:
            self._opened = OpenFolder.open(self._folder, self._options)
        if self._inner is None:
            self._inner = self._opened.sink()
        return self._inner

    @contextmanager
    def _readable(self) -> Iterator[MilvusSink | None]:
        """A sink on the working copy, else on a private copy of the published one, else None."""
        if self._folder is not None:
            yield self._writable()
        elif self._chain.current() is None:
            yield None
        else:
            with ExitStack() as stack:
                copy = stack.enter_context(self._chain.open_copy(min_free=self._options.min_free_bytes))
                opened = OpenFolder.open(copy.path, self._options)
                stack.callback(opened.close)
                inner = opened.sink()
                stack.callback(inner.close)
                yield inner

    def _release(self) -> None:
        inner, self._inner = self._inner, None
        opened, self._opened = self._opened, None
        if inner is not None:
            inner.close()
        if opened is not None:
            opened.close()


def _row_bytes(row: Row) -> int:
    """About what a row takes on the disk: fp32 and base64, once in the log and once in a segment."""
    vectors = row.vectors
    return 8 * (vectors.dense.size + vectors.multi.size + 2 * vectors.lexical_ids.size) + 4 * len(row.chunk.text) + 4096

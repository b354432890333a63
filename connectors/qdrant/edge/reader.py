"""One open shard on a private copy of the published snapshot, exchanged when a new snapshot is published."""

from __future__ import annotations

import qdrant_edge as edge

from connectors.protocol import StoreOptions
from connectors.qdrant.edge.schema import READ_ONLY_FILES, SHARD_FOLDER, check_description
from connectors.qdrant.edge.shard import load_shard
from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.readahead import ReadAhead
from connectors.snapshots.slots import SnapshotCopy
from m3core.errors import StoreError

# How long a request waits for another process to finish a copy. Copies share their large files and take milliseconds,
# except on file systems without hard links.
_COPY_SECONDS = 0.5


class EdgeReader:
    """Used by one thread at a time."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._chain = SnapshotChain(options.folder, READ_ONLY_FILES)
        self._copy: SnapshotCopy | None = None
        self._shard: edge.EdgeShard | None = None
        self._ahead: ReadAhead | None = None
        self._warm = False

    def shard(self) -> edge.EdgeShard:
        """The newest published snapshot, open. Raises StoreError; for the first one also LockedError, DiskFullError."""
        if self._shard is None or self._copy is None:
            return self._exchange(self._chain.open_copy(min_free=self._options.min_free_bytes))
        copy = self._chain.newer_copy(self._copy, wait=_COPY_SECONDS, min_free=self._options.min_free_bytes)
        return self._shard if copy is None else self._exchange(copy)

    def warm(self) -> ReadAhead | None:
        """Open the newest snapshot, and read it and all later ones into the system's cache, beside the searches.

        Returns what reads the newest, for those who wait for it.
        """
        self.shard()
        if not self._warm:
            self._warm = True
            self._read_ahead()
        return self._ahead

    def close(self) -> None:
        """Release shard and copy; idempotent."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.stop()
        shard, self._shard = self._shard, None
        copy, self._copy = self._copy, None
        if shard is not None:
            shard.close()
        if copy is not None:
            copy.close()

    def _exchange(self, copy: SnapshotCopy) -> edge.EdgeShard:
        try:
            check_description(copy.path, self._options.schema, self._options.name)
            shard = load_shard(copy.path / SHARD_FOLDER, self._options.name)
        except StoreError:
            copy.spoil()  # the next reader makes a fresh copy
            copy.close()
            raise
        self.close()
        self._copy, self._shard = copy, shard
        if self._warm:
            self._read_ahead()
        return shard

    def _read_ahead(self) -> None:
        if self._copy is not None:
            self._ahead = ReadAhead(self._copy.path)

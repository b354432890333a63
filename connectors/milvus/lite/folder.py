"""What lies in one snapshot: Milvus Lite's own folder, and beside it what it was made for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from connectors.milvus.lite.server import LiteServer
from connectors.milvus.schema import Layout, check_description, description, milvus_capabilities
from connectors.milvus.searcher import MilvusSearcher
from connectors.milvus.sink import MilvusSink
from connectors.protocol import Capabilities, CollectionSchema, Connection, StoreOptions
from connectors.snapshots.disk import private_folder, write_text
from m3core.errors import StoreError

_DATA = "milvus"
_DESCRIPTION = "schema.json"


def lite_capabilities(schema: CollectionSchema) -> Capabilities:
    """Those of Milvus, in a folder."""
    return replace(milvus_capabilities(schema), embedded=True)


@dataclass(frozen=True)
class OpenFolder:
    """Milvus Lite on a working copy or a private copy, and options that lead to it."""

    server: LiteServer
    options: StoreOptions

    @classmethod
    def open(cls, folder: Path, options: StoreOptions) -> OpenFolder:
        """Open what lies in `folder`, or begin there. Raises StoreError if it was made for another schema."""
        if (folder / _DATA).exists():
            check_folder(folder, options)
        else:
            private_folder(folder / _DATA)
            write_text(folder / _DESCRIPTION, description(options.schema, Layout.PACKED))
        server = LiteServer(folder / _DATA, options.name)
        return cls(server, replace(options, connection=Connection(url=server.url)))

    def sink(self) -> MilvusSink:
        """The writing side; the collections are made if they are missing."""
        sink = MilvusSink(self.options)
        sink.ensure(self.options.schema)
        return sink

    def searcher(self) -> MilvusSearcher:
        """The reading side."""
        return MilvusSearcher(self.options)

    def close(self) -> None:
        """Release the folder; sinks and searchers were closed."""
        self.server.stop()


def check_folder(folder: Path, options: StoreOptions) -> None:
    """Raise StoreError unless the snapshot in `folder` was made for the schema."""
    try:
        found = (folder / _DESCRIPTION).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"store {options.name!r}: {folder / _DESCRIPTION} cannot be read: {type(error).__name__}",
            "restore the folder from a backup",
        ) from None
    check_description(found, options.schema, Layout.PACKED, options.name, str(folder))


def lite_version() -> str:
    """Of the engine that is installed."""
    return version("milvus-lite")

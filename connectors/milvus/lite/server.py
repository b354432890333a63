"""Milvus Lite in this process: its engine behind a socket in a private folder, for the same client as any server."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from milvus_lite.exceptions import MilvusLiteError
from pymilvus.grpc_gen import milvus_pb2_grpc

from m3core.errors import StoreError

_THREADS = 4
_GRACE_SECONDS = 5.0
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class LiteServer:
    """Serves `folder` at `url` until `stop`. The folder is Milvus Lite's own; nobody else may have it open.

    The socket lies in a folder of mode 0700: a port of the loopback interface would be open to every user of the
    machine, and Lite asks for no key. Raises StoreError.
    """

    def __init__(self, folder: Path, store: str) -> None:
        self._store = store
        # Sockets have short names: not below the store's folder, whose path may be long.
        self._place = Path(tempfile.mkdtemp(prefix="m3-lite-"))
        try:
            self._engine = MilvusLite(str(folder))
        except (MilvusLiteError, OSError, ValueError) as error:
            shutil.rmtree(self._place, ignore_errors=True)
            raise StoreError(
                f"store {store!r}: Milvus Lite cannot open its folder ({type(error).__name__})",
                "restore the folder from a backup, or build a new generation",
            ) from None
        self.url = f"unix:{self._place / 'lite.sock'}"
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="milvus-lite"), options=_UNLIMITED)
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(self._engine), self._server)
        self._server.add_insecure_port(self.url)
        self._server.start()

    def stop(self) -> None:
        """Write what is in memory to the folder and release it. Raises StoreError."""
        self._server.stop(_GRACE_SECONDS).wait()
        try:
            self._engine.close()
        except (MilvusLiteError, OSError) as error:
            raise StoreError(
                f"store {self._store!r}: Milvus Lite could not write its folder ({type(error).__name__})",
                "see whether the disk is full; run again",
            ) from None
        finally:
            shutil.rmtree(self._place, ignore_errors=True)

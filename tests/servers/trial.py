"""`make servers`: a real Elasticsearch and a Milvus Lite server for a person to try threefold on, until Ctrl-C.

python -m tests.servers.trial [--folder FOLDER]

Prints a configuration that spreads the three representations over Qdrant Edge and both. Without FOLDER all data is gone
at the end.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.servers.elasticsearch import start_elasticsearch
from tests.servers.milvus import start_milvus
from tests.servers.missing import MissingPartError
from tests.servers.process import ServerProcess

CONFIG = """\
[stores.vectors]
kind = "qdrant-edge"
signals = ["dense"]
text = false

[stores.words]
kind = "elasticsearch"
signals = ["lexical"]
text = true
url = "{elasticsearch}"

[stores.tokens]
kind = "milvus"
signals = ["multi"]
text = false
url = "{milvus}"
"""
_WATCH_SECONDS = 0.5


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make servers", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the servers' data from one time to the next")
    folder = parser.parse_args(argv).folder
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        place = folder.absolute() if folder else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            return _serve(place, stack, stop)
        except (MissingPartError, RuntimeError) as error:
            print(f"make servers: {error}", file=sys.stderr)
            return 1


def _serve(place: Path, stack: ExitStack, stop: threading.Event) -> int:
    """Start both, print, and wait; 1 if one of them ends by itself. `stack` stops them."""
    print("starting Elasticsearch and Milvus Lite ...", file=sys.stderr)
    elasticsearch = start_elasticsearch(place / "elasticsearch", _unless_taken(9200))
    stack.callback(elasticsearch.process.stop)
    milvus = start_milvus(place / "milvus", _unless_taken(19530))
    stack.callback(milvus.process.stop)
    print(CONFIG.format(elasticsearch=elasticsearch.url, milvus=milvus.url), flush=True)
    print(
        "Put this into m3.toml in place of its [stores] and run m3 doctor. Ctrl-C stops both servers.", file=sys.stderr
    )
    running = {"Elasticsearch": elasticsearch.process, "Milvus Lite": milvus.process}
    while not stop.wait(_WATCH_SECONDS):
        if ended := [name for name, server in running.items() if not _runs(server)]:
            print(f"make servers: {ended[0]} ended by itself:\n{running[ended[0]].log()}", file=sys.stderr)
            return 1
    print("stopping both ...", file=sys.stderr)
    return 0


def _runs(server: ServerProcess) -> bool:
    return server.process.poll() is None


def _unless_taken(port: int) -> int | None:
    """The port that people know, or None, which takes any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
    return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`make servers`: what it prints is a configuration that works, and Ctrl-C leaves nothing running."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from connectors.protocol import Connection, StoreOptions
from connectors.registry import open_sink
from m3core.types import Signal
from tests.conformance.data import SCHEMA, make_rows
from tests.servers.elasticsearch import assembled
from tests.servers.jdk import find_jdk
from tests.servers.missing import MissingPartError, skip_or_fail
from tests.servers.trial import CONFIG

pytestmark = [pytest.mark.xdist_group("elasticsearch"), pytest.mark.slow]


def listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), timeout=5).close()
    except OSError:
        return False
    return True


def test_it_prints_a_configuration_that_fans_out_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    try:
        assembled(find_jdk(21))
    except MissingPartError as missing:
        skip_or_fail(missing)
    command = [sys.executable, "-m", "tests.servers.trial", "--folder", str(tmp_path / "servers")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            printed = "".join(process.stdout.readline() for _ in range(len(CONFIG.splitlines())))
            stores = tomllib.loads(printed)["stores"]
            for name, table in stores.items():
                signals = frozenset(map(Signal, table["signals"]))
                schema = replace(SCHEMA, signals=signals, keeps_text=table.get("text", False))
                options = StoreOptions(
                    name, tmp_path / name, schema, 1 << 20, Connection(table.get("url", "")), building=True
                )
                with closing(open_sink(table["kind"], options)) as sink:
                    sink.ensure(schema)
                    assert sink.write(make_rows(3)).acknowledged == 3
                    assert sink.count() == 3
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert sorted(stores) == ["tokens", "vectors", "words"]
    assert "Ctrl-C stops both servers" in said
    assert not any(listens(table["url"]) for table in stores.values() if "url" in table)

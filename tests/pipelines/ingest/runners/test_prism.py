"""The graph on Prism, Beam's portable local runner, where it is built; the launcher itself is the worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli.runner import runner_of
from tests.infra.tools import tool
from tests.pipelines.ingest.runners.test_direct import change, end_state, fill, project_on, told
from tests.servers.process import ServerProcess, free_ports
from tests.servers.running import Servers


@pytest.fixture
def prism(tmp_path: Path) -> Iterator[str]:
    """Its job endpoint."""
    (port,) = free_ports(1)
    server = ServerProcess.start([tool("prism"), f"--job_port={port}", "--serve_http=false"], tmp_path / "prism")

    def listens() -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    server.wait_until(listens, 60)
    yield f"localhost:{port}"
    server.stop()


@pytest.mark.slow
def test_prism_ends_where_a_local_run_ends(prism: str, tmp_path: Path, tiny_model: Path, servers: Servers) -> None:
    local = project_on(servers, tmp_path / "local", tiny_model)
    other = project_on(servers, tmp_path / "prism-run", tiny_model)
    section = {"kind": "portable", "job_endpoint": prism, "environment": "loopback", "first_sign": 240.0}
    other.settings["runner"] = {**other.settings["runner"], **section}
    for step in (fill, change):
        for project in (local, other):
            step(project)
        here, there = local.ingest(), other.ingest(runner=runner_of(other.config))
        assert told(there) == told(here)
        assert end_state(other) == end_state(local)

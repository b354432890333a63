"""A real Elasticsearch node that is stopped, killed and restarted around runs, beside an embedded store."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.run import ingest
from tests.pipelines.ingest.ingest_process import IngestProcess
from tests.pipelines.ingest.projects import Project, document
from tests.pipelines.operate.conftest import configured
from tests.servers.elasticsearch import ElasticsearchServer, start_elasticsearch
from tests.servers.faults import Reset, fault_proxy
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = pytest.mark.xdist_group("elasticsearch")

_SECONDS = 300
_APPEND = "pipelines.state.manifest:Manifest.append"
_WRITE = "connectors.elasticsearch.sink:ElasticsearchSink.write"
_DELETE = "connectors.elasticsearch.sink:ElasticsearchSink.delete"
_FLUSH = "connectors.elasticsearch.sink:ElasticsearchSink.flush"


@dataclass
class Node:
    """A node of its own, always at the same address."""

    folder: Path
    server: ElasticsearchServer

    @property
    def url(self) -> str:
        return self.server.url

    def kill(self) -> None:
        self.server.process.kill()

    def start(self) -> None:
        self.server = start_elasticsearch(self.folder, int(self.url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    try:
        node = Node(folder, start_elasticsearch(folder))
    except MissingPartError as missing:
        skip_or_fail(missing)
    yield node
    node.server.process.stop()


@pytest.fixture
def node(shared_node: Node, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Running, whatever a test before left."""
    monkeypatch.setattr("connectors.elasticsearch.sink.PATIENCE_SECONDS", 1.0)
    if shared_node.server.process.process.poll() is not None:
        shared_node.start()
    return shared_node


@pytest.fixture
def both(tmp_path: Path, tiny_model: Path, node: Node) -> Project:
    return project_at(tmp_path, tiny_model, node.url)


def project_at(folder: Path, model: Path, url: str) -> Project:
    stores: dict[str, Any] = {
        "vectors": {"kind": "qdrant-edge", "signals": ["dense", "multi"], "text": False},
        "words": {"kind": "elasticsearch", "signals": ["lexical"], "url": url, "prefix": f"{folder.name.lower()}_"},
    }
    made = Project(folder, model, {"stores": stores})
    made.docs.mkdir()
    return made


def m3(project: Project, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The command in a process of its own, on the project's configuration."""
    code = "import sys; from pipelines.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments, "-c", str(configured(project)), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    return done.returncode, json.loads(done.stdout)


def change(project: Project) -> None:
    """One document goes, one changes, three come."""
    (project.docs / "d000.md").unlink()
    project.write("d001.md", document(1).replace("Paragraph 1", "Another paragraph"))
    for number in range(6, 9):
        project.write(f"d{number:03}.md", document(number))


def test_a_node_that_is_down_for_two_nights_catches_up_without_the_model(both: Project, node: Node) -> None:
    both.write_many(6)
    assert both.ingest().exit_code is ExitCode.OK
    node.kill()
    change(both)
    code, report = m3(both, "ingest")
    assert (code, report["stores"]["words"]["pending"]) == (ExitCode.PENDING, 5)
    assert "cannot be reached" in report["stores"]["words"]["error"]["message"]
    both.write("d001.md", document(1).replace("Paragraph 2", "A third one"))
    (both.docs / "d002.md").unlink()
    assert m3(both, "ingest")[0] == ExitCode.PENDING
    code, answer = m3(both, "load", "--pending")
    assert (code, answer["error"]["code"]) == (ExitCode.UNREACHABLE, "store")

    node.start()
    code, status = m3(both, "status")
    assert status["stores"]["words"]["pending"] == 6
    assert [fault["remedy"] for fault in status["faults"] if "wait for words" in fault["what"]] == ["m3 load --pending"]
    code, loaded = m3(both, "load", "--pending")
    assert (code, loaded["tokens"]["encoded"], loaded["deleted"]) == (ExitCode.OK, 0, 2)
    both.check_agreement()
    code, again = m3(both, "ingest")
    assert (code, again["chunks"]["written"], again["unchanged"]) == (ExitCode.OK, 0, 7)


def test_a_node_that_dies_and_comes_back_during_a_run(both: Project, node: Node) -> None:
    both.write_many(150, paragraphs=6)

    class Killing(NoProgress):
        def loaded(self, rows: int) -> None:
            super().loaded(rows)
            if self.meter.rows > 200 and node.server.process.process.poll() is None:
                node.kill()

        def publishing(self) -> None:
            node.start()

    report = ingest(both.config, both.base, Killing())
    assert (report.exit_code, report.documents.added) == (ExitCode.PENDING, 150)
    assert 0 < report.stores["words"].pending <= 150
    code, loaded = m3(both, "load", "--pending", "--store", "words")
    assert (code, loaded["tokens"]["encoded"]) == (ExitCode.OK, 0)
    both.check_agreement()


@pytest.mark.parametrize("point", [f"{_WRITE}:after:1", f"{_APPEND}:after:1", f"{_DELETE}:before:1"])
def test_a_load_that_is_killed_is_repeated(both: Project, node: Node, point: str) -> None:
    both.write_many(6)
    both.ingest()
    node.kill()
    change(both)
    assert both.ingest().exit_code is ExitCode.PENDING
    node.start()
    process = IngestProcess.start(both.raw(), both.base, f"{point}:SIGKILL", "load")
    assert process.wait(_SECONDS) == -signal.SIGKILL, process.said
    assert m3(both, "load", "--pending")[0] == ExitCode.OK
    both.check_agreement()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(12))
def test_faults_and_kills_in_any_order_end_in_agreement(
    tmp_path: Path, tiny_model: Path, node: Node, seed: int
) -> None:
    chance = random.Random(seed)
    with fault_proxy(node.url) as proxy:
        both = project_at(tmp_path, tiny_model, proxy.url)
        both.write_many(12)
        for step in range(4):
            broken = chance.random() < 0.5
            proxy.choose = lambda method, path, broken=broken: Reset("before") if broken else None
            both.write(f"d{chance.randrange(12):03}.md", document(chance.randrange(1000)))
            (both.docs / f"d{chance.randrange(12):03}.md").unlink(missing_ok=True)
            both.write(f"n{step}.md", document(2000 + step))
            place = chance.choice((_WRITE, _APPEND, _DELETE, _FLUSH))
            point = f"{place}:{chance.choice(('before', 'after'))}:{chance.randrange(1, 4)}:SIGKILL"
            command = chance.choice(("ingest", "ingest", "load", "embed"))
            IngestProcess.start(both.raw(), both.base, point, command).wait(_SECONDS)
        proxy.choose = lambda method, path: None
        both.ingest()
        both.check_agreement()
        assert len(both.records()) == len(list(both.docs.iterdir()))

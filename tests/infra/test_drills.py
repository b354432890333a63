"""The disaster drills of infra/RUNBOOK.md, on real stores and with the real command: what it says is what happens.

Qdrant Edge keeps dense vectors, an Elasticsearch node words and texts, a Milvus Lite server tokens. `pytest -s` shows
the transcript that the runbook quotes from.
"""

from __future__ import annotations

import io
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.main import main
from tests.servers.milvus import MilvusServer, start_milvus
from tests.servers.process import free_ports
from tests.servers.qdrant import qdrant_stand_in
from tests.servers.running import Servers

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("elasticsearch")]

_COUNT = 12
SECRET_WORD = "zirbenholz"


@dataclass
class Site:
    """A collection of a few documents, and the command run on it."""

    folder: Path
    model: Path
    stores: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.write(range(_COUNT))
        self.config.write_text(
            f'[collection]\nname = "drill"\n[storage]\npath = "{self.storage}"\n[model]\nname = "{self.model}"\n'
            '[sources.docs]\nkind = "jsonl"\npath = "documents.jsonl"\nacl = ["everyone"]\n'
            "[ingest]\nmax_delete_fraction = 1.0\n" + self.stores
        )

    @property
    def config(self) -> Path:
        return self.folder / "m3.toml"

    @property
    def storage(self) -> Path:
        return self.folder / "disk" / "m3-data"

    def write(self, numbers: Any, *, edited: Any = ()) -> None:
        """The source holds these documents, some of them changed."""
        lines = [
            json.dumps({"doc_id": f"doc-{n}", "text": f"The key {n} of the laboratory. {SECRET_WORD if n == 3 else ''}"
                        + (" Ask the front desk." if n in edited else "")})
            for n in numbers
        ]  # fmt: skip
        (self.folder / "documents.jsonl").write_text("\n".join(lines) + "\n")

    def m3(self, *words: str, code: int = 0) -> str:
        """Run a command of the runbook; what it says."""
        out, told = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(told):
            for name, value in self.environment.items():
                patch.setenv(name, value)
            ended = main([*words, "-c", str(self.config)])
        text = out.getvalue() + told.getvalue()
        print(f"$ m3 {' '.join(words)}\n{text}[exit code {ended}]", flush=True)
        assert ended == code, text
        return out.getvalue()

    def found(self, question: str) -> list[str]:
        """Documents that a search finds."""
        told = json.loads(self.m3("search", question, "--as", "default:everyone", "--json"))
        return [hit["doc_id"] for hit in told["hits"]]


@dataclass
class Stores:
    """The servers of all drills; Milvus can be taken away."""

    folder: Path
    elasticsearch: str
    milvus: MilvusServer

    def config(self, name: str) -> str:
        prefix = f"{name}_{secrets.token_hex(4)}_"
        return f"""
[stores.vectors]
kind = "qdrant-edge"
signals = ["dense"]
text = false

[stores.words]
kind = "elasticsearch"
signals = ["lexical"]
url = "{self.elasticsearch}"
prefix = "{prefix}"

[stores.tokens]
kind = "milvus"
signals = ["multi"]
text = false
url = "{self.milvus.url}"
prefix = "{prefix}"
"""

    def lose_milvus(self) -> None:
        """Its disk is gone; it starts again, empty."""
        port = int(self.milvus.url.rpartition(":")[2])
        self.milvus.process.stop()
        shutil.rmtree(self.folder / "milvus" / "data")
        self.milvus = start_milvus(self.folder / "milvus", port)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Stores]:
    folder = tmp_path_factory.mktemp("stores")
    running = Stores(folder, servers.need("elasticsearch"), start_milvus(folder / "milvus", free_ports(1)[0]))
    yield running
    running.milvus.process.stop()


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own."""
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "m3-drill", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a file system of its own needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_restore_of_the_state_from_a_copy(tmp_path: Path, tiny_model: Path, stores: Stores) -> None:
    site = Site(tmp_path, tiny_model, stores.config("restore"))
    site.m3("ingest")
    copy = tmp_path / "backup"
    subprocess.run(["cp", "-a", str(site.storage), str(copy)], check=True)
    # Three nights after the copy: edits, a new document, one that is gone. Then the disk dies.
    site.write([n for n in range(_COUNT + 1) if n != 5], edited=(1, 2))
    site.m3("ingest")
    for edited in ((2, 3), (2, 3, 4)):
        site.write([n for n in range(_COUNT + 1) if n != 5], edited=edited)
        site.m3("ingest")
    shutil.rmtree(site.storage)
    subprocess.run(["cp", "-a", str(copy), str(site.storage)], check=True)
    site.m3("audit", code=8)
    # Elasticsearch keeps rows of later runs against a state that does not know them.
    site.m3("ingest", code=6)
    site.m3("repair", "--max-delete-fraction", "1")
    site.m3("ingest")
    site.m3("audit")
    assert "doc-12" in site.found("key 12")
    assert "doc-5" not in site.found("key 5")


def test_a_store_lost(tmp_path: Path, tiny_model: Path, stores: Stores) -> None:
    site = Site(tmp_path, tiny_model, stores.config("lost"))
    site.m3("ingest")
    before = site.found("key 3")
    stores.lose_milvus()
    site.m3("audit", code=7)
    site.m3("load")
    site.m3("audit")
    assert site.found("key 3") == before


def test_the_disk_full(tmp_path: Path, tiny_model: Path, stores: Stores) -> None:
    with small_disk(tmp_path / "disk", 200):
        site = Site(tmp_path, tiny_model, stores.config("full"))
        site.m3("ingest", code=7)
        subprocess.run(["mount", "-o", "remount,size=2g", str(tmp_path / "disk")], check=True)
        site.m3("ingest")
        site.m3("audit")


def test_a_wrong_key(tmp_path: Path, tiny_model: Path, stores: Stores) -> None:
    with qdrant_stand_in(api_key="right") as server:
        config = stores.config("key").replace('kind = "qdrant-edge"', 'kind = "qdrant"')
        config = config.replace("text = false\n", f'text = false\nurl = "{server.url}"\napi_key = "env:DRILL_KEY"\n', 1)
        site = Site(tmp_path, tiny_model, config, {"DRILL_KEY": "wrong"})
        site.m3("doctor", code=7)
        site.m3("ingest", code=4)
        site.environment["DRILL_KEY"] = "right"
        site.m3("load", "--pending")
        site.m3("ingest")
        site.m3("audit")
        assert "right" not in "".join(path.read_text("utf-8", "replace") for path in site.storage.rglob("*.json"))


def test_a_purge_after_a_restore(tmp_path: Path, tiny_model: Path, stores: Stores) -> None:
    site = Site(tmp_path, tiny_model, stores.config("purge"))
    site.m3("ingest")
    copy = tmp_path / "backup"
    subprocess.run(["cp", "-a", str(site.storage), str(copy)], check=True)
    site.m3("purge", "--tenant", "default", "--doc", "doc-3")
    # The restore brings the document back, but not over the newest tombstones.
    newest = tmp_path / "tombstones"
    subprocess.run(["cp", "-a", str(site.storage / "tombstones"), str(newest)], check=True)
    shutil.rmtree(site.storage)
    subprocess.run(["cp", "-a", str(copy), str(site.storage)], check=True)
    shutil.rmtree(site.storage / "tombstones", ignore_errors=True)
    subprocess.run(["cp", "-a", str(newest), str(site.storage / "tombstones")], check=True)
    site.m3("purge", "--again")
    site.m3("ingest")
    site.m3("audit")
    assert "doc-3" not in site.found(SECRET_WORD)

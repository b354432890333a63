"""Searches in a loop, in a process of their own, while another one builds, promotes and rolls back."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from connectors.registry import open_sink
from m3core.config.model import Config
from m3core.errors import ExitCode, StoreError
from m3core.types import Identity
from pipelines.operate.collection import Collection, Place
from pipelines.operate.dropping import DropRequest, drop
from pipelines.operate.promoting import PromoteRequest, promote, rollback
from pipelines.operate.stores import stores_of
from pipelines.query.request import SearchRequest
from pipelines.query.router import SyncRouter
from pipelines.state.collection import read_collection
from pipelines.state.manifest import Manifest
from tests.pipelines.ingest.projects import EDGE, Project
from tests.servers.running import Servers, connection_of
from tests.tiny import make_tiny_model

_SECONDS = 240.0
EVERYONE = Identity("default", ("everyone",))


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Project:
    """An empty collection with the tiny model."""
    made = Project(tmp_path, tiny_model)
    made.docs.mkdir()
    return made


@dataclass(frozen=True)
class Searching:
    """A process that searches until it is told to stop, and writes a line for each answer."""

    lines: Path
    stop: Path

    def answers(self) -> list[dict[str, Any]]:
        """What it was answered so far."""
        if not self.lines.exists():
            return []
        return [json.loads(line) for line in self.lines.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, generation: int) -> None:
        """Until the last answers are of that generation."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            answers = self.answers()
            if answers and answers[-1]["generation"] == generation:
                return
            time.sleep(0.05)
        raise TimeoutError(f"no answer of generation {generation}: {self.answers()[-3:]}")


def _search(raw: dict[str, Any], base: Path, lines: Path, stop: Path) -> None:
    number = 0
    with lines.open("w") as file, SyncRouter.open(Config.model_validate(raw), base) as router:
        while not stop.exists():
            number += 1
            try:
                answer = router.search(SearchRequest(f"the key of laboratory {number % 9}", EVERYONE, limit=10))
                told: dict[str, Any] = {
                    "generation": answer.generation,
                    "ids": [hit.id for hit in answer.hits],
                    "documents": sorted({hit.doc_id for hit in answer.hits}),
                    "degraded": answer.degraded,
                }
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
                told = {"generation": 0, "error": f"{type(error).__name__}: {error}"}
            file.write(json.dumps(told) + "\n")
            file.flush()
            time.sleep(0.02)  # two cores are shared


@contextmanager
def searching(project: Project) -> Iterator[Searching]:
    """While entered, another process searches under the configuration as it is now."""
    process_of = Searching(project.base / "answers.jsonl", project.base / "stop")
    context = multiprocessing.get_context("spawn")
    arguments = (project.raw(), project.base, process_of.lines, process_of.stop)
    process = context.Process(target=_search, args=arguments)
    process.start()
    try:
        process_of.wait_for(1)
        yield process_of
    finally:
        process_of.stop.touch()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
    assert process.exitcode == 0


def ids_of(project: Project, generation: int) -> set[str]:
    manifest = Manifest(project.paths, generation)
    return {chunk_id for record in manifest.records() for chunk_id in record.chunk_ids}


def place_of(project: Project) -> Place:
    return Place.of(project.config, project.base)


def test_every_search_sees_one_generation_whole_while_another_model_is_built_and_promoted(
    project: Project, tmp_path: Path
) -> None:
    project.settings |= {"stores": EDGE, "chunking": {"max_tokens": 48}}
    project.write_many(6)
    project.ingest()
    with searching(project) as others:
        old, project.model = project.model, make_tiny_model(tmp_path / "other", seed=1)
        project.settings["chunking"] = {"max_tokens": 96}
        assert project.ingest(build=True).exit_code is ExitCode.OK
        assert {answer["generation"] for answer in others.answers()} == {1}
        assert promote(PromoteRequest(place_of(project))).flipped
        others.wait_for(2)
        assert rollback(PromoteRequest(place_of(project))).flipped
        others.wait_for(1)
    answers = others.answers()
    known = {number: ids_of(project, number) for number in (1, 2)}
    assert known[1] != known[2]
    documents = [f"d{number:03}.md" for number in range(6)]
    for answer in answers:
        assert answer.get("error") is None
        assert (answer["degraded"], answer["documents"]) == (False, documents)
        assert set(answer["ids"]) <= known[answer["generation"]]
    assert [number for number, _ in groupby(answer["generation"] for answer in answers)] == [1, 2, 1]
    project.model = old


def test_what_a_search_holds_is_not_dropped(project: Project) -> None:
    project.settings |= {"stores": EDGE, "chunking": {"max_tokens": 48}}
    project.write_many(2)
    project.ingest()
    project.settings["chunking"] = {"max_tokens": 96}
    project.ingest(build=True)
    with SyncRouter.open(project.config, project.base) as router:
        assert router.search(SearchRequest("key", EVERYONE)).generation == 1
        assert promote(PromoteRequest(place_of(project))).flipped
        held = drop(DropRequest(place_of(project), 1, now=True))
        assert "held by readers" in held.stores["main"]
        assert held.exit_code is ExitCode.UNREACHABLE
        assert router.search(SearchRequest("key", EVERYONE)).generation == 2
        assert drop(DropRequest(place_of(project), 1, now=True)).exit_code is ExitCode.OK
    assert not (place_of(project).store_folder("main") / "g00001").exists()


@pytest.mark.xdist_group("elasticsearch")
def test_a_generation_leaves_elasticsearch_when_it_is_dropped(project: Project, servers: Servers) -> None:
    servers.need("elasticsearch")
    reached = connection_of("elasticsearch", project.base)
    project.settings |= {
        "chunking": {"max_tokens": 48},
        "stores": {
            "vectors": {"kind": "qdrant-edge", "signals": ["dense", "multi"], "text": False},
            "words": {"kind": "elasticsearch", "signals": ["lexical"], "url": reached.url, "prefix": reached.prefix},
        },
    }
    project.write_many(3)
    project.ingest()
    project.settings["chunking"] = {"max_tokens": 96}
    project.ingest(build=True)
    (project.docs / "d001.md").unlink()
    project.settings["chunking"] = {"max_tokens": 48}
    project.ingest()
    done = promote(PromoteRequest(place_of(project)))
    assert [check.detail for check in done.checks if not check.passed] == []
    state = read_collection(project.paths)
    assert state is not None
    words = {
        one.number: next(
            store for store in stores_of(Collection(place_of(project), state, one)) if store.name == "words"
        )
        for one in state.generations
    }
    assert words[1].count() > 0
    assert drop(DropRequest(place_of(project), 1, now=True)).stores == {"vectors": "", "words": ""}
    with pytest.raises(StoreError, match="has no index"):
        words[1].count()
    assert words[2].count() == len(ids_of(project, 2))
    with SyncRouter.open(project.config, project.base) as router:
        assert {hit.doc_id for hit in router.search(SearchRequest("key", EVERYONE)).hits} == {"d000.md", "d002.md"}
    for store in words.values():  # the server outlives this test
        sink = open_sink("elasticsearch", store.options())
        sink.drop()
        sink.close()

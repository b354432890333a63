"""A real Flink cluster does what a local run does: the sample corpus, then an update with edits and deletes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode
from m3core.types import Identity
from pipelines.cli.demo_run import PRINCIPALS, TENANT, read_questions
from pipelines.cli.main import main
from pipelines.query.request import SearchRequest
from pipelines.query.router import SyncRouter
from tests.flink.samples import Collection
from tests.pipelines.ingest.projects import document
from tests.servers.flink import FlinkCluster
from tests.servers.running import Servers

pytestmark = [pytest.mark.flink, pytest.mark.xdist_group("flink")]

_QUESTIONS = 12


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, m3_small: Path, servers: Servers, cluster: FlinkCluster
) -> tuple[Collection, Collection]:
    """The sample corpus, locally and on the cluster, after a first run and an update; compared after each."""
    folder = tmp_path_factory.mktemp("sample")
    local = Collection.sample(folder / "local", m3_small, servers, None)
    other = Collection.sample(folder / "cluster", m3_small, servers, cluster)
    for change in (lambda _: None, edit):
        change(local)
        change(other)
        assert told(other) == told(local)
        assert records(other) == records(local)
        compare_answers(local, other)
    return local, other


def told(collection: Collection) -> dict[str, Any]:
    """One run: its counts. What it cost is the engine's own."""
    report = collection.ingest()
    assert report.exit_code == ExitCode.OK, report
    return {
        "documents": asdict(report.documents),
        "written": report.chunks_written,
        "deleted": report.chunks_deleted,
        "encoded": report.tokens_encoded,
    }


def records(collection: Collection) -> dict[str, Any]:
    return {name: asdict(replace(record, stamp="")) for name, record in collection.records().items()}


def compare_answers(local: Collection, other: Collection) -> None:
    for here, there in zip(answers(local), answers(other), strict=True):
        assert [name for name, _ in there] == [name for name, _ in here]
        assert [score for _, score in there] == pytest.approx([score for _, score in here], abs=1e-5)


def answers(collection: Collection) -> list[list[tuple[str, float]]]:
    """Chunks and scores of some questions of the sample."""
    found = []
    with SyncRouter.open(collection.config, collection.base) as router:
        for question in read_questions()[:_QUESTIONS]:
            answer = router.search(SearchRequest(question.query, Identity(TENANT, PRINCIPALS), limit=20))
            assert not answer.degraded
            found.append([(hit.doc_id, hit.score) for hit in answer.hits])
    return found


def edit(collection: Collection) -> None:
    """Two documents get another text, three go, one comes."""
    file = collection.base / "documents.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for row in rows[10:12]:
        row["text"] += "\n\nThe night train leaves from platform 5."
    rows[3:6] = [{**rows[0], "doc_id": "new-1", "text": document(7)}]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def test_the_sample_and_an_update_end_as_they_do_locally(two: tuple[Collection, Collection]) -> None:
    _, other = two
    assert set(other.encoded().values()) == {1}


def test_search_answers_from_what_the_cluster_wrote(
    two: tuple[Collection, Collection], capsys: pytest.CaptureFixture[str]
) -> None:
    other = two[1]
    asked = ["search", "-c", str(other.base / "m3.toml"), "night train platform 5", "--json"]
    assert main([*asked, "--as", f"{TENANT}:{','.join(PRINCIPALS)}"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert any("platform 5" in hit["text"] for hit in hits[:3])


def test_the_audit_finds_nothing(two: tuple[Collection, Collection]) -> None:
    assert main(["audit", "-c", str(two[1].base / "m3.toml")]) == 0

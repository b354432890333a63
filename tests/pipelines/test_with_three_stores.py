"""Dense vectors embedded, words and texts in Elasticsearch, multi-vectors in Milvus: together they answer as one store.

The embedded default is the measure: its multi-vectors lie in 8 bits, so scores agree within 1e-3 and not exactly.
"""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from m3core.config.model import Config
from m3core.errors import ExitCode, StoreError
from m3core.types import Identity, Signal
from pipelines.cli.demo_run import PRINCIPALS, TENANT, prepare, read_questions
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.run import ingest
from pipelines.query.answer import Coverage
from pipelines.query.request import SearchRequest
from pipelines.query.router import SyncRouter
from pipelines.state.paths import StatePaths
from tests.pipelines.ingest.projects import EDGE, Project
from tests.pipelines.three_stores import three_stores
from tests.servers.running import Servers

pytestmark = [pytest.mark.xdist_group("elasticsearch"), pytest.mark.slow]

QUERIES = ("who keeps the key of laboratory 22", "Note 3", "paragraph front desk", "night train", "低温実験室の鍵")
Hits = list[tuple[str, float]]


@pytest.fixture
def stores(servers: Servers, tmp_path: Path) -> dict[str, Any]:
    return three_stores(servers, tmp_path)


def project_of(folder: Path, model: Path, stores: dict[str, Any]) -> Project:
    made = Project(folder, model, {"stores": stores})
    made.docs.mkdir(parents=True)
    return made


def answers(project: Project) -> list[Hits]:
    """For each query all documents with their scores, so that none is on the other side of a cut."""
    found = []
    with SyncRouter.open(project.config, project.base) as router:
        for query in QUERIES:
            answer = router.search(SearchRequest(query, Identity("default", ("everyone",)), limit=100))
            assert not answer.degraded
            assert set(answer.coverage) == set(Signal)
            for hit in answer.hits:
                assert hit.text.splitlines()[0] in (project.docs / hit.doc_id).read_text("utf-8")
            found.append([(hit.doc_id, hit.score) for hit in answer.hits])
    return found


def assert_alike(one: list[Hits], other: list[Hits]) -> None:
    """The same documents with the same scores; the order may differ only where scores tie."""
    for left, right in zip(one, other, strict=True):
        assert left
        assert dict(left) == pytest.approx(dict(right), abs=1e-3)
        scores = dict(right)
        assert all(scores[above[0]] >= scores[below[0]] - 2e-3 for above, below in pairwise(left))


def test_three_stores_answer_as_one_and_follow_every_change(
    tmp_path: Path, tiny_model: Path, stores: dict[str, Any]
) -> None:
    three = project_of(tmp_path / "three", tiny_model, stores)
    embedded = project_of(tmp_path / "embedded", tiny_model, EDGE)
    for project in (three, embedded):
        project.write_many(8)
        assert project.ingest().exit_code == ExitCode.OK
    three.check_agreement()
    assert_alike(answers(three), answers(embedded))
    for project in (three, embedded):
        project.write("d003.md", "# Night trains\n\nThe night train leaves from platform 5.\n")
        (project.docs / "d005.md").unlink()
        report = project.ingest()
        assert (report.documents.changed, report.documents.deleted) == (1, 1)
    three.check_agreement()
    assert_alike(answers(three), answers(embedded))
    assert three.ingest().chunks_written == 0


def test_without_milvus_a_search_goes_on_and_says_so(tmp_path: Path, tiny_model: Path, stores: dict[str, Any]) -> None:
    project = project_of(tmp_path / "three", tiny_model, stores)
    project.write_many(3)
    project.ingest()
    project.settings["stores"]["tokens"]["url"] = "http://127.0.0.1:9"
    request = SearchRequest("Note 2", Identity("default", ("everyone",)), limit=5)
    with SyncRouter.open(project.config, project.base) as router:
        answer = router.search(request)
        assert answer.degraded
        assert answer.coverage[Signal.MULTI] is not Coverage.OK
        assert answer.coverage[Signal.DENSE] is answer.coverage[Signal.LEXICAL] is Coverage.OK
        assert answer.hits
        with pytest.raises(StoreError):
            router.search(SearchRequest("Note 2", request.identity, limit=5, require=(Signal.MULTI,)))


def test_the_sample_questions_are_answered_in_the_embedded_order(
    tmp_path: Path, m3_small: Path, stores: dict[str, Any]
) -> None:
    """m3-small, 120 documents, 40 questions in many languages. The second ingest finds its vectors in the lake."""
    plain = prepare(tmp_path / "embedded", str(m3_small))
    three = Config.model_validate({**plain.config.model_dump(), "stores": stores})
    ingest(plain.config, plain.base, NoProgress())
    shutil.copytree(_lake(plain.config, plain.base), _lake(three, tmp_path / "three"))
    shutil.copy(plain.base / "documents.jsonl", tmp_path / "three")
    ingest(three, tmp_path / "three", NoProgress())
    overlaps = []
    with SyncRouter.open(plain.config, plain.base) as one, SyncRouter.open(three, tmp_path / "three") as other:
        for question in read_questions():
            request = SearchRequest(question.query, Identity(TENANT, PRINCIPALS), limit=100)
            left, right = (router.search(request).hits for router in (one, other))
            scores = {hit.doc_id: hit.score for hit in left}
            both = [hit for hit in right if hit.doc_id in scores]
            assert len(both) >= 0.95 * len(left)
            assert [hit.score for hit in both] == pytest.approx([scores[hit.doc_id] for hit in both], abs=2e-3)
            assert all(scores[above.doc_id] >= scores[below.doc_id] - 4e-3 for above, below in pairwise(both))
            overlaps.append(len({hit.doc_id for hit in left[:10]} & {hit.doc_id for hit in right[:10]}) / 10)
    assert len(overlaps) == 40
    assert sum(overlaps) / len(overlaps) >= 0.99


def _lake(config: Config, base: Path) -> Path:
    return StatePaths.of(base / config.storage.path, config.collection.name).root / "lake"

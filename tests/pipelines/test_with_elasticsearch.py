"""A collection whose words and texts are in Elasticsearch and whose vectors are embedded: ingest, change, search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.connection import check_stores
from m3core.config.load import load_config
from m3core.config.model import StoreSection
from m3core.errors import ConfigError, ExitCode
from m3core.types import Identity
from pipelines.query.request import SearchRequest
from pipelines.query.router import SyncRouter
from tests.pipelines.ingest.projects import EDGE, Project
from tests.servers.faults import Reset, fault_proxy, no_fault
from tests.servers.running import Servers, connection_of

pytestmark = pytest.mark.xdist_group("elasticsearch")

QUERIES = ("who keeps the key of laboratory 22", "Note 3", "paragraph front desk", "night train")


@pytest.fixture
def stores(servers: Servers, tmp_path: Path) -> dict[str, Any]:
    servers.need("elasticsearch")
    reached = connection_of("elasticsearch", tmp_path)
    return {
        "vectors": {"kind": "qdrant-edge", "signals": ["dense", "multi"], "text": False},
        "words": {"kind": "elasticsearch", "signals": ["lexical"], "url": reached.url, "prefix": reached.prefix},
    }


def project_of(folder: Path, model: Path, stores: dict[str, Any]) -> Project:
    made = Project(folder, model, {"stores": stores})
    made.docs.mkdir(parents=True)
    return made


def answers(project: Project) -> list[list[tuple[str, str, float]]]:
    """For each query the hits: document, text, score."""
    found = []
    with SyncRouter.open(project.config, project.base) as router:
        for query in QUERIES:
            answer = router.search(SearchRequest(query, Identity("default", ("everyone",)), limit=10))
            assert not answer.degraded
            found.append([(hit.doc_id, hit.text, hit.score) for hit in answer.hits])
    return found


def assert_alike(one: list[list[tuple[str, str, float]]], other: list[list[tuple[str, str, float]]]) -> None:
    """The same documents with the same texts and scores; ties within the precision of stored vectors."""
    for left, right in zip(one, other, strict=True):
        assert left
        assert {hit[:2] for hit in left} == {hit[:2] for hit in right}
        scores = {hit[0]: hit[2] for hit in right}
        assert [hit[2] for hit in left] == pytest.approx([scores[hit[0]] for hit in left], abs=1e-3)


def test_two_stores_answer_as_one_and_follow_every_change(
    tmp_path: Path, tiny_model: Path, stores: dict[str, Any]
) -> None:
    both = project_of(tmp_path / "both", tiny_model, stores)
    embedded = project_of(tmp_path / "embedded", tiny_model, EDGE)
    for project in (both, embedded):
        project.write_many(8)
        assert project.ingest().exit_code == ExitCode.OK
    both.check_agreement()
    assert_alike(answers(both), answers(embedded))
    for project in (both, embedded):
        project.write("d003.md", "# Night trains\n\nThe night train leaves from platform 5.\n")
        (project.docs / "d005.md").unlink()
        report = project.ingest()
        assert (report.documents.changed, report.documents.deleted) == (1, 1)
    both.check_agreement()
    assert_alike(answers(both), answers(embedded))
    assert both.ingest().chunks_written == 0


def test_a_generation_is_ready_for_searching_when_it_goes_live(
    tmp_path: Path, tiny_model: Path, stores: dict[str, Any]
) -> None:
    project = project_of(tmp_path / "both", tiny_model, stores)
    project.write_many(2)
    project.ingest()
    with project.sink("words") as sink:
        [found] = sink._client.indices.get_settings(index=sink._index).body.values()  # type: ignore[attr-defined]
    assert "refresh_interval" not in found["settings"]["index"]
    assert found["settings"]["index"]["number_of_replicas"] == "1"


def test_a_server_that_comes_back_gets_what_it_missed(
    tmp_path: Path, tiny_model: Path, stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.elasticsearch.sink.PATIENCE_SECONDS", 1.0)
    with fault_proxy(stores["words"]["url"], no_fault) as proxy:
        stores["words"]["url"] = proxy.url
        project = project_of(tmp_path / "both", tiny_model, stores)
        project.write_many(3)
        project.ingest()
        project.write_many(6)
        proxy.choose = lambda method, path: Reset("before") if path.endswith("_bulk") else None
        report = project.ingest()
        assert (report.exit_code, report.documents.added, report.stores["words"].pending) == (ExitCode.PENDING, 3, 3)
        assert "store 'words' took no row" in report.notes[-1]
        proxy.choose = no_fault
        report = project.ingest()
        assert (report.exit_code, report.tokens_encoded) == (ExitCode.OK, 0)
        project.check_agreement()
        assert len(project.records()) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signals": ("dense",)}, "stores.words.signals has dense; stores of kind elasticsearch keep lexical"),
        ({"url": ""}, "stores.words.url is missing; stores of kind elasticsearch are servers"),
        ({"kind": "memory"}, "stores.words.url is set; stores of kind memory are not servers"),
    ],
)
def test_what_a_store_cannot_do_is_refused_before_anything_begins(changes: dict[str, Any], message: str) -> None:
    section = {"kind": "elasticsearch", "signals": ("lexical",), "url": "http://127.0.0.1:9200", **changes}
    with pytest.raises(ConfigError, match=message):
        check_stores({"words": StoreSection(**section)})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('api_key = "canary-4711"', "stores.main.api_key must say where the secret is, not the secret"),
        ('password = "canary-4711"', "stores.main.password must say where the secret is, not the secret"),
        ('url = "https://m3:canary-4711@es:9200"', "stores.main.url must not hold credentials"),
    ],
)
def test_a_secret_in_the_configuration_is_refused_and_not_shown(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "m3.toml"
    file.write_text(
        '[collection]\nname = "notes"\n[sources.docs]\nkind = "folder"\npath = "docs"\n'
        f'[stores.main]\nkind = "elasticsearch"\nsignals = ["lexical"]\n{line}\n'
    )
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file, {})
    assert "canary" not in str(caught.value)

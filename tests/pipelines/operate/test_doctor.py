"""`m3 doctor` on real stores: what is in order, what is not, and that nothing is left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.protocol import Limit, StoreFacts
from m3core import disk as disk_module
from m3core.errors import ConfigError, ExitCode, LockedError, RefusedError, StateError, StoreError
from pipelines.operate import doctor as doctor_module
from pipelines.operate import doctor_scratch
from pipelines.operate.collection import Place
from pipelines.operate.doctor import Health, examine
from pipelines.operate.doctor_check import Check, scarce
from pipelines.operate.doctor_store import _about
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project
from tests.pipelines.operate.conftest import configured
from tests.servers.certificates import self_signed
from tests.servers.faults import Answer, fault_proxy
from tests.servers.missing import MissingPartError, skip_or_fail
from tests.servers.qdrant import qdrant_stand_in
from tests.servers.running import Servers, connection_of

CANARY = "canary-4711-secret"


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the share of this machine's disk that is free; one half at first."""

    def set_free(share: float) -> None:
        def usage(path: Path) -> disk_module.DiskUsage:
            return disk_module.DiskUsage(int(share * (1 << 40)), 1 << 40)

        for module in (disk_module, doctor_module):
            monkeypatch.setattr(module, "disk_usage", usage)

    set_free(0.5)
    return set_free


def doctor(project: Project) -> Health:
    return examine(Place.of(project.config, project.base))


def problems(health: Health) -> dict[str, str]:
    """Part and check to the failure's message."""
    return {f"{part}.{check.name}": check.failure.message for part, check in health.checks if check.failure is not None}


def tree(folder: Path) -> list[str]:
    """Everything below a folder, but for readers' copies and locks."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "slots" not in path.parts and path.suffix != ".lock"
    )


def test_an_embedded_collection_is_in_order_and_left_as_it_was(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    configured(project)
    assert m3("ingest").code == 0
    before = tree(project.base)
    ended = m3("doctor")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "notes · 1 store · in order"
    assert lines[1].startswith("model        ")
    assert " · 32 dense, 8 multi · float-" in lines[1]
    assert lines[2].startswith("state        generation 1 live")
    assert "50% of its disk free" in ended.out
    rest = " ".join(lines[3:])
    assert "main         qdrant-edge 0.9.0: dense, lexical, multi, text · answered in " in rest
    assert "generation 1 as built" in rest
    assert "a row written, found and deleted in " in rest
    assert "scratch collection removed" in rest
    assert max(map(len, lines)) <= 100 or str(project.base) in ended.out
    assert tree(project.base) == before


def test_before_the_first_run_everything_is_tried_and_nothing_is_made(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    configured(project)
    (project.base / "m3-data").mkdir()
    before = tree(project.base)
    ended = m3("doctor", "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert (found["schema_version"], found["collection"], found["ok"]) == (1, "notes", True)
    assert found["state"][0] == {"name": "readable", "status": "ok", "found": "no run has begun", "problem": None}
    main, rerank = found["stores"]["main"], found["stores"]["rerank"]
    assert (main["kind"], main["signals"], main["text"]) == ("qdrant-edge", ["dense", "lexical"], True)
    assert [check["name"] for check in main["checks"]] == ["answers", "row", "removed"]
    assert [check["name"] for check in rerank["checks"]] == ["answers", "row", "removed"]
    assert tree(project.base) == before


def test_the_stores_of_a_real_server_are_in_order(project: Project, servers: Servers, tmp_path: Path) -> None:
    servers.need("elasticsearch")
    servers.need("qdrant")
    servers.need("milvus")
    words, vectors, tokens = (connection_of(kind, tmp_path) for kind in ("elasticsearch", "qdrant", "milvus"))
    project.settings["stores"] = {
        "words": {"kind": "elasticsearch", "signals": ["lexical"], "url": words.url, "prefix": words.prefix},
        "vectors": {
            "kind": "qdrant", "signals": ["dense"], "text": False, "url": vectors.url, "prefix": vectors.prefix,
        },
        "tokens": {
            "kind": "milvus", "signals": ["multi"], "text": False, "url": tokens.url, "prefix": tokens.prefix,
        },
    }  # fmt: skip
    project.write_many(2)
    project.ingest()
    before = indices(words.url, words.prefix)
    health = doctor(project)
    assert problems(health) == {}
    assert health.exit_code == ExitCode.OK
    names = [check.name for check in health.stores[0].checks]
    assert names == ["answers", "clock", "disk", "limit", "schema", "row", "removed"]
    assert health.stores[0].checks[3].finding.text == "http.max_content_length 104,857,600"
    assert health.stores[0].version.startswith("9.")
    assert [check.name for check in health.stores[1].checks] == ["answers", "clock", "schema", "row", "removed"]
    assert [check.name for check in health.stores[2].checks] == ["answers", "schema", "row", "removed"]
    assert indices(words.url, words.prefix) == before


def indices(url: str, prefix: str) -> set[str]:
    from elasticsearch import Elasticsearch

    with Elasticsearch(url) as client:
        return set(client.indices.get(index=f"{prefix}*", expand_wildcards="all").body)


@pytest.fixture
def words(project: Project, servers: Servers, tmp_path: Path) -> dict[str, Any]:
    """A project on Edge and the real Elasticsearch; the second's table, to be changed."""
    servers.need("elasticsearch")
    reached = connection_of("elasticsearch", tmp_path)
    table = {"kind": "elasticsearch", "signals": ["lexical"], "url": reached.url, "prefix": reached.prefix}
    edge = {"kind": "qdrant-edge", "signals": ["dense", "multi"], "text": False}
    project.settings["stores"] = {"words": table, "vectors": edge}
    return table


@pytest.mark.parametrize("key", ["wrong-canary", None])
def test_a_wrong_or_missing_key_is_one_line_and_the_other_store_is_examined(
    project: Project, words: dict[str, Any], m3: M3, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(words["url"], api_key=CANARY) as proxy:
        words |= {"url": proxy.url} | ({} if key is None else {"api_key": "env:ES_KEY"})
        if key is not None:
            monkeypatch.setenv("ES_KEY", key)
        configured(project)
        ended = m3("doctor")
        assert ended.code == 7
        lines = ended.out.splitlines()
        assert lines[0] == "notes · 2 stores · 1 thing failed"
        assert lines[1].startswith("  words: store 'words': the server at 127.0.0.1:")
        assert "refused our credentials (401). Remedy: give it a key" in lines[1]
        assert lines[1].endswith("stores.words.api_key")
        assert "words        elasticsearch does not answer: lexical, text" in ended.out
        assert "a row written, found and deleted" in ended.out
        assert "canary" not in ended.out + ended.err
        monkeypatch.setenv("ES_KEY", CANARY)
        words |= {"api_key": "env:ES_KEY"}
        assert problems(doctor(project)) == {}


def test_an_unknown_certificate_names_its_setting(project: Project, words: dict[str, Any], tmp_path: Path) -> None:
    try:
        certificate = self_signed(tmp_path)
    except MissingPartError as missing:
        skip_or_fail(missing)
    with fault_proxy(words["url"], certificate=certificate) as proxy:
        words["url"] = proxy.url
        health = doctor(project)
        assert [failure.remedy for failure in health.failures] == ["set stores.words.ca"]
        words["ca"] = certificate[0]
        assert problems(doctor(project)) == {}


@pytest.mark.parametrize("kind", ["elasticsearch", "qdrant"])
def test_a_server_that_is_down_is_one_failure(project: Project, kind: str) -> None:
    project.settings["stores"] = {"words": {"kind": kind, "signals": ["lexical"], "url": "http://127.0.0.1:9"}}
    health = doctor(project)
    assert problems(health) == {"words.answers": "store 'words': the server at 127.0.0.1:9 cannot be reached"}
    assert health.exit_code == ExitCode.UNREACHABLE


def test_a_key_that_is_not_set_is_a_mistake_of_the_configuration(project: Project) -> None:
    project.settings["stores"] = {
        "words": {"kind": "qdrant", "url": "http://127.0.0.1:9", "api_key": "env:NOT_SET_ANYWHERE"}
    }
    health = doctor(project)
    assert "stores.words.api_key: the variable 'NOT_SET_ANYWHERE' is not set" in problems(health)["words.answers"]
    assert health.exit_code == ExitCode.USAGE


def test_an_old_server_is_refused(project: Project) -> None:
    with qdrant_stand_in(version="1.11.0") as server:
        project.settings["stores"] = {"main": {"kind": "qdrant", "url": server.url}}
        assert "is version '1.11.0', not Qdrant 1.16 or newer" in problems(doctor(project))["main.answers"]


def test_the_scratch_collection_goes_also_when_the_row_failed(project: Project) -> None:
    with qdrant_stand_in() as server, fault_proxy(server.url) as proxy:
        project.settings["stores"] = {"main": {"kind": "qdrant", "url": proxy.url}}
        proxy.choose = lambda method, path: Answer(503) if path.endswith("/points/query") else None
        health = doctor(project)
        assert problems(health) == {
            "main.row": f"store 'main': the server at {proxy.url.removeprefix('http://')} failed a request (503)"
        }
        assert server.client.get_collections().collections == []


def test_a_scratch_collection_that_cannot_be_removed_is_named(project: Project) -> None:
    with qdrant_stand_in() as server, fault_proxy(server.url) as proxy:
        project.settings["stores"] = {"main": {"kind": "qdrant", "url": proxy.url, "prefix": "team_"}}
        proxy.choose = lambda method, path: Answer(403) if method == "DELETE" else None
        health = doctor(project)
        [left] = server.client.get_collections().collections
        assert left.name.startswith("team_m3_doctor_")
        [failure] = health.failures
        assert f"the scratch collection {left.name} may still be there" in failure.message
        assert failure.remedy.endswith(f"then delete {left.name}")


def test_an_interrupt_removes_the_scratch_collection_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(row: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_scratch, "_query", interrupted)
    with qdrant_stand_in() as server:
        project.settings["stores"] = {"main": {"kind": "qdrant", "url": server.url}}
        with pytest.raises(KeyboardInterrupt):
            doctor(project)
        assert server.client.get_collections().collections == []


def test_scores_that_are_not_the_formulas_are_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = doctor_scratch._query

    def stretched(row: Any) -> Any:
        query = honest(row)
        return type(query)(query.dense * 1.1, query.lexical_ids, query.lexical_weights, query.multi)

    monkeypatch.setattr(doctor_scratch, "_query", stretched)
    project.settings["stores"] = EDGE
    [found] = problems(doctor(project)).values()
    assert re.fullmatch(r"store 'main': a dense score is 1\.(1|0\d)\d+ where the formula gives 1", found)


def test_a_generation_that_is_gone_or_was_made_for_another_schema_is_named(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(2)
    project.ingest()
    folder = project.base / "m3-data" / "stores" / "main" / "notes"
    [description] = folder.glob("g00001/s*/schema.json")
    text = description.read_text()
    description.write_text(text.replace('"dense_dim": 32', '"dense_dim": 33'))
    health = doctor(project)
    assert "has dense_dim 33, not 32" in problems(health)["main.schema"]
    assert [failure.remedy for failure in health.failures] == ["build a new generation"]
    shutil.rmtree(folder)
    health = doctor(project)
    assert problems(health) == {"main.schema": "store 'main' has no live generation 1"}
    assert health.exit_code == ExitCode.UNREACHABLE


def test_another_model_than_the_generation_was_built_with_is_refused(project: Project, tmp_path: Path) -> None:
    project.write_many(1)
    project.ingest()
    other = tmp_path / "other"
    shutil.copytree(project.model, other)
    settings = other / "config_sentence_transformers.json"
    known = json.loads(settings.read_text()) if settings.exists() else {}
    settings.write_text(json.dumps(known | {"prompts": {"query": "q: ", "document": "d: "}}))
    project.settings["model"] = {"name": str(other), "threads": 1}
    health = doctor(project)
    assert "generation 1 was built with the model float-" in problems(health)["model.readable"]
    assert health.exit_code == ExitCode.REFUSED
    project.settings["model"] = {"name": str(tmp_path / "nowhere"), "threads": 1}
    assert doctor(project).exit_code == ExitCode.USAGE


def test_a_state_folder_that_is_a_file_is_said_so(project: Project) -> None:
    project.settings["stores"] = {"main": {"kind": "memory"}}
    (project.base / "m3-data").write_text("not a folder")
    found = problems(doctor(project))
    assert "collection.json cannot be read: Not a directory" in found["state.readable"]
    assert "m3-data cannot be written: Not a directory" in found["state.writable"]


def test_damaged_state_is_one_failure_and_the_stores_are_examined_all_the_same(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(1)
    project.ingest()
    file = project.base / "m3-data" / "state" / "notes" / "collection.json"
    file.write_text(file.read_text()[:-40])
    health = doctor(project)
    assert list(problems(health)) == ["state.readable"]
    assert [check.name for check in health.stores[0].checks] == ["answers", "row", "removed"]


def test_a_disk_that_fills_up_is_advice_and_a_full_one_a_failure(
    project: Project, disk: Callable[[float], None], m3: M3
) -> None:
    configured(project)
    disk(0.07)
    ended = m3("doctor")
    assert ended.code == 0
    assert ended.out.splitlines()[:2] == [
        "notes · 1 store · in order, 1 hint",
        "  state: only 7% of its disk is free. Better: free some space: below 5 % servers stop writes",
    ]
    disk(0.0)
    health = doctor(project)
    assert health.exit_code == ExitCode.UNREACHABLE
    assert "0 MiB are free and 1 MiB are needed" in problems(health)["state.disk"]


def about(**facts: Any) -> Iterator[Check]:
    return _about(StoreFacts("9.5.3", **facts), embedded=False)


@pytest.mark.parametrize(("ahead", "said"), [(95.4, "95 s ahead of ours"), (-3600.0, "3,600 s behind ours")])
def test_a_clock_that_is_off_is_advice(ahead: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    [check] = about(clock=1_000_000.0 + ahead)
    assert (check.finding.advice, check.failure) == (f"its clock is {said}", None)
    [check] = about(clock=1_000_001.5)
    assert check.finding.advice == ""


def test_a_bound_below_what_we_send_is_advice() -> None:
    [small, enough] = about(limits=(Limit("http.max_content_length", 1000, 2000), Limit("b", 2000, 2000)))
    assert small.finding.advice == "http.max_content_length is 1,000; our requests have up to 2,000, and are split here"
    assert small.finding.remedy == "set it to 2,000 or more"
    assert enough.finding.advice == ""


def test_a_servers_disk_is_looked_at_and_an_embedded_stores_is_the_states() -> None:
    facts = StoreFacts("1", free_bytes=5, total_bytes=100)
    assert [check.finding.advice for check in _about(facts, embedded=False)] == ["only 5% of its disk is free"]
    assert list(_about(facts, embedded=True)) == []
    assert scarce(0, 0).advice


def test_the_worst_failure_is_the_exit_code() -> None:
    def ended(*failures: Exception) -> ExitCode:
        checks = tuple(Check("x", failure=failure) for failure in failures)  # type: ignore[arg-type]
        return Health("notes", checks, (), ()).exit_code

    store, refused, config = StoreError("a"), RefusedError("b"), ConfigError("c")
    locked, state = LockedError("d"), StateError("e")
    assert ended() == ExitCode.OK
    assert ended(store) == ExitCode.UNREACHABLE
    assert ended(store, refused) == ExitCode.REFUSED
    assert ended(refused, locked) == ExitCode.LOCKED
    assert ended(store, locked, config) == ExitCode.USAGE
    assert ended(config, state) == ExitCode.INTERNAL

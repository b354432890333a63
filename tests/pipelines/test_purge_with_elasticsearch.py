"""A purge over an embedded store and a real Elasticsearch: down, back, and after yesterday's state was put back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode, StoreError
from pipelines.operate.purge import Named, purge, purge_again
from tests.connectors.elasticsearch.test_compacting import files_of_index
from tests.pipelines.ingest.projects import Project
from tests.pipelines.operate.damage import audited, place_of
from tests.pipelines.operate.traces import CANARIES, DOC_ID, TENANT, plain_rows, prepare, secret_row, traces
from tests.servers.faults import Reset, fault_proxy, no_fault
from tests.servers.running import Servers, connection_of

pytestmark = pytest.mark.xdist_group("elasticsearch")

SECRET = Named(TENANT, (DOC_ID,))


@pytest.fixture
def stores(servers: Servers, tmp_path: Path) -> dict[str, Any]:
    servers.need("elasticsearch")
    reached = connection_of("elasticsearch", tmp_path)
    return {
        "vectors": {"kind": "qdrant-edge", "signals": ["dense", "multi"], "text": False},
        "words": {"kind": "elasticsearch", "signals": ["lexical"], "url": reached.url, "prefix": reached.prefix},
    }


@pytest.fixture
def secret(tmp_path: Path, tiny_model: Path, stores: dict[str, Any]) -> Project:
    made = Project(tmp_path / "both", tiny_model)
    made.docs.mkdir(parents=True)
    prepare(made, [secret_row(), *plain_rows(4)], stores)
    made.ingest()
    return made


def index_files(stores: dict[str, Any]) -> Path:
    return files_of_index(stores["words"]["url"], f"{stores['words']['prefix']}m3_notes_g00001")


def test_nothing_is_left_in_the_servers_files_either(secret: Project, stores: dict[str, Any]) -> None:
    lowered = [canary.lower() for canary in CANARIES.values()]
    assert traces(index_files(stores), *CANARIES.values(), *lowered) != []
    purged = purge(place_of(secret), SECRET)
    assert purged.exit_code is ExitCode.OK
    assert {store.name: store.compacted for store in purged.receipt.stores} == {"vectors": True, "words": True}
    assert purged.left == {"vectors": 0, "words": 0}
    assert traces(index_files(stores), *CANARIES.values(), *lowered) == []
    assert traces(secret.base / "m3-data", *CANARIES.values()) == []
    secret.check_agreement()
    assert secret.ingest().skipped["purged"] == 1
    assert audited(secret, sample=20).clean


def test_a_server_that_is_down_is_done_later_and_no_run_begins_before(
    secret: Project, stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.elasticsearch.sink.PATIENCE_SECONDS", 1.0)
    url = stores["words"]["url"]
    with fault_proxy(url, no_fault) as proxy:
        stores["words"]["url"] = proxy.url
        proxy.choose = lambda method, path: Reset("before")
        with pytest.raises(StoreError, match="words"):
            purge(place_of(secret), SECRET)
        assert DOC_ID in secret.records()
        assert traces(secret.base / "m3-data" / "stores", *CANARIES.values()) == []  # the others are done
        with pytest.raises(StoreError, match="words"):
            secret.ingest()
        proxy.choose = no_fault
        report = secret.ingest()
    assert (report.skipped["purged"], report.tokens_encoded) == (1, 0)
    stores["words"]["url"] = url
    assert traces(index_files(stores), *CANARIES.values()) == []
    assert traces(secret.base / "m3-data", *CANARIES.values()) == []
    secret.check_agreement()


def test_a_restored_state_is_older_than_the_servers_rows(
    secret: Project, stores: dict[str, Any], tmp_path: Path
) -> None:
    storage = secret.base / "m3-data"
    shutil.copytree(storage, tmp_path / "backup")
    changed = secret_row()
    changed["text"] = f"A second version, {CANARIES['text']}, of a later run."
    for _ in range(3):
        changed["text"] += " More."
        prepare(secret, [changed, *plain_rows(4)], stores)
        secret.ingest()
    purge(place_of(secret), Named(TENANT, ("p0",)))
    for name in ("state", "stores"):
        shutil.rmtree(storage / name)
        shutil.copytree(tmp_path / "backup" / name, storage / name)
    purged = purge_again(place_of(secret))
    assert [one.documents for one in purged.receipt.found] == [1]
    assert "p0" not in secret.records()

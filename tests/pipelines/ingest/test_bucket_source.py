"""Runs whose source is in a bucket, on a real S3 server (moto's)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from m3core.config.model import Config
from m3core.errors import ExitCode, SourceError
from pipelines.ingest.runners.worker import Worker
from tests.pipelines import fake_encoder
from tests.pipelines.ingest.projects import Project, document
from tests.pipelines.ingest.runners.orders import begun
from tests.pipelines.s3 import S3
from tests.servers.process import free_ports
from tests.tiny import HIDDEN, MULTI_DIM


@pytest.fixture
def in_bucket(project: Project, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Six documents in a bucket; nothing is ingested yet."""
    fake_encoder.install(monkeypatch, HIDDEN, MULTI_DIM)
    for number in range(6):
        s3.put(f"handbook/d{number}.md", document(number).encode())
    project.settings["sources"] = {"docs": {"kind": "folder", "url": f"{s3.url}/handbook", "acl": ["everyone"]}}
    return project


def test_a_run_an_update_and_a_delete(in_bucket: Project, s3: S3) -> None:
    report = in_bucket.ingest()
    assert (report.documents.added, report.exit_code) == (6, ExitCode.OK)
    assert set(in_bucket.records()) == {f"d{number}.md" for number in range(6)}
    s3.put("handbook/d1.md", document(77).encode())
    s3.put("handbook/d3.md", document(3).encode())  # written again, the same
    s3.put("handbook/new/d6.md", document(6).encode())
    s3.delete("handbook/d2.md")
    documents = in_bucket.ingest().documents
    counts = (documents.added, documents.changed, documents.deleted, documents.unchanged)
    assert counts == (1, 1, 1, 4)
    in_bucket.check_agreement()
    assert set(in_bucket.records()) == {"d0.md", "d1.md", "d3.md", "d4.md", "d5.md", "new/d6.md"}


def test_nothing_is_deleted_while_the_bucket_is_out_of_reach(
    in_bucket: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_bucket.ingest()
    before = in_bucket.rows()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
        with pytest.raises(SourceError, match="/handbook: ") as caught:
            in_bucket.ingest()
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert in_bucket.rows() == before
    assert in_bucket.ingest().documents.unchanged == 6


def test_a_worker_asks_the_bucket(in_bucket: Project) -> None:
    raw = deepcopy(in_bucket.raw())
    raw["sources"]["docs"]["url"] = "s3://none-such/handbook"
    with begun(in_bucket) as (order, _):
        assert set(Worker.checked(order).sources) == {"docs"}
    with begun(in_bucket) as (order, _), pytest.raises(SourceError) as caught:
        Worker.checked(replace(order, config=Config.model_validate(raw)))
    assert caught.value.message.startswith("source docs on worker ")
    assert "s3://none-such/handbook: " in caught.value.message

"""The Dataflow job as it is printed: the whole request, within the service's limits, its step names pinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from google.protobuf.json_format import ParseDict

from m3core.errors import ConfigError, RefusedError
from pipelines.cli.main import main
from pipelines.ingest.runners import dataflow
from tests.pipelines.ingest.projects import Project

GOLDEN = Path(__file__).parent / "dataflow_steps.txt"
DATAFLOW = {
    "project": "acme-search",
    "region": "europe-west4",
    "temp_location": "gs://acme-m3/tmp",
    "image": "europe-docker.pkg.dev/acme/m3/ingest-cuda:2026.11",
    "subnetwork": "regions/europe-west4/subnetworks/private",
    "service_account": "m3-workers@acme-search.iam.gserviceaccount.com",
    "kms_key": "projects/acme/locations/europe-west4/keyRings/m3/cryptoKeys/jobs",
}
HINT = "type:nvidia-l4;count:1;install-nvidia-driver"


@pytest.fixture
def on_dataflow(project: Project) -> Project:
    project.settings["stores"] = {"main": {"kind": "qdrant", "url": "https://qdrant.acme.internal:6333"}}
    project.settings["runner"] = {"kind": "dataflow", "dataflow": DATAFLOW, "accelerator": HINT}
    project.write_many(2)
    return project


def test_the_job_is_whole_and_its_graph_is_valid(on_dataflow: Project) -> None:
    job = json.loads(json.dumps(dataflow.dry_run(on_dataflow.config, on_dataflow.base)))
    request, environment = job["request"], job["request"]["environment"]
    assert (request["projectId"], request["location"]) == ("acme-search", "europe-west4")
    assert (request["name"], request["type"]) == ("m3-notes", "JOB_TYPE_BATCH")
    assert request["pipelineUrl"] == "gs://acme-m3/tmp/m3-notes/pipeline.pb" == job["staging"][0]["to"]
    assert environment["serviceKmsKeyName"] == DATAFLOW["kms_key"]
    assert environment["serviceAccountEmail"] == DATAFLOW["service_account"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    (pool,) = environment["workerPools"]
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert pool["subnetwork"] == DATAFLOW["subnetwork"]
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == DATAFLOW["image"]
    assert job["options"]["save_main_session"] is False
    pipeline = ParseDict(job["pipeline"], beam_runner_api_pb2.Pipeline())
    assert pipeline.ByteSize() == job["staging"][0]["bytes"] < dataflow.MOST_REQUEST_BYTES


def test_only_the_encode_step_asks_for_a_gpu(on_dataflow: Project) -> None:
    job = dataflow.dry_run(on_dataflow.config, on_dataflow.base)
    pipeline = ParseDict(job["pipeline"], beam_runner_api_pb2.Pipeline())
    environments = pipeline.components.environments
    with_gpu = {name for name, one in environments.items() if HINT.encode() in one.resource_hints.values()}
    assert with_gpu
    asking = {one.unique_name for one in pipeline.components.transforms.values() if one.environment_id in with_gpu}
    assert asking
    assert all(name.startswith("Encode") for name in asking)


def test_the_step_names_are_those_of_the_golden_file(on_dataflow: Project) -> None:
    names = dataflow.dry_run(on_dataflow.config, on_dataflow.base)["steps"]
    assert names == GOLDEN.read_text().splitlines()


def test_the_graph_does_not_grow_with_the_sources_and_stays_small(on_dataflow: Project) -> None:
    order = dataflow.order_of(on_dataflow.config, on_dataflow.base)
    options = {"job_name": "m3-notes"}
    size = dataflow.graph(order, DATAFLOW["image"], options).ByteSize()
    assert size < 300_000


@pytest.mark.parametrize(
    ("name", "said"),
    [("m3_notes", "is not of a-z"), ("m" * 64, "at most 63"), ("3m", "is not of a-z")],
)
def test_a_name_that_the_service_refuses_is_a_broken_limit(on_dataflow: Project, name: str, said: str) -> None:
    order = dataflow.order_of(on_dataflow.config, on_dataflow.base)
    pipeline = dataflow.graph(order, DATAFLOW["image"], {"job_name": "m3-notes"})
    assert list(dataflow.broken_limits(pipeline, "m3-notes")) == []
    assert said in "".join(dataflow.broken_limits(pipeline, name))


def test_a_graph_over_the_limit_or_in_another_language_is_refused(
    on_dataflow: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataflow, "MOST_REQUEST_BYTES", 1000)
    with pytest.raises(RefusedError, match=r"the graph has [\d,]+ bytes, at most 1,000"):
        dataflow.dry_run(on_dataflow.config, on_dataflow.base)
    monkeypatch.undo()
    order = dataflow.order_of(on_dataflow.config, on_dataflow.base)
    pipeline = dataflow.graph(order, DATAFLOW["image"], {"job_name": "m3-notes"})
    pipeline.components.environments["java"].urn = "beam:env:external:v1"
    assert list(dataflow.broken_limits(pipeline, "m3-notes")) == ["a step has an environment besides the image"]


def test_what_a_job_needs_is_asked_for(on_dataflow: Project) -> None:
    on_dataflow.settings["runner"] = {"kind": "dataflow"}
    with pytest.raises(ConfigError, match=r"runner\.dataflow is missing"):
        dataflow.dry_run(on_dataflow.config, on_dataflow.base)


def test_the_command_prints_it_and_refuses_embedded_stores(
    on_dataflow: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = on_dataflow.base / "m3.toml"
    file.write_text(toml(on_dataflow.raw()))
    assert main(["ingest", "-c", str(file), "--runner", "dataflow", "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["steps"] == GOLDEN.read_text().splitlines()
    assert main(["ingest", "-c", str(file), "--runner", "dataflow"]) == 2
    assert "storage.url is missing" in capsys.readouterr().err
    del on_dataflow.settings["stores"]
    file.write_text(toml(on_dataflow.raw() | {"stores": {"main": {"kind": "qdrant-edge"}}}))
    assert main(["ingest", "-c", str(file), "--runner", "dataflow", "--dry-run"]) == 2
    assert "lives in a folder of one machine" in capsys.readouterr().err


def toml(values: dict[str, Any], path: str = "") -> str:
    """Plain values as TOML."""
    simple = {key: value for key, value in values.items() if not isinstance(value, dict)}
    head = f"[{path}]\n" if path else ""
    body = "".join(f"{key} = {json.dumps(value)}\n" for key, value in simple.items())
    tables = (toml(value, f"{path}.{key}" if path else key) for key, value in values.items() if isinstance(value, dict))
    return head + body + "".join(tables)

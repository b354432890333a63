"""`m3 ingest --runner dataflow --dry-run`: the whole job request, built and checked here, without credentials.

The graph is the one that the other engines run. It is turned into Beam's portable form with the workers' image as its
only environment, put into the request that Dataflow's `projects.locations.jobs.create` takes, and held against the
service's documented limits. Nothing is staged but the graph itself: code and weights are in the image.

`dataflow_engine.py` starts such jobs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.environments import DockerEnvironment
from google.protobuf.json_format import MessageToDict

from m3core.config.model import Config
from m3core.config.runner import DataflowSection
from m3core.errors import ConfigError, RefusedError
from pipelines.ingest.generation import Build
from pipelines.ingest.graph import build
from pipelines.ingest.runners.order import Order
from pipelines.state.lake import UNIT_TOKENS

SCHEMA_VERSION = 1
# Documented limits of the service: Dataflow's page on quotas and limits
MOST_REQUEST_BYTES = 10 << 20
MOST_NAME = 63
MOST_STEPS = 1000
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# A run that has not begun has neither number nor lease: the graph carries these in their place.
_NO_RUN, _NO_TOKEN = 0, "0" * 32
# One SDK process for all cores of a worker: one model, shared by its threads.
EXPERIMENTS = (
    "use_runner_v2",
    "use_unified_worker",
    "beam_fn_api",
    "use_portable_job_submission",
    "no_use_multiple_sdk_containers",
)


def dry_run(config: Config, base: Path) -> dict[str, Any]:
    """The job that a run would start. Raises ConfigError, ModelError, RefusedError (over a limit of the service)."""
    section = section_of(config)
    order = order_of(config, base)
    name = job_name(config)
    options = options_of(section, config, name)
    pipeline = graph(order, section.image, options)
    request = request_of(section, name, options)
    faults = list(broken_limits(pipeline, name))
    if faults:
        raise RefusedError(f"Dataflow would not take the job: {'; '.join(faults)}", "see the limits of the service")
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "ingest",
        "dry_run": True,
        "image": section.image,
        "options": options,
        "staging": [{"name": "pipeline.pb", "bytes": pipeline.ByteSize(), "to": request["pipelineUrl"]}],
        "request": request,
        "steps": step_names(pipeline),
        "pipeline": MessageToDict(pipeline),
    }


def section_of(config: Config) -> DataflowSection:
    """The settings of a job; ConfigError if there are none."""
    if config.runner.dataflow is None:
        raise ConfigError(
            "runner.dataflow is missing", "set project, region, temp_location and image under [runner.dataflow]"
        )
    return config.runner.dataflow


def job_name(config: Config) -> str:
    """Name of the job; one collection has one at a time."""
    return f"m3-{config.collection.name.replace('_', '-')}".rstrip("-")


def options_of(section: DataflowSection, config: Config, name: str) -> dict[str, Any]:
    """Beam's options, as DataflowRunner takes them."""
    options: dict[str, Any] = {
        "runner": "DataflowRunner",
        "job_name": name,
        "project": section.project,
        "region": section.region,
        "temp_location": section.temp_location,
        "sdk_container_image": section.image,
        "sdk_location": "container",
        "machine_type": section.machine_type,
        "disk_size_gb": section.disk_gb,
        "max_num_workers": section.max_workers,
        "autoscaling_algorithm": "THROUGHPUT_BASED",
        "experiments": list(EXPERIMENTS),
        "save_main_session": False,
        "use_public_ips": not section.subnetwork,
    }
    for key, value in (
        ("dataflow_endpoint", section.endpoint),
        ("service_account_email", section.service_account),
        ("subnetwork", section.subnetwork),
        ("dataflow_kms_key", section.kms_key),
    ):
        if value:
            options[key] = value
    return options


def request_of(section: DataflowSection, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `projects.locations.jobs.create`."""
    pool: dict[str, Any] = {
        "kind": "harness",
        "machineType": section.machine_type,
        "diskSizeGb": section.disk_gb,
        "autoscalingSettings": {
            "algorithm": "AUTOSCALING_ALGORITHM_BASIC",
            "maxNumWorkers": section.max_workers,
        },
        "ipConfiguration": "WORKER_IP_PRIVATE" if section.subnetwork else "WORKER_IP_PUBLIC",
        "sdkHarnessContainerImages": [{"containerImage": section.image, "useSingleCorePerContainer": False}],
    }
    if section.subnetwork:
        pool["subnetwork"] = section.subnetwork
    environment: dict[str, Any] = {
        "version": {"job_type": "FNAPI_BATCH", "major": "8"},
        "userAgent": {"name": "Apache Beam SDK for Python", "version": beam.__version__},
        "experiments": list(EXPERIMENTS),
        "tempStoragePrefix": section.temp_location.replace("gs://", "storage.googleapis.com/"),
        "sdkPipelineOptions": {"options": dict(options)},
        "workerPools": [pool],
    }
    if section.service_account:
        environment["serviceAccountEmail"] = section.service_account
    if section.kms_key:
        environment["serviceKmsKeyName"] = section.kms_key
    return {
        "projectId": section.project,
        "location": section.region,
        "name": name,
        "type": "JOB_TYPE_BATCH",
        "environment": environment,
        "pipelineUrl": f"{section.temp_location.rstrip('/')}/{name}/pipeline.pb",
    }


def graph(order: Order, image: str, options: Mapping[str, Any]) -> beam_runner_api_pb2.Pipeline:
    """The graph in Beam's portable form, every step in the image."""
    given = PipelineOptions([f"--job_name={options['job_name']}"], pipeline_type_check=False)
    pipeline = beam.Pipeline(options=given)
    accelerator = order.config.runner.accelerator
    shutil.rmtree(pipeline.local_tempdir)  # Beam makes it at once, and removes it after a run only
    build(pipeline, order, 1, spread=True, hints={"accelerator": accelerator} if accelerator else None)
    return pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image(image))


def step_names(pipeline: beam_runner_api_pb2.Pipeline) -> list[str]:
    """The names that we gave: metrics, alerts and an update of a job go by them. What is below them is Beam's."""
    roots = [pipeline.components.transforms[name] for name in pipeline.root_transform_ids]
    steps = [pipeline.components.transforms[name] for root in roots for name in root.subtransforms]
    return sorted(step.unique_name for step in steps)


def broken_limits(pipeline: beam_runner_api_pb2.Pipeline, name: str) -> Iterator[str]:
    """What the service, or a rule of ours, forbids."""
    if len(name) > MOST_NAME or not _NAME.fullmatch(name):
        yield f"the job's name {name!r} is not of a-z, 0-9 and -, at most {MOST_NAME}"
    if pipeline.ByteSize() > MOST_REQUEST_BYTES:
        yield f"the graph has {pipeline.ByteSize():,} bytes, at most {MOST_REQUEST_BYTES:,}"
    transforms = pipeline.components.transforms
    if len(transforms) > MOST_STEPS:
        yield f"the graph has {len(transforms):,} steps, at most {MOST_STEPS:,}"
    steps = [one for one in transforms.values() if one.spec.urn == common_urns.primitives.PAR_DO.urn]
    if not all(python_urns.PICKLED_DOFN_INFO.encode() in step.spec.payload for step in steps):
        yield "a step is not Python's"
    images = {one.urn for one in pipeline.components.environments.values()}
    if images != {common_urns.environments.DOCKER.urn}:
        yield "a step has an environment besides the image"


def order_of(config: Config, base: Path) -> Order:
    storage = (base / config.storage.path).absolute()
    return Order(
        config=config,
        base=base.absolute(),
        storage=storage,
        run=_NO_RUN,
        wave=1,
        generation=1,
        building=False,
        token=_NO_TOKEN,
        encoder=Build.of(config, base).encoder,
        unit_tokens=UNIT_TOKENS,
        lost=frozenset(),
        absent={},
    )

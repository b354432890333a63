"""`[runner]`: where the graph of a run works, and what its engine has to be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from m3core.config.section import Section

RunnerKind = Literal["local", "flink", "portable", "dataflow"]
_HOST_PORT = r"^([^\s:/@]+:\d{1,5})?$"
_IMAGE = r"^[^\s@:]+(:\d+)?/[^\s]+(:[\w.-]+|@sha256:[0-9a-f]{64})$"
_KEY = r"^(projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+)?$"


class DataflowSection(Section):
    """A Dataflow job: where it runs, with which image, who may see it."""

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9.:-]{4,60}[a-z0-9]$", description="Google Cloud project")]
    region: Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+\d+$", description="for example europe-west4")]
    temp_location: Annotated[str, Field(pattern=r"^gs://[a-z0-9][^\s]*$", description="folder for staged files")]
    image: Annotated[str, Field(pattern=_IMAGE, description="of the workers, with the weights in it")]
    machine_type: Annotated[str, Field(description="of the workers; the GPU must fit it")] = "g2-standard-4"
    max_workers: Annotated[int, Field(ge=1, le=4000, description="the service starts no more")] = 4
    disk_gb: Annotated[int, Field(ge=25, le=65_536, description="of each worker")] = 60
    service_account: Annotated[str, Field(pattern=r"^([^\s@]+@[^\s@]+)?$", description="that workers run as")] = ""
    subnetwork: Annotated[
        str,
        Field(
            pattern=r"^(https://[^\s]+|regions/[^\s]+)?$", description="regions/R/subnetworks/N; no public addresses"
        ),
    ] = ""
    kms_key: Annotated[str, Field(pattern=_KEY, description="customer-managed key of the job's state")] = ""
    endpoint: Annotated[
        str, Field(pattern=r"^(https?://[^@\s]+)?$", description="of the service; empty: Google's own")
    ] = ""


class RunnerSection(Section):
    """Where the graph of ingest and embed works. What workers need, they have at the same places as the launcher."""

    kind: Annotated[RunnerKind, Field(description="engine; local is this process")] = "local"
    job_endpoint: Annotated[
        str, Field(pattern=_HOST_PORT, description="flink, portable: HOST:PORT of Beam's job server")
    ] = ""
    flink_rest: Annotated[
        str, Field(pattern=r"^(https?://[^@\s]+)?$", description="flink: address of the JobManager's REST")
    ] = ""
    environment: Annotated[
        Literal["external", "process", "loopback"],
        Field(description="a worker pool, a command that starts a worker, or the launcher itself"),
    ] = "external"
    worker: Annotated[str, Field(description="external: HOST:PORT of the pool; process: the command")] = ""
    parallelism: Annotated[int, Field(ge=1, le=10_000, description="steps of one kind at work at once")] = 1
    worker_processes: Annotated[
        int, Field(ge=1, le=256, description="per TaskManager; each loads the model once, its threads share it")
    ] = 1
    deadline: Annotated[float, Field(gt=0, description="seconds after which a run is ended")] = 86_400.0
    first_sign: Annotated[float, Field(gt=0, description="seconds within which a worker must have reported")] = 60.0
    accelerator: Annotated[
        str, Field(description="resource hint of the encode step, e.g. type:nvidia-l4;count:1;install-nvidia-driver")
    ] = ""
    wave_bytes: Annotated[int, Field(ge=1 << 16, description="text per job; each job is committed")] = 2 << 30
    listing_bytes: Annotated[
        int, Field(ge=0, description="of sources that the launcher lists itself, without a job")
    ] = 256 << 20
    split_bytes: Annotated[int, Field(ge=1024, description="of a file that one step reads")] = 4 << 20
    dataflow: Annotated[DataflowSection | None, Field(description="a Dataflow job")] = None

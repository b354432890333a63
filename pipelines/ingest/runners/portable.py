"""A job server of Beam (Flink's, Prism, Spark's): the graph is submitted to it, its states are watched through it."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineState

from m3core.config.runner import RunnerSection
from m3core.errors import ConfigError, M3Error
from pipelines.ingest.graph import quiet_beam
from pipelines.ingest.runners.engine import Build, EngineError
from pipelines.ingest.runners.failures import failures
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.reachable import check_reachable, is_loopback
from pipelines.ingest.runners.watch import Watch

_POLL_SECONDS = 0.5
_LAST_WORDS_MILLIS = 5000
ENDED_ILL = (PipelineState.FAILED, PipelineState.CANCELLED, PipelineState.DRAINED, PipelineState.UPDATED)
POOL_REMEDY = "start the pool: python -m apache_beam.runners.worker.worker_pool_main --service_port=50000"


@dataclass(frozen=True)
class PortableEngine:
    """Any job server. `sleep` waits between two looks."""

    section: RunnerSection
    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """Settings, job server and, where it can be seen from here, the worker pool."""
        check_settings(self.section)
        endpoint = self.section.job_endpoint
        check_reachable("runner.job_endpoint", endpoint, "start Beam's job server, or correct the address")
        check_pool(self.section, endpoint.rpartition(":")[0])

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        """Submit and wait."""
        result = submit(build, order, flags(order))
        watch.begin()
        try:
            state = follow(lambda: state_of(result), watch, lambda: self.sleep(_POLL_SECONDS))
        except BaseException:
            _cancel(result)
            raise
        said = finish(result)
        if state != PipelineState.DONE:
            raise why_it_ended(order, state, said)


def follow(state: Callable[[], str], watch: Watch, pause: Callable[[], None]) -> str:
    """Watch a job to its end; the state in which it ended."""
    while (now := state()) not in (PipelineState.DONE, *ENDED_ILL):
        watch.look()
        pause()
    watch.look()
    return now


def check_settings(section: RunnerSection) -> None:
    """ConfigError for what a job server cannot do without."""
    if not section.job_endpoint:
        raise ConfigError("runner.job_endpoint is missing", "set it to HOST:PORT of Beam's job server")
    if section.environment == "external" and not re.fullmatch(r"[^\s:/@]+:\d{1,5}", section.worker):
        raise ConfigError(
            f"runner.worker is {section.worker[:60]!r}; environment external needs HOST:PORT of a worker pool",
            'for example "localhost:50000", as the TaskManagers see it',
        )
    if section.environment == "process" and not section.worker:
        raise ConfigError(
            "runner.worker is missing; environment process needs the command that starts a worker",
            'for example "m3-worker"',
        )


def check_pool(section: RunnerSection, host: str) -> None:
    """EngineError if the pool does not listen, where the engine on `host` sees what is seen from here."""
    if section.environment == "external" and is_loopback(host):
        check_reachable("runner.worker", section.worker, POOL_REMEDY)


def flags(order: Order, **more: str | int) -> list[str]:
    """Beam's options for one job; `more` are the engine's own."""
    runner = order.config.runner
    options: dict[str, str | int] = {
        "job_endpoint": runner.job_endpoint,
        "job_name": order.name,
        "environment_type": runner.environment.upper(),
        "sdk_worker_parallelism": runner.worker_processes,
        "job_server_timeout": 60,
        **more,
    }
    if runner.environment == "external":
        options["environment_config"] = runner.worker
    if runner.environment == "process":
        options["environment_config"] = json.dumps({"command": runner.worker})
    return [f"--{name}={value}" for name, value in options.items()]


def submit(build: Build, order: Order, beam_flags: list[str]) -> Any:
    """Submit the graph. EngineError if the job server does not take it."""
    options = PipelineOptions(beam_flags, pipeline_type_check=False)
    with quiet_beam():
        pipeline = beam.Pipeline(runner=PortableRunner(), options=options)
        build(pipeline)
        try:
            return pipeline.run()
        except grpc.RpcError as error:
            said = getattr(error, "details", lambda: "")() or type(error).__name__
            raise EngineError(
                f"the job server at {order.config.runner.job_endpoint} did not take the job: {said[:300]}",
                "see its log; its Beam and the workers' must fit each other",
            ) from None


def why_it_ended(order: Order, state: str, said: str) -> M3Error:
    """The error of a job that ended ill: what a worker told last, else what the engine says."""
    told = list(failures(order.files))
    if told:
        return told[-1]
    first = said.partition("\n")[0].strip()[:300]
    return EngineError(f"the job ended {state}: {first}", "run it again: what was encoded is in the lake")


def finish(result: Any) -> str:
    """What the job server says of a job that has ended; what served the job in this process (loopback) is stopped."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # Beam logs every message of the job
    try:
        result.wait_until_finish(_LAST_WORDS_MILLIS)
    except (RuntimeError, grpc.RpcError) as error:
        return str(error)
    finally:
        logging.disable(disabled)
    return "see the log of job server and workers"


def state_of(result: Any) -> str:
    """State of a job. EngineError if the job server does not say."""
    try:
        return str(result.state)
    except grpc.RpcError as error:
        raise EngineError(
            f"the job server went away ({getattr(error, 'details', lambda: '')()})",
            "start it and run again: what was encoded is in the lake",
        ) from None


def _cancel(result: Any) -> None:
    try:
        result.cancel()
    except grpc.RpcError:
        return  # it is gone, and the lease with this run: its workers stop by themselves

"""Dataflow: jobs started and watched through Beam's own runner for it.

Launcher and workers share a bucket only: state, sources and staged graph are there, weights and code in the image. The
service starts machines for each job, which takes minutes; workers say through the state what goes wrong.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from m3core.config.model import Config
from m3core.config.runner import DataflowSection
from m3core.errors import ConfigError, MissingExtraError, RefusedError, UsageError
from pipelines.ingest.graph import quiet_beam
from pipelines.ingest.runners.dataflow import MOST_NAME, options_of, section_of
from pipelines.ingest.runners.engine import Build, EngineError
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.portable import follow, why_it_ended
from pipelines.ingest.runners.reachable import is_loopback
from pipelines.ingest.runners.watch import Watch

_POLL_SECONDS = 5.0
# From then on a worker that does not report is one that cannot: before, its machine may still be starting.
_STARTING_SECONDS = 900.0
# Run, wave and token, which a job's name ends with.
_NAME_ROOM = 26
_CREDENTIALS = "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


@dataclass(frozen=True)
class DataflowEngine:
    """One project's service. `sleep` waits between two looks."""

    config: Config
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def check(self) -> None:
        """What a job cannot do without: settings, buckets for state and sources, Google's libraries and credentials."""
        section = section_of(self.config)
        if not self.config.storage.url:
            raise UsageError(
                "--runner dataflow: storage.url is missing; workers see nothing of this machine's storage.path",
                'set storage.url = "gs://BUCKET/PREFIX"; m3 ingest --runner dataflow --dry-run prints the job',
            )
        for name, source in self.config.sources.items():
            if not source.url:
                raise UsageError(
                    f"--runner dataflow: sources.{name}.path = {source.place!r} is on this machine, which workers do "
                    "not see",
                    f'copy it into a bucket and name it by url = "gs://..." in [sources.{name}]',
                )
        if len(self.config.collection.name) + len("m3-") + _NAME_ROOM > MOST_NAME:
            raise RefusedError(
                f"collection.name has {len(self.config.collection.name)} characters; a job's name has room for "
                f"{MOST_NAME - _NAME_ROOM - len('m3-')}",
                "choose a shorter name",
            )
        _check_library()
        if not _is_ours(section):
            _check_credentials()

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        """Start the job and follow it to its end. Whatever ends the run ends the job too."""
        section = section_of(order.config)
        with quiet_beam(), _telling("did not take the job"):
            result = _submit(build, order, section)
        running_since: float | None = None

        def state() -> str:
            nonlocal running_since
            with quiet_beam(), _telling("does not say how the job is"):
                now = str(result.state)
            if now == PipelineState.RUNNING:
                running_since = running_since or self.clock()
                if self.clock() - running_since > _STARTING_SECONDS and not watch.begun:
                    watch.begin()
            return now

        try:
            ended = follow(state, watch, lambda: self.sleep(_POLL_SECONDS))
        except BaseException:
            with suppress(EngineError), quiet_beam(), _telling("did not cancel the job"):  # what ended the run matters
                result.cancel()
            raise
        if ended != PipelineState.DONE:
            raise why_it_ended(order, ended, f"see {page_of(section, result.job_id())}")


def page_of(section: DataflowSection, job: str) -> str:
    """Where a person looks at a job."""
    return f"https://console.cloud.google.com/dataflow/jobs/{section.region}/{job}?project={section.project}"


def _submit(build: Build, order: Order, section: DataflowSection) -> Any:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    options = options_of(section, order.config, order.name)
    if _is_ours(section):
        options["no_auth"] = True
    given = PipelineOptions.from_dictionary(options)
    pipeline = beam.Pipeline(runner=DataflowRunner(), options=given)
    build(pipeline)
    return pipeline.run()


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """EngineError in place of what Google's libraries raise, without their text: it quotes requests."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAPICallError as error:
        said = f"{error.code or ''} {type(error).__name__}".strip()
        remedy = "see the rights of this account and whether the API is on"
        raise EngineError(f"Dataflow {what} ({said})", remedy) from None
    except DataflowRuntimeException:
        raise EngineError(f"Dataflow {what}", "see its page in Google's console") from None
    except GoogleAuthError as error:
        raise EngineError(f"Dataflow {what} ({type(error).__name__})", _CREDENTIALS) from None
    except OSError as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise EngineError(
            f"Dataflow {what}: {said}", "see whether runner.dataflow.temp_location is there and may be written"
        ) from None


def _is_ours(section: DataflowSection) -> bool:
    """Whether the endpoint is on this machine: a test's, which asks for no credentials."""
    return is_loopback(urlsplit(section.endpoint).hostname or "")


def _check_library() -> None:
    try:
        import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "a Dataflow job needs Google's client libraries", "pip install 'threefold[dataflow]'"
        ) from error


def _check_credentials() -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        google.auth.default()
    except DefaultCredentialsError:
        raise ConfigError("no Google credentials are found in the environment", _CREDENTIALS) from None

"""What is missing is said before a job is started, or as soon as a worker or the launcher can know it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from connectors.snapshots import disk
from m3core.config.model import Config
from m3core.config.runner import RunnerSection
from m3core.errors import (
    ConfigError,
    DiskFullError,
    LockedError,
    M3Error,
    ModelError,
    SourceError,
    StateError,
    StoreError,
    UsageError,
)
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.runners import flink, worker
from pipelines.ingest.runners.engine import EngineError, engine_of, refuse
from pipelines.ingest.runners.failures import failures, tell_failure
from pipelines.ingest.runners.fence import LeaseSeen
from pipelines.ingest.runners.flink import FlinkEngine
from pipelines.ingest.runners.portable import PortableEngine
from pipelines.ingest.runners.signs import Done, Sign
from pipelines.ingest.runners.watch import DeadlineError, Watch, WorkersError
from pipelines.ingest.runners.worker import Worker
from pipelines.ingest.shared import Totals
from pipelines.state.clock import stamp
from pipelines.state.files import write_json
from tests.pipelines.ingest.parts import Clock
from tests.pipelines.ingest.projects import EDGE, MEMORY, Project
from tests.pipelines.ingest.runners.orders import begun, watch_of
from tests.servers.loopback import serving
from tests.servers.process import free_ports


@contextmanager
def rest(answers: Mapping[str, Any]) -> Iterator[str]:
    """A JobManager's REST that answers what it is given; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with serving(Handler) as url:
        yield url


def cluster(version: str = "1.19.3", total: int = 2, free: int = 2) -> dict[str, Any]:
    return {"/config": {"flink-version": version}, "/overview": {"slots-total": total, "slots-available": free}}


def section(url: str, **changed: Any) -> RunnerSection:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    values = {"kind": "flink", "flink_rest": url, "job_endpoint": dead, "worker": dead, **changed}
    return RunnerSection.model_validate(values)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"job_endpoint": ""}, "runner.job_endpoint is missing"),
        ({"flink_rest": ""}, "runner.flink_rest is missing"),
        ({"worker": ""}, "environment external needs HOST:PORT of a worker pool"),
        ({"worker": "/usr/bin/worker"}, "environment external needs HOST:PORT of a worker pool"),
        ({"environment": "process", "worker": ""}, "needs the command that starts a worker"),
    ],
)
def test_a_setting_that_is_missing_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FlinkEngine(section("http://127.0.0.1:1", **changed)).check()


@pytest.mark.parametrize(
    ("answers", "changed", "said"),
    [
        (cluster("1.17.2"), {}, r"is Flink 1\.17\.2; Beam runs on 1\.19, 1\.20, 2\.0, 2\.1, 2\.2"),
        (cluster("11.19.0"), {}, r"is Flink 11\.19\.0"),
        (cluster(total=0, free=0), {}, r"parallelism is 1 and the cluster has 0 slots"),
        (cluster(total=4, free=1), {"parallelism": 3}, r"parallelism is 3 and the cluster has 1 free slots of 4"),
        (cluster(), {}, r"runner\.job_endpoint: nobody listens at 127\.0\.0\.1:\d+ \(Connection refused\)"),
    ],
)
def test_a_cluster_that_cannot_run_the_job_is_refused(answers: Any, changed: dict[str, Any], said: str) -> None:
    with rest(answers) as url, pytest.raises(M3Error, match=said) as caught:
        FlinkEngine(section(url, **changed)).check()
    assert caught.value.exit_code == 7
    assert caught.value.remedy


def test_a_pool_that_does_not_listen_is_named_before_the_job(tmp_path: Path) -> None:
    with rest(cluster()) as url:
        job_server = url.removeprefix("http://")  # somebody listens there
        with pytest.raises(M3Error, match=r"runner\.worker: nobody listens") as caught:
            FlinkEngine(section(url, job_endpoint=job_server)).check()
        assert "worker_pool_main" in caught.value.remedy
        with pytest.raises(M3Error, match=r"runner\.worker: nobody listens"):
            PortableEngine(section(url, kind="portable", job_endpoint=job_server)).check()


def test_a_job_manager_that_does_not_answer_is_named() -> None:
    with pytest.raises(M3Error, match=r"runner\.flink_rest: http://127\.0\.0\.1:\d+ does not answer"):
        FlinkEngine(section(f"http://127.0.0.1:{free_ports(1)[0]}")).check()


class Submitted:
    """A job as the job server knows it."""

    def __init__(self, state: str, said: str = "") -> None:
        self.state = state
        self._said = said

    def wait_until_finish(self, _: float) -> None:
        if self._said:
            raise RuntimeError(self._said)


NO_CLASS = "java.lang.NoClassDefFoundError: org/apache/beam/runners/flink/FlinkPipelineOptions"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"Failed to execute job\n  Caused by: {NO_CLASS}\n", "has not the classes of Beam"),
        ("Failed to execute job\n connection refused", "the job ended before it began: Failed to execute job"),
    ],
)
def test_a_job_that_the_job_server_cannot_give_to_flink(
    project: Project, monkeypatch: pytest.MonkeyPatch, said: str, kind: str
) -> None:
    monkeypatch.setattr(flink, "submit", lambda build, order, flags: Submitted("FAILED", said))
    with begun(project) as (order, run), rest({"/jobs/overview": {"jobs": []}}) as url:
        engine = FlinkEngine(section(url), sleep=lambda seconds: time.sleep(0.01))
        with pytest.raises(EngineError, match=kind):
            engine.run(lambda pipeline: None, order, watch_of(order, run))


@pytest.mark.parametrize(
    ("stacktrace", "kind"),
    [
        (f"java.lang.RuntimeException: a step\nCaused by: {NO_CLASS}\n\tat x", "has not the classes of Beam"),
        ("java.lang.RuntimeException: a step\nCaused by: java.io.IOException: gone\n", "FAILED: java.io.IOException"),
    ],
)
def test_a_job_that_fails_says_why(
    project: Project, monkeypatch: pytest.MonkeyPatch, stacktrace: str, kind: str
) -> None:
    monkeypatch.setattr(flink, "submit", lambda build, order, flags: Submitted("RUNNING"))
    with begun(project) as (order, run):
        answers: dict[str, Any] = {
            "/jobs/overview": {"jobs": [{"jid": "j1", "name": order.name, "start-time": 1}]},
            "/jobs/j1": {"state": "FAILED"},
            "/jobs/j1/exceptions": {"exceptionHistory": {"entries": [{"stacktrace": stacktrace}]}},
        }
        with rest(answers) as url, pytest.raises(EngineError, match=kind):
            FlinkEngine(section(url)).run(lambda pipeline: None, order, watch_of(order, run))


@pytest.mark.parametrize("stores", [EDGE, MEMORY])
def test_stores_of_one_machine_are_refused_and_the_way_is_named(project: Project, stores: Any) -> None:
    project.settings |= {"stores": stores, "runner": {"kind": "flink"}}
    with pytest.raises(UsageError, match="lives in a folder of one machine") as caught:
        refuse(project.config)
    assert "m3 embed --runner flink" in caught.value.remedy
    assert "m3 load" in caught.value.remedy


def test_this_process_has_no_engine(project: Project) -> None:
    assert engine_of(project.config) is None


def test_workers_that_never_report_end_the_job(project: Project) -> None:
    project.settings["runner"] = {"kind": "flink", "worker": "pool:50000", "first_sign": 30}
    clock = Clock()
    with begun(project) as (order, run):
        watch = watch_of(order, run, clock=clock)
        clock.now += 1000  # submitting may take its time
        watch.look()
        watch.begin()
        clock.now += 29
        watch.look()
        clock.now += 2
        with pytest.raises(WorkersError, match=r"no worker has reported within 30 s.*external at pool:50000") as caught:
            watch.look()
    assert "python" in caught.value.remedy


def sign(host: str, seconds: float) -> dict[str, Any]:
    """What a worker says of itself."""
    return {"host": host, "now": stamp(seconds), **asdict(Done())}


@pytest.mark.parametrize("apart", [-60.0, 60.0])
def test_clocks_that_are_apart_end_the_job(project: Project, apart: float) -> None:
    with begun(project) as (order, run):
        watch = watch_of(order, run, wall=lambda: 1_800_000_000.0)
        order.files.tell("workers", sign("w1", 1_800_000_000.0 + apart))
        with pytest.raises(WorkersError, match=r"the clock of worker w1 is 60 s apart"):
            watch.look()


def test_a_worker_whose_clock_agrees_is_a_sign_of_life(project: Project) -> None:
    clock = Clock()
    with begun(project) as (order, run):
        watch = watch_of(order, run, clock=clock, wall=lambda: 1_800_000_000.0)
        order.files.tell("workers", sign("w1", 1_800_000_002.0))
        watch.look()
        clock.now += 3600
        watch.look()


def test_a_sign_of_the_job_before_is_neither_waited_for_nor_judged(project: Project) -> None:
    clock = Clock()
    with begun(project) as (order, run):
        order.files.tell("workers", sign("w0", 1_700_000_000.0))
        watch = watch_of(order, run, clock=clock, wall=lambda: 1_800_000_000.0)
        watch.begin()
        watch.look()
        clock.now += 61
        with pytest.raises(WorkersError, match="no worker has reported within 60 s"):
            watch.look()


def test_what_workers_have_done_is_told_once_and_summed_up(project: Project) -> None:
    class Heard(NoProgress):
        def __init__(self) -> None:
            super().__init__()
            self.tokens: list[tuple[int, int]] = []

        def encoded(self, tokens: int, text_bytes: int) -> None:
            self.tokens.append((tokens, text_bytes))

    heard = Heard()
    with begun(project) as (order, run):
        watch = Watch(order.files, replace(run.request, progress=heard), run.lease)
        one, two = Sign(order.files), Sign(order.files)
        one.add(Done(tokens=10, text_bytes=40, encoded=10, encode_msec=500), at_once=True)
        watch.look()
        two.add(Done(tokens=5, text_bytes=20, encoded=5, encode_msec=500), at_once=True)
        watch.look()
        watch.look()
        totals = Totals()
        watch.sum_up(totals)
    assert heard.tokens == [(10, 40), (5, 20)]
    assert (totals.tokens_encoded, totals.encode_seconds) == (15, 1.0)


def test_after_the_deadline_the_workers_may_finish_and_then_the_job_ends(project: Project) -> None:
    project.settings["runner"] = {"kind": "flink", "deadline": 100, "first_sign": 10_000}
    clock = Clock()
    with begun(project) as (order, run):
        watch = watch_of(order, run, clock=clock)
        clock.now += 101
        watch.look()
        assert order.files.stopping
        clock.now += 301
        with pytest.raises(DeadlineError, match=r"was not done after 100 s \(runner\.deadline\); it was told to end"):
            watch.look()
        with pytest.raises(DeadlineError, match="what was finished is committed"):
            watch.check_deadline()


def test_only_what_trying_again_cannot_mend_ends_the_job_at_once(project: Project) -> None:
    with begun(project) as (order, run):
        watch = watch_of(order, run)
        tell_failure(order.files, "LoadReference", StoreError("store main is busy", "wait"))
        tell_failure(order.files, "Prepare", ZeroDivisionError("the text of a document"))
        watch.look()
        tell_failure(order.files, "EncodeUnit", ModelError("no weights", "pull them"))
        with pytest.raises(ModelError, match=r"no weights"):
            watch.look()
        told = [str(error) for error in failures(order.files)]
    assert len(told) == 3
    assert not any("text of a document" in one for one in told)
    assert any("ZeroDivisionError in step Prepare" in one for one in told)


def test_a_worker_without_the_state_folder_names_it(project: Project) -> None:
    with begun(project) as (order, _), pytest.raises(StateError, match="cannot use the state folder") as caught:
        Worker.checked(replace(order, storage=project.base / "elsewhere"))
    assert "mount" in caught.value.remedy


def refused_by_worker(project: Project, kind: type[M3Error], **changed: Any) -> M3Error:
    """What a worker says that cannot do its work; the launcher raises the same."""
    with begun(project) as (order, run):
        with pytest.raises(kind):
            Worker.checked(replace(order, **changed))
        with pytest.raises(kind) as caught:
            watch_of(order, run).look()
    return caught.value


def test_a_worker_with_another_model_or_none(project: Project) -> None:
    assert "another model" in refused_by_worker(project, ModelError, encoder="float-" + "1" * 32).message
    config = project.config.model_copy(
        update={"model": project.config.model.model_copy(update={"name": str(project.base / "none")})}
    )
    error = refused_by_worker(project, ModelError, config=config)
    assert "the model is not on worker" in error.message
    assert "image" in error.remedy


def test_a_worker_that_lacks_a_source(project: Project) -> None:
    raw = project.raw()
    raw["sources"]["docs"]["path"] = "elsewhere"
    error = refused_by_worker(project, SourceError, config=Config.model_validate(raw))
    assert "source docs: elsewhere is not there on worker" in error.message


def test_a_worker_that_cannot_reach_a_store(project: Project) -> None:
    project.settings["stores"] = {"main": {"kind": "qdrant", "url": f"http://127.0.0.1:{free_ports(1)[0]}"}}
    error = refused_by_worker(project, StoreError)
    assert "answers the launcher does not answer worker" in error.message
    assert "open the way" in error.remedy


def test_a_worker_without_a_disk(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def require_free(folder: Path, least: int) -> None:
        if folder == Path("/nowhere"):
            raise DiskFullError("0 MiB are free", "make room")
        disk.require_free(folder, least)

    monkeypatch.setattr(worker, "require_free", require_free)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/nowhere")
    error = refused_by_worker(project, DiskFullError)
    assert "has no room in /nowhere" in error.message
    assert "TMPDIR" in error.remedy


def test_a_worker_stops_when_the_lease_is_lost_or_runs_out(project: Project) -> None:
    with begun(project) as (order, _):
        LeaseSeen(order.paths, order.token).check()
        with pytest.raises(LockedError, match="not this run's any more"):
            LeaseSeen(order.paths, "0" * 32).check()
        with pytest.raises(LockedError, match="ran out"):
            LeaseSeen(order.paths, order.token, wall=lambda: 4_000_000_000.0).check()
    with pytest.raises(LockedError, match="not this run's any more"):
        LeaseSeen(order.paths, order.token).check()


def test_the_lease_is_read_once_a_second(project: Project) -> None:
    with begun(project) as (order, _):
        seen = LeaseSeen(order.paths, order.token)
        seen.check()
        write_json(order.paths.lease_file, "threefold.lease", 1, {})
        seen.check()  # what was read a moment ago still counts


def test_embedding_alone_needs_no_store_that_workers_reach(project: Project) -> None:
    project.settings |= {"stores": EDGE, "runner": {"kind": "flink"}}
    refuse(project.config, load=False)

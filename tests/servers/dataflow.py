"""A small Dataflow service of ours, after the published REST of Dataflow (v1b3) and Cloud Storage (v1): it takes jobs
from Beam's own client, fetches the graph from where that client has staged it, and runs it with Beam's local runner.

What it cannot show: machines, images, rights, autoscaling.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

_JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/]+))?")
_OBJECT = re.compile(r"/storage/v1/b/([^/]+)(?:/o/(.+))?")
_CANCELLED, _CANCELLED_NUMBER = "JOB_STATE_CANCELLED", 5
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o(?:/(.+))?")


@dataclass
class Job:
    """One job as the client described it, and how it is."""

    number: str
    described: dict[str, Any]
    state: str = "JOB_STATE_PENDING"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.described["environment"]["sdkPipelineOptions"]["options"])

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "name": self.described["name"],
            "type": "JOB_TYPE_BATCH",
            "currentState": self.state,
        }


@dataclass
class DataflowService:
    """Jobs and objects of a running service. With `refusing` no job is taken; with `running` False none is begun."""

    url: str = ""
    jobs: list[Job] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    refusing: bool = False
    running: bool = True
    _threads: list[threading.Thread] = field(default_factory=list)

    def create(self, described: dict[str, Any]) -> Job:
        job = Job(f"2026-job-{len(self.jobs)}", described)
        self.jobs.append(job)
        job.state = "JOB_STATE_RUNNING"
        if self.running:
            self._threads.append(threading.Thread(target=self._work, args=(job,)))
            self._threads[-1].start()
        return job

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self, job: Job) -> None:
        staged = job.options["pipelineUrl"].removeprefix("gs://")
        pipeline = beam_runner_api_pb2.Pipeline.FromString(self.objects[staged])
        for environment in pipeline.components.environments.values():
            environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        try:
            options = PipelineOptions([], pipeline_type_check=False)
            FnApiRunner().run_via_runner_api(pipeline, options).wait_until_finish()  # type: ignore[no-untyped-call]
        except Exception:  # noqa: BLE001 - the service says only that a job failed
            job.state = "JOB_STATE_FAILED"
        else:
            job.state = "JOB_STATE_DONE"


class _Handler(BaseHTTPRequestHandler):
    service: ClassVar[DataflowService]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if (found := _JOBS.fullmatch(path)) and found[3]:
            self._answer(200, self._job(found[3]).as_json())
        elif (found := _OBJECT.fullmatch(path)) and not found[2]:
            self._answer(200, {"kind": "storage#bucket", "name": found[1]})
        else:
            self._answer(404, {"error": {"code": 404, "message": "Not Found"}})

    def do_POST(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        body = self._body()
        if _JOBS.fullmatch(path):
            if self.service.refusing:
                self._answer(403, {"error": {"code": 403, "message": "a secret of the project", "status": "DENIED"}})
            else:
                self._answer(200, self.service.create(json.loads(body)).as_json())
        elif found := _UPLOAD.fullmatch(path):
            name = json.loads(body or b"{}").get("name") or query["name"][0]
            self._answer(200, {}, {"Location": f"{self.service.url}/upload/storage/v1/b/{found[1]}/o/{name}"})

    def do_PUT(self) -> None:
        path = urlsplit(self.path).path
        body = self._body()
        if found := _JOBS.fullmatch(path):
            job = self._job(found[3] or "")
            assert json.loads(body)["requestedState"] in (_CANCELLED, _CANCELLED_NUMBER)
            job.state = _CANCELLED
            self._answer(200, job.as_json())
        elif found := _UPLOAD.fullmatch(path):
            name = unquote(found[2] or "")
            self.service.objects[f"{found[1]}/{name}"] = body
            crc32c = base64.b64encode(google_crc32c.Checksum(body).digest()).decode()
            self._answer(200, {"kind": "storage#object", "name": name, "size": str(len(body)), "crc32c": crc32c})

    def _job(self, number: str) -> Job:
        return next(job for job in self.service.jobs if job.number == number)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def running_dataflow() -> Iterator[DataflowService]:
    """A service on loopback; at the end its jobs have ended."""
    service = DataflowService()
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    service.url = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        service.join()
        server.shutdown()
        thread.join()
        server.server_close()

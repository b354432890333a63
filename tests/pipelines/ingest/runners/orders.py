"""An order of a run that has begun, as a worker or a watch gets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.ingest.generation import begin
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.run import IngestOptions, request_of
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.watch import Watch
from pipelines.ingest.session import Request, Run
from pipelines.ingest.stores import Standing
from pipelines.state.files import make_folder
from pipelines.state.lease import acquire_lease
from pipelines.state.manifest import Manifest
from pipelines.state.runs import RunFolder
from tests.pipelines.ingest.projects import Project


@contextmanager
def begun(project: Project) -> Iterator[tuple[Order, Run[Request]]]:
    """A run of the project under its lease, before anything was done."""
    request = request_of(project.config, project.base, NoProgress(), IngestOptions())
    with acquire_lease(request.paths) as lease:
        state, generation = begin(request.paths, lease, request.build, request.config)
        folder = RunFolder.create(request.paths, state.run, {})
        run = Run(request, state, generation, lease, folder, Manifest(request.paths, generation.number))
        order = Order.of(run, Standing.of(generation), 1, 65_536)
        make_folder(order.files.folder)
        yield order, run


def watch_of(order: Order, run: Run[Request], **changed: Any) -> Watch:
    """The launcher's watch of the run."""
    return Watch(order.files, run.request, run.lease, **changed)

"""The graph of an engine on Beam's own local runner: what tests compare engines with."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipelines.ingest.graph import quiet_beam
from pipelines.ingest.runners.engine import Build
from pipelines.ingest.runners.failures import failures
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.watch import Watch


@dataclass(frozen=True)
class DirectEngine:
    """FnApiRunner: in this process, or with `workers` processes; `bundle_repeat`: each bundle so often before it
    counts."""

    workers: int = 1
    bundle_repeat: int = 0

    def check(self) -> None:
        """Nothing can be missing."""

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        """Run to the end; Beam offers no way to look in between."""
        flags = [f"--direct_num_workers={self.workers}", "--direct_running_mode=multi_processing"]
        options = PipelineOptions(flags if self.workers > 1 else [], pipeline_type_check=False)
        with quiet_beam():
            pipeline = beam.Pipeline(runner=FnApiRunner(bundle_repeat=self.bundle_repeat), options=options)
            build(pipeline)
            try:
                pipeline.run().wait_until_finish()
            except Exception:
                for error in failures(order.files):
                    raise error from None
                raise
        watch.look()

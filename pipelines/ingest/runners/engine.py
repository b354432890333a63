"""What an engine offers the launcher, and the engine that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from connectors.registry import needs_server
from m3core.config.model import Config
from m3core.errors import ExitCode, M3Error, UsageError

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.ingest.runners.order import Order
    from pipelines.ingest.runners.watch import Watch

# Puts the graph into a pipeline.
Build = Callable[["beam.Pipeline"], None]


class EngineError(M3Error):
    """The engine cannot be reached, is not the one that was configured, or ended the job."""

    code = "engine"
    exit_code = ExitCode.UNREACHABLE


class Engine(Protocol):
    """Runs graphs. `check` says before anything starts what is missing."""

    def check(self) -> None:
        """EngineError or ConfigError if no job can run there."""

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        """Run one graph to its end; `watch.look()` is called all the while.

        Raises what `watch` raises, after the job was cancelled, and what a worker told, or EngineError.
        """


def engine_of(config: Config) -> Engine | None:
    """The configured engine; None for this process."""
    match config.runner.kind:
        case "local":
            return None
        case "flink":
            from pipelines.ingest.runners.flink import FlinkEngine

            return FlinkEngine(config.runner)
        case "portable":
            from pipelines.ingest.runners.portable import PortableEngine

            return PortableEngine(config.runner)
        case "dataflow":
            from pipelines.ingest.runners.dataflow_engine import DataflowEngine

            return DataflowEngine(config)


def refuse(config: Config, *, load: bool = True) -> None:
    """UsageError for what an engine's workers cannot share: a store in a folder of one machine, where they `load`."""
    kind = config.runner.kind
    names = [name for name, store in config.stores.items() if not needs_server(store.kind)] if load else []
    if names:
        named = ", ".join(f"{name} ({config.stores[name].kind})" for name in names)
        raise UsageError(
            f"--runner {kind}: store {named} lives in a folder of one machine, which workers cannot write",
            f"m3 embed --runner {kind} fills the lake there; then m3 load at home, on the machine with the store",
        )

"""`--runner`: where the graph of a run works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

from m3core.config.runner import RunnerKind
from pipelines.cli.usage import one_of

if TYPE_CHECKING:
    from m3core.config.model import Config
    from pipelines.ingest.working import Runner

KINDS: tuple[str, ...] = get_args(RunnerKind)

RunnerOption = Annotated[
    str | None,
    typer.Option(
        "--runner",
        metavar="|".join(KINDS),
        parser=one_of(*KINDS),
        help="Where to work; default runner.kind of the configuration. Its other settings: [runner].",
    ),
]


def on_runner(config: Config, runner: str | None) -> Config:
    """The configuration with the runner that was asked for."""
    if runner is None:
        return config
    return config.model_copy(update={"runner": config.runner.model_copy(update={"kind": runner})})


def runner_of(config: Config, *, load: bool = True) -> Runner | None:
    """The configured runner, found to be ready; None for this process.

    Raises UsageError for stores that its workers would have to write and cannot, ConfigError, EngineError.
    """
    if config.runner.kind == "local":
        return None
    from pipelines.ingest.runners.engine import engine_of, refuse

    refuse(config, load=load)
    engine = engine_of(config)
    if engine is None:
        return None
    from pipelines.ingest.runners.launch import OnEngine

    engine.check()
    return OnEngine(engine)

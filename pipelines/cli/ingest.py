"""`m3 ingest`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from m3core.errors import ExitCode
from pipelines.cli.locked import FAIL, IfLockedOption, seconds_to_wait
from pipelines.cli.look import command_name
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import print_json, say
from pipelines.cli.runner import RunnerOption, on_runner, runner_of
from pipelines.cli.usage import fraction
from pipelines.cli.writing import carry_out

DeleteFractionOption = Annotated[
    float | None,
    typer.Option("--max-delete-fraction", metavar="F", parser=fraction, help="Refuse to delete more, 0 to 1."),
]


def ingest(
    config: ConfigOption = None,
    if_locked: IfLockedOption = FAIL,
    max_delete_fraction: DeleteFractionOption = None,
    only_acl: Annotated[
        bool, typer.Option("--only-acl", help="Apply changed rights of known documents at once, and nothing else.")
    ] = False,
    runner: RunnerOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Bring the collection up to date with its sources.

    Only what is new or changed is encoded; a second run changes nothing. A store that is down does not stop the others
    (exit 4): m3 load --pending brings it what it missed. --only-acl is for a revocation that cannot wait: after exit 0
    every store respects it. --dry-run is m3 plan; with --runner dataflow it prints the job that would be started.
    """
    if dry_run:
        return _dry_run(config, runner, json=json)
    loaded = open_config(config)
    # A wrong configuration is told before Beam is imported.
    from pipelines.ingest.progress import open_progress
    from pipelines.ingest.rights import apply_acls
    from pipelines.ingest.run import ingest as bring_up_to_date
    from pipelines.ingest.session import IngestOptions

    run = apply_acls if only_acl else bring_up_to_date
    chosen = on_runner(loaded.config, runner)
    where = None if only_acl else runner_of(chosen)
    options = IngestOptions(max_delete_fraction, lock_wait=seconds_to_wait(if_locked), runner=where)
    report = carry_out(
        lambda: run(chosen, loaded.base, open_progress(sys.stderr), options=options), if_locked, as_json=json
    )
    if report is None:
        return ExitCode.OK
    if not json:
        say(f'Search:  {command_name()} search{config_option(config)} "your question"')
    return int(report.exit_code)


def _dry_run(config: Path | None, runner: str | None, *, json: bool) -> int:
    loaded = open_config(config)
    chosen = on_runner(loaded.config, runner)
    if chosen.runner.kind != "dataflow":
        from pipelines.cli.plan import plan

        plan(config, json=json)
        return ExitCode.OK
    from pipelines.ingest.runners.dataflow import dry_run
    from pipelines.ingest.runners.engine import refuse

    refuse(chosen)
    print_json(dry_run(chosen, loaded.base))
    return ExitCode.OK


def config_option(config: Path | None) -> str:
    """` -c FILE` as it was given, to copy."""
    return f" -c {shlex.quote(str(config))}" if config is not None else ""

"""`m3 load`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from m3core.errors import ExitCode
from m3core.terminal import counted
from pipelines.cli.locked import FAIL, IfLockedOption, seconds_to_wait
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import print_json, say
from pipelines.cli.writing import carry_out


def load(
    config: ConfigOption = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only stores that something waits for; others are not asked.")
    ] = False,
    store: Annotated[
        list[str] | None, typer.Option("--store", metavar="NAME", help="Only this store; may be given again.")
    ] = None,
    if_locked: IfLockedOption = FAIL,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Bring the stores what they lack from the lake.

    Without model and sources: what m3 embed encoded, what a store missed while it was down (also deletes), and all rows
    of a store that is empty.
    """
    loaded = open_config(config)
    from pipelines.ingest.progress import open_progress
    from pipelines.ingest.replay import LoadOptions, load_waiting, waiting

    only = tuple(store or ())
    if dry_run:
        found = waiting(loaded.config, loaded.base, only)
        if json:
            print_json(found)
        else:
            for name, one in found["stores"].items():
                count = one["pending"]
                say(f"{name}: {counted(count, 'document')} {'waits' if count == 1 else 'wait'}")
        return ExitCode.OK
    options = LoadOptions(only, pending, seconds_to_wait(if_locked))
    report = carry_out(
        lambda: load_waiting(loaded.config, loaded.base, open_progress(sys.stderr), options=options),
        if_locked,
        as_json=json,
    )
    return ExitCode.OK if report is None else int(report.exit_code)

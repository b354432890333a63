"""`m3 ingest`."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode, LockedError
from pipelines.cli.look import command_name
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, print_json, say
from pipelines.cli.usage import fraction, one_of

if TYPE_CHECKING:
    from pipelines.ingest.report import IngestReport

FAIL, SKIP, WAIT = "fail", "skip", "wait"


def ingest(
    config: ConfigOption = None,
    if_locked: Annotated[
        str,
        typer.Option(
            "--if-locked",
            metavar=f"{FAIL}|{SKIP}|{WAIT}",
            parser=one_of(FAIL, SKIP, WAIT),
            help="While another run writes: end with 6, end with 0, or wait for it.",
        ),
    ] = FAIL,
    max_delete_fraction: Annotated[
        float | None,
        typer.Option("--max-delete-fraction", metavar="F", parser=fraction, help="Refuse to delete more, 0 to 1."),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Bring the collection up to date with its sources.

    Only what is new or changed is encoded; a second run changes nothing.
    """
    loaded = open_config(config)
    # A wrong configuration is told before Beam is imported.
    from pipelines.ingest.progress import open_progress
    from pipelines.ingest.run import ingest as run
    from pipelines.ingest.session import IngestOptions

    options = IngestOptions(max_delete_fraction, lock_wait=math.inf if if_locked == WAIT else 0.0)
    try:
        report = run(loaded.config, loaded.base, open_progress(sys.stderr), options=options)
    except LockedError as error:
        if if_locked != SKIP:
            raise
        return _say_skipped(error, as_json=json)
    if json:
        print_json(report.as_json())
    else:
        _say_report(report, config)
    return int(report.exit_code)


def _say_skipped(error: LockedError, *, as_json: bool) -> int:
    from m3core.terminal import plain

    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "skipped": error.message})
    else:
        say(f"skipped: {plain(error.message)}")
    return ExitCode.OK


def _say_report(report: IngestReport, config: Path | None) -> None:
    """The end of a run for people, and a search to copy."""
    from m3core.terminal import plain
    from pipelines.ingest.report import summary_lines

    for line in summary_lines(report):
        indent = line[: len(line) - len(line.lstrip(" "))]
        say(indent + plain(line.lstrip(" ")))
    option = f" -c {shlex.quote(str(config))}" if config is not None else ""
    say(f'Search:  {command_name()} search{option} "your question"')

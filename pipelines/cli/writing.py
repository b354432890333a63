"""What the commands that write rows do alike: wait or not for another writer, run, tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.cli.locked import unless_locked
from pipelines.cli.report import print_json, say

if TYPE_CHECKING:
    from pipelines.ingest.report import IngestReport


def carry_out(run: Callable[[], IngestReport], if_locked: str, *, as_json: bool) -> IngestReport | None:
    """Run and tell how it ended; None, and said so, if it is skipped for another writer."""
    report = unless_locked(if_locked, run, as_json=as_json)
    if report is not None:
        _say_report(report, as_json=as_json)
    return report


def _say_report(report: IngestReport, *, as_json: bool) -> None:
    """The end of a run, for programs or for people."""
    from m3core.terminal import plain
    from pipelines.ingest.report import summary_lines

    if as_json:
        print_json(report.as_json())
        return
    for line in summary_lines(report):
        indent = line[: len(line) - len(line.lstrip(" "))]
        say(indent + plain(line.lstrip(" ")))

"""`m3 embed`."""

from __future__ import annotations

import sys

from m3core.errors import ExitCode
from pipelines.cli.ingest import DeleteFractionOption, say_report
from pipelines.cli.locked import FAIL, IfLockedOption, seconds_to_wait, unless_locked
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config


def embed(
    config: ConfigOption = None,
    if_locked: IfLockedOption = FAIL,
    max_delete_fraction: DeleteFractionOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Encode the sources into the lake, no store.

    The first half of m3 ingest; m3 load is the second. No store is asked. --dry-run is m3 plan.
    """
    if dry_run:
        from pipelines.cli.plan import plan

        plan(config, json=json)
        return ExitCode.OK
    loaded = open_config(config)
    from pipelines.ingest.progress import open_progress
    from pipelines.ingest.run import ingest
    from pipelines.ingest.session import IngestOptions

    options = IngestOptions(max_delete_fraction, lock_wait=seconds_to_wait(if_locked), load=False)
    report = unless_locked(
        if_locked,
        lambda: ingest(loaded.config, loaded.base, open_progress(sys.stderr), options=options),
        as_json=json,
    )
    if report is None:
        return ExitCode.OK
    say_report(report, as_json=json)
    return int(report.exit_code)

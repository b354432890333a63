"""`m3 embed`."""

from __future__ import annotations

import sys

from m3core.errors import ExitCode
from pipelines.cli.ingest import DeleteFractionOption
from pipelines.cli.locked import FAIL, IfLockedOption, seconds_to_wait
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.runner import RunnerOption, on_runner, runner_of
from pipelines.cli.writing import carry_out


def embed(
    config: ConfigOption = None,
    if_locked: IfLockedOption = FAIL,
    max_delete_fraction: DeleteFractionOption = None,
    dry_run: DryRunOption = False,
    runner: RunnerOption = None,
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

    chosen = on_runner(loaded.config, runner)
    where = runner_of(chosen, load=False)
    options = IngestOptions(max_delete_fraction, lock_wait=seconds_to_wait(if_locked), load=False, runner=where)
    report = carry_out(
        lambda: ingest(chosen, loaded.base, open_progress(sys.stderr), options=options), if_locked, as_json=json
    )
    return ExitCode.OK if report is None else int(report.exit_code)

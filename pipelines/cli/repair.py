"""`m3 repair`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode
from m3core.terminal import counted
from pipelines.cli.audit import DEFAULT_SAMPLE, SampleOption
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, print_json, say
from pipelines.cli.usage import fraction

if TYPE_CHECKING:
    from pipelines.operate.repair import Repaired
    from pipelines.operate.repair_plan import Plan


def repair(
    config: ConfigOption = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Carry out this plan; with --dry-run, write it if it is new."),
    ] = None,
    dry_run: DryRunOption = False,
    max_delete_fraction: Annotated[
        float | None,
        typer.Option("--max-delete-fraction", metavar="F", parser=fraction, help="Of a store's rows, 0 to 1."),
    ] = None,
    sample: SampleOption = DEFAULT_SAMPLE,
    json: JsonOption = False,
) -> int:
    """Mend what an audit finds, without the model.

    Rows are written again from chunk files and lake. Rows of no document are deleted. Documents whose vectors are lost
    are read again by the next m3 ingest (exit 4).
    """
    from m3core.terminal import plain
    from pipelines.operate.collection import Place
    from pipelines.operate.mending import RepairRequest
    from pipelines.operate.mending import repair as mend

    loaded = open_config(config)
    limit = loaded.config.ingest.max_delete_fraction if max_delete_fraction is None else max_delete_fraction
    request = RepairRequest(Place.of(loaded.config, loaded.base), plan, dry_run, limit, sample)
    made, done = mend(request)
    if json:
        counts = {f"{store or 'state'}.{kind}": count for (store, kind), count in sorted(made.counts.items())}
        result = {"schema_version": SCHEMA_VERSION} if done is None else done.as_json()
        print_json({**result, "dry_run": dry_run, "plan": counts})
    else:
        for line in _plan_lines(made) if done is None else _lines(done):
            say(plain(line))
    return int(ExitCode.OK if done is None else done.exit_code)


def _plan_lines(plan: Plan) -> Iterator[str]:
    if not plan.counts:
        yield "nothing to mend"
    for (store, kind), count in sorted(plan.counts.items()):
        yield f"{store or 'state folder'}: {count:,} {kind.replace('_', ' ')}"


def _lines(done: Repaired) -> Iterator[str]:
    if done.run is None:
        yield "nothing to mend"
        return
    for store in sorted(done.written.keys() | done.deleted.keys()):
        written, deleted = done.written.get(store, 0), done.deleted.get(store, 0)
        yield f"{store}: {counted(written, 'row')} written, {counted(deleted, 'row')} deleted"
    if done.renewed:
        yield f"{counted(done.renewed, 'document')} renewed: a store had rows of a later run"
    if done.moved:
        yield f"{counted(done.moved, 'damaged file')} moved aside"
    for store, reason in done.refused.items():
        yield f"{store} refused rows, first {reason}"
    if done.reread:
        yield f"{counted(done.reread, 'document')} to be read again. Remedy: m3 ingest"
    yield "Check:  m3 audit"

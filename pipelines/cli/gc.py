"""`m3 gc`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode
from m3core.terminal import counted
from pipelines.cli.amounts import size_text
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import print_json, say
from pipelines.cli.usage import whole_number

if TYPE_CHECKING:
    from pipelines.operate.gc import Collected

_LAKE_DAYS, _RUN_DAYS = 30, 90


def gc(
    config: ConfigOption = None,
    lake_days: Annotated[
        int, typer.Option("--lake-days", metavar="N", parser=whole_number, help="Keep unused vectors for so long.")
    ] = _LAKE_DAYS,
    run_days: Annotated[
        int, typer.Option("--run-days", metavar="N", parser=whole_number, help="Keep reports of runs for so long.")
    ] = _RUN_DAYS,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Give space back that nothing needs.

    Vectors that no document names any more, chunk rows of replaced versions, old runs, retired generations but one, and
    what killed processes left.
    """
    from pipelines.operate.collection import Place
    from pipelines.operate.gc import GcRequest
    from pipelines.operate.gc import gc as collect

    loaded = open_config(config)
    place = Place.of(loaded.config, loaded.base)
    collected = collect(GcRequest(place, lake_days=lake_days, run_days=run_days, dry_run=dry_run))
    if json:
        print_json(collected.as_json())
    else:
        for line in _lines(collected):
            say(line)
    return ExitCode.OK


def _lines(collected: Collected) -> Iterator[str]:
    kinds = (
        (collected.generations, "old generation"),
        (collected.lake_rows, "unused vector row"),
        (collected.chunk_rows, "chunk row of a replaced version", "chunk rows of replaced versions"),
        (collected.runs, "run"),
        (collected.leftovers, "leftover"),
    )
    for freed, noun, *plural in kinds:
        if freed.count or freed.bytes:
            many = f"{freed.count:,} {plural[0]}" if plural and freed.count != 1 else counted(freed.count, noun)
            yield f"  {many} · {size_text(freed.bytes)}"
    yield f"{size_text(collected.bytes)} {'would be' if collected.dry_run else ''} freed".replace("  ", " ")

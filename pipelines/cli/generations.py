"""`m3 generations build`, `list`, `promote`, `rollback` and `drop`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode, UsageError
from pipelines.cli.amounts import moment, size_text
from pipelines.cli.ingest import DeleteFractionOption
from pipelines.cli.locked import FAIL, IfLockedOption, seconds_to_wait
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import print_json, say
from pipelines.cli.usage import CommandGroup, whole_number
from pipelines.cli.writing import carry_out

if TYPE_CHECKING:
    from pipelines.operate.collection import Place
    from pipelines.operate.dropping import Dropped
    from pipelines.operate.generations import Generations, ListedGeneration
    from pipelines.operate.promoting import Promoted
    from pipelines.operate.proving import Gate

app = typer.Typer(name="generations", cls=CommandGroup, help="Build the collection anew, then switch to it.")

DEFAULT_SAMPLE = 200
SampleOption = Annotated[
    int,
    typer.Option(
        "--sample", metavar="N", parser=whole_number, help="Stored vectors to compare with the lake; 0: none."
    ),
]
NumberArgument = Annotated[int | None, typer.Argument(metavar="[N]", parser=whole_number, help="Its number.")]


@app.command("build")
def build(
    config: ConfigOption = None,
    if_locked: IfLockedOption = FAIL,
    max_delete_fraction: DeleteFractionOption = None,
    json: JsonOption = False,
) -> int:
    """Build what is configured beside the live generation.

    For another model, chunking, fields or stores. Vectors that the lake has are not encoded again; searches go on in
    the live generation. Run it again to go on, or to bring it up to date; then promote it.
    """
    loaded = open_config(config)
    # A wrong configuration is told before Beam is imported.
    from pipelines.ingest.progress import open_progress
    from pipelines.ingest.run import ingest
    from pipelines.ingest.session import IngestOptions

    options = IngestOptions(max_delete_fraction, lock_wait=seconds_to_wait(if_locked), build=True)
    report = carry_out(
        lambda: ingest(loaded.config, loaded.base, open_progress(sys.stderr), options=options), if_locked, as_json=json
    )
    if report is None:
        return ExitCode.OK
    if not json:
        say(f"Generation {report.generation} is built. Next:  m3 generations promote --dry-run")
    return int(report.exit_code)


@app.command("list")
def list_(config: ConfigOption = None, json: JsonOption = False) -> int:
    """Show what each generation holds, and who is behind.

    One that is behind may not have seen the last deletes and acl changes: it cannot be promoted.
    """
    from m3core.terminal import plain
    from pipelines.operate.generations import list_generations

    found = list_generations(_place(config))
    if json:
        print_json(found.as_json())
    else:
        for line in _table(found):
            say(plain(line))
    return int(found.exit_code)


@app.command("promote")
def promote(
    number: NumberArgument = None,
    config: ConfigOption = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help='JSON lines: {"query": "...", "relevant": ["ID", ...]}.'),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="NAME=X", help="Least mean over the queries, e.g. ndcg@10=0.60."),
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--as", metavar="TENANT:PRINCIPALS", help="Ask the queries as this caller.")
    ] = None,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Although documents of the live generation are missing in it.")
    ] = False,
    sample: SampleOption = DEFAULT_SAMPLE,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Let searches find another generation, checked first.

    Without a number, the one that is being built. The one that was live is retained: m3 generations rollback.
    """
    from pipelines.operate.promoting import PromoteRequest
    from pipelines.operate.promoting import promote as flip

    gates = () if queries is None and not at_least else (_gate(config, queries, at_least or [], identity),)
    place = _place(config)
    done = flip(PromoteRequest(place, number, dry_run, accept_missing, max(0, sample), gates))
    return _say_promoted(done, as_json=json)


@app.command("rollback")
def rollback(
    number: NumberArgument = None,
    config: ConfigOption = None,
    sample: SampleOption = DEFAULT_SAMPLE,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Let searches find the generation before again.

    It has followed every delete and acl change since, or it is refused. Documents may be missing in it, or older.
    """
    from pipelines.operate.promoting import PromoteRequest
    from pipelines.operate.promoting import rollback as flip

    done = flip(PromoteRequest(_place(config), number, dry_run, sample=max(0, sample)))
    return _say_promoted(done, as_json=json)


@app.command("drop")
def drop(
    number: Annotated[int, typer.Argument(metavar="N", parser=whole_number, help="Its number.")],
    config: ConfigOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Also if it was live until just now: searches being leafed through end.")
    ] = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Remove a generation from every store.

    One that is being built or retained, never the live one. Its vectors stay in the lake. If a store does not answer,
    drop it again later.
    """
    from pipelines.operate.dropping import DropRequest
    from pipelines.operate.dropping import drop as remove

    dropped = remove(DropRequest(_place(config), number, dry_run, now))
    if json:
        print_json(dropped.as_json())
    else:
        _say_dropped(dropped)
    return int(dropped.exit_code)


def _place(config: ConfigOption) -> Place:
    from pipelines.operate.collection import Place

    loaded = open_config(config)
    return Place.of(loaded.config, loaded.base)


def _gate(config: ConfigOption, queries: Path | None, least: list[str], identity: str | None) -> Gate:
    if queries is None or not least:
        given, other = ("--min", "--queries FILE") if queries is None else ("--queries", "--min ndcg@10=X")
        raise UsageError(f"{given} is given alone", f"add {other}")
    from pipelines.cli.search import caller
    from pipelines.evaluate.gate import parse_least, query_gate, read_questions

    loaded = open_config(config)
    wanted = parse_least(least)
    return query_gate(loaded.config, loaded.base, read_questions(queries), wanted, caller(identity, loaded.config))


def _table(found: Generations) -> Iterator[str]:
    header = ("", "status", "created", "documents", "chunks", "on disk", "model", "rows")
    rows = [header, *(_row(one) for one in found.listed)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    right = (0, 3, 4, 5)
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(part.rjust(width) if at in right else part.ljust(width) for at, (part, width) in cells).rstrip()
    for one in found.listed:
        if one.behind:
            yield f"generation {one.generation.number} is behind. Remedy: m3 ingest, or m3 generations build"
        for store in one.stores:
            if store.error is not None:
                yield f"generation {one.generation.number}, store {store.name}: {store.error}"


def _row(one: ListedGeneration) -> tuple[str, ...]:
    generation = one.generation
    status = generation.status + (", behind" if one.behind else "")
    start = (str(generation.number), status, moment(generation.created))
    if generation.status == "dropped":
        return (*start, "", "", "", generation.model, "")
    rows = ", ".join(f"{store.name} {'?' if store.rows is None else format(store.rows, ',')}" for store in one.stores)
    counts = one.counts
    return (*start, f"{counts.documents:,}", f"{counts.chunks:,}", size_text(one.total_bytes), generation.model, rows)


def _say_promoted(done: Promoted, *, as_json: bool) -> int:
    """Checks, outcome and what to do next; a failed check is the command's error."""
    from m3core.terminal import plain
    from pipelines.operate.promoting import refusal

    if as_json:
        print_json(done.as_json())
        return int(done.exit_code)
    for check in done.checks:
        say(plain(f"{'ok    ' if check.passed else 'failed'}  {check.name}: {check.detail}"))
    if not done.passed:
        raise refusal(done)
    if done.dry_run:
        say(f"generation {done.generation} would be live")
        return int(done.exit_code)
    retained = "" if done.before is None else f"; generation {done.before} is retained (m3 generations rollback)"
    say(f"generation {done.generation} is live{retained}")
    return int(done.exit_code)


def _say_dropped(dropped: Dropped) -> None:
    from m3core.terminal import plain

    held = {name: why for name, why in dropped.stores.items() if why}
    for name, why in held.items():
        say(plain(f"store {name} still has it: {why}"))
    if held:
        say(f"generation {dropped.generation} stays until every store has removed it: drop it again")
        return
    verb = "would be removed" if dropped.dry_run else "removed"
    say(f"generation {dropped.generation} {verb}, {size_text(dropped.bytes)} on this disk")

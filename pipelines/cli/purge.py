"""`m3 purge`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode, UsageError
from m3core.terminal import counted
from pipelines.cli.amounts import moment, size_text
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, print_json, say

if TYPE_CHECKING:
    from pipelines.operate.collection import Place
    from pipelines.operate.purge import Named, Preview, Purged

_DIGITS = 12


def purge(
    config: ConfigOption = None,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="T", help="Whose documents.")] = None,
    doc: Annotated[list[str] | None, typer.Option("--doc", metavar="ID", help="A document's id; may repeat.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All documents of the tenant, also those to come.")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Take the tombstones away: they may be ingested again.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Erase once more what was purged before: after a restore.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Erase documents for good, and keep them out.

    Out of every store and generation, vectors, texts, dead letters and reports. The receipt names them by tombstones,
    which say nothing to others. A restore has to keep the folder tombstones/ of the storage path: the next run then
    erases again what a backup brought back.
    """
    from pipelines.operate.collection import Place

    named = _named(tenant, doc, everything, again)
    if again and (lift or dry_run):
        raise UsageError("m3 purge: --again goes with neither --lift nor --dry-run", "m3 purge --again")
    loaded = open_config(config)
    place = Place.of(loaded.config, loaded.base)
    if named is None:
        return _again(place, json)
    if lift:
        return _lift(place, named, dry_run=dry_run, as_json=json)
    if dry_run:
        return _look(place, named, as_json=json)
    if everything and not yes:
        _confirm(named.tenant)
    from pipelines.operate.purge import purge as erase

    return _tell(erase(place, named), json)


def _named(tenant: str | None, doc: list[str] | None, everything: bool, again: bool) -> Named | None:
    """None for `--again`. UsageError unless exactly one of the ways is chosen."""
    from pipelines.operate.purge import Named

    if again:
        if tenant or doc or everything:
            raise UsageError("m3 purge: --again is about all that was purged before", "leave the documents out")
        return None
    if not tenant:
        raise UsageError("m3 purge: whose documents is not said", "--tenant T with --doc ID, or with --all")
    if bool(doc) == everything:
        what = "both --doc and --all are given" if everything else "which documents is not said"
        raise UsageError(f"m3 purge: {what}", "--doc ID, as often as needed, or --all for the whole tenant")
    return Named(tenant, tuple(doc or ()))


def _confirm(tenant: str) -> None:
    """Ask a person at a terminal; a script has said what it wants. UsageError unless the tenant's name is typed."""
    if not sys.stdin.isatty():
        return
    typed = typer.prompt(f"All documents of tenant {tenant} go for good. Type the tenant's name", err=True)
    if typed.strip() != tenant:
        raise UsageError("m3 purge: the name that was typed is not the tenant's", "nothing was erased")


def _look(place: Place, named: Named, *, as_json: bool) -> int:
    from pipelines.operate.purge import look

    found = look(place, named)
    if as_json:
        print_json(found.as_json())
    else:
        say(_preview(found))
    return ExitCode.OK


def _preview(found: Preview) -> str:
    counts = found.as_json()
    if not counts["chunks"] and not counts["documents"]:
        return "no trace of it is here; a purge would leave a tombstone"
    documents, chunks = counted(counts["documents"], "document"), counted(counts["chunks"], "chunk")
    return f"{documents} with {chunks} and {counted(counts['lake_rows'], 'vector row')} would be erased"


def _lift(place: Place, named: Named, *, dry_run: bool, as_json: bool) -> int:
    from pipelines.operate.purge import lift

    lifted = lift(place, named, dry_run=dry_run)
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "dry_run": dry_run, "lifted": lifted})
    else:
        would = "would be lifted" if dry_run else "lifted"
        say(f"{counted(lifted, 'tombstone')} {would}. What the sources still have comes back with the next m3 ingest")
    return ExitCode.OK


def _again(place: Place, as_json: bool) -> int:
    from pipelines.operate.purge import purge_again

    return _tell(purge_again(place), as_json)


def _tell(purged: Purged, as_json: bool) -> int:
    if as_json:
        print_json(purged.as_json())
    else:
        for line in _lines(purged):
            say(line)
    return int(purged.exit_code)


def _lines(purged: Purged) -> Iterator[str]:
    receipt = purged.receipt
    run = f"run {receipt.run}, " if receipt.run is not None else ""
    yield f"purge: {run}{moment(receipt.at)} UTC"
    if not receipt.found:
        yield "  no trace of it was here; its tombstone keeps it out"
    for one in receipt.found:
        documents = f"{counted(one.documents, 'document')}, " if one.documents != 1 else ""
        yield f"  {one.tombstone[:_DIGITS]}  {documents}{counted(one.chunks, 'chunk')}"
    for store in receipt.stores:
        how = "compacted" if store.compacted else "deleted bytes go when the store compacts by itself"
        yield f"  store {store.name}, generation {store.generation}: {counted(store.rows, 'row')} · {how}"
    lake = receipt.lake
    yield f"  lake: {counted(lake.rows, 'row')} in {counted(lake.files, 'file')} · {size_text(max(0, lake.bytes))}"
    yield (
        f"  {counted(receipt.chunk_files, 'chunk file')} · {counted(receipt.dead_letters, 'dead letter')} · "
        + counted(receipt.records, "report")
    )
    if receipt.damaged_files:
        yield f"  {counted(receipt.damaged_files, 'damaged file')} removed: it may have held them. Remedy: m3 audit"
    if receipt.held:
        copies = counted(receipt.held, "copy") if receipt.held == 1 else f"{receipt.held:,} copies"
        yield f"  readers still hold {copies} of old snapshots. Remedy: restart them, then m3 purge --again"
    for name, rows in purged.left.items():
        if rows:
            yield f"  store {name} has {counted(rows, 'row')} that nothing else knows. Remedy: m3 repair, then again"
    yield f"  {counted(purged.standing, 'tombstone')}; keep the folder tombstones/ through a restore"

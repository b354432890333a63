"""`m3 status`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from m3core.terminal import counted
from pipelines.cli.amounts import moment, size_text
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import print_json, say

if TYPE_CHECKING:
    from pipelines.operate.history import PastRun
    from pipelines.operate.status import Status, StoreStatus


def status(config: ConfigOption = None, json: JsonOption = False) -> int:
    """Show the collection on one screen, worst news first.

    What is in it, where, and how it came there. Reads only and takes no lease: it may be asked while a run is at work.
    """
    from m3core.terminal import plain
    from pipelines.operate.collection import Place
    from pipelines.operate.status import status as look

    loaded = open_config(config)
    found = look(Place.of(loaded.config, loaded.base))
    if json:
        print_json(found.as_json())
    else:
        for line in _lines(found):
            say(plain(line))
    return int(found.exit_code)


def _lines(found: Status) -> Iterator[str]:
    faults = list(found.faults())
    generation = found.generation
    if generation is None:
        yield f"{found.collection} holds nothing yet: m3 ingest"
    else:
        verdict = "in order" if not faults else counted(len(faults), "thing") + " to look at"
        where = f"generation {generation.number} {generation.status}"
        yield f"{found.collection} · {where} · {generation.model} · {verdict}"
    for fault in faults:
        yield f"  {fault.what}. Remedy: {fault.remedy}"
    if generation is not None:
        waiting = f", {found.pending:,} pending" if found.pending else ""
        yield _line("documents", f"{found.counts.documents:,} in {counted(found.counts.chunks, 'chunk')}{waiting}")
        yield _line("encoder", generation.encoder_fingerprint)
        yield _line("collection", generation.collection_fingerprint)
    for store in found.stores:
        yield _line("store", _store(store, found.sizes.stores.get(store.name)))
    yield _line("failed", counted(found.dead_letters, "dead letter"))
    for number, run in enumerate(found.runs):
        yield _line("" if number else "runs", _run(run))
    sizes = found.sizes
    yield _line(
        "disk",
        f"lake {size_text(sizes.lake)} · chunks {size_text(sizes.chunks)} · manifest {size_text(sizes.manifest)} · "
        f"runs {size_text(sizes.runs)} · {size_text(sizes.free)} free",
    )
    writer = found.writer
    held = "free" if writer is None else f"pid {writer.pid} on {writer.host} since {moment(writer.since)} UTC"
    yield _line("lease", held)


def _line(name: str, text: str) -> str:
    return f"{name:<12}{text}"


def _store(store: StoreStatus, size: int | None) -> str:
    keeps = ", ".join([*store.signals, *(["text"] if store.text else [])])
    rows = "no answer" if store.rows is None else counted(store.rows, "row")
    waiting = f" · {counted(store.pending, 'document')} pending" if store.pending else ""
    on_disk = f" · {size_text(size)}" if size is not None else ""
    return f"{store.name} ({store.kind}: {keeps}) · {rows}{waiting}{on_disk}"


def _run(run: PastRun) -> str:
    took = "" if run.seconds is None else f" · {run.seconds:,.0f} s"
    counted_as = {sign: [run.counts[name] for name in names if name in run.counts] for sign, names in _SIGNS}
    parts = [f"{sign} {sum(found):,}" for sign, found in counted_as.items() if found]
    counts = f" · {'   '.join(parts)}" if parts else ""
    return f"{run.run}  {moment(run.started)} UTC  {run.command} {run.outcome}{took}{counts}"


_SIGNS = (("+", ["added"]), ("~", ["changed", "patched"]), ("-", ["deleted"]), ("=", ["unchanged"]))

"""`m3 audit`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.terminal import counted
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import print_json, say
from pipelines.cli.usage import whole_number

if TYPE_CHECKING:
    from pipelines.operate.audit import Audit, StoreAudit

SampleOption = Annotated[
    int, typer.Option("--sample", metavar="N", parser=whole_number, help="Rows whose stored vectors are compared.")
]
DEFAULT_SAMPLE = 200


def audit(config: ConfigOption = None, sample: SampleOption = DEFAULT_SAMPLE, json: JsonOption = False) -> int:
    """Compare the manifest, the lake and every store.

    Ends with 8 if they differ. Reads only and takes no lease. m3 repair mends what it finds.
    """
    from m3core.terminal import plain
    from pipelines.operate.audit import audit as compare
    from pipelines.operate.audit import work_folder
    from pipelines.operate.collection import Collection, Place

    loaded = open_config(config)
    place = Place.of(loaded.config, loaded.base)
    Collection.open(place)
    with work_folder(place) as folder:
        found = compare(place, folder, sample=max(0, sample))
    if json:
        print_json(found.as_json())
    else:
        for line in lines(found):
            say(plain(line))
    return int(found.exit_code)


def lines(found: Audit) -> Iterator[str]:
    """The verdict, a line for each store, lake and chunk files, and what to do."""
    expected, lake = found.expected, found.lake
    verdict = "clean" if found.clean else "drift" if found.drifted else "not compared to the end"
    yield (
        f"{found.collection.place.name} · generation {found.collection.generation.number} · "
        f"{counted(expected.documents, 'document')}, {counted(expected.chunks, 'chunk')} · {verdict}"
    )
    for store in found.stores:
        yield _line(f"{store.name}", _store(store))
        for kind, ids in store.first.items():
            yield f"              {kind.replace('_', ' ')}: {', '.join(ids)}{_more(store.counts[kind], ids)}"
    missing = f", {found.lost_vectors:,} missing" if found.lost_vectors else ""
    corrupt = f", {counted(len(lake.corrupt), 'file')} corrupt" if lake.corrupt else ""
    yield _line("lake", f"{counted(lake.rows, 'row')} sound{corrupt}{missing} · {lake.unreferenced:,} of no chunk")
    lost = f", {found.lost_rows:,} missing" if found.lost_rows else ""
    damaged = f", {counted(len(expected.damaged), 'file')} damaged" if expected.damaged else ""
    yield _line("chunk files", f"{counted(expected.chunk_rows, 'row')}{damaged}{lost}")
    if found.running is not None:
        yield f"run {found.running} was at work meanwhile: what it changed may look like drift; ask again after it"
    if found.drifted:
        yield "Mend: m3 repair"


def _store(store: StoreAudit) -> str:
    if store.error is not None:
        return f"not compared: {store.error.message}. Remedy: {store.error.remedy}"
    wrong = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in store.counts.items() if count)
    parts = [counted(store.compared.rows, "row"), wrong or "as the manifest says"]
    parts += [f"{store.compared.pending:,} pending"] if store.compared.pending else []
    parts += [f"{store.compared.in_flight:,} in flight"] if store.compared.in_flight else []
    parts.append("acl not compared" if store.acls is None else f"{counted(store.acls, 'acl')} compared")
    parts.append(f"vectors of {counted(store.sampled, 'row')} compared")
    return " · ".join(parts)


def _more(count: int, named: list[str]) -> str:
    return f" and {count - len(named):,} more" if count > len(named) else ""


def _line(name: str, text: str) -> str:
    return f"{name:<12}  {text}"

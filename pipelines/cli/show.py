"""`m3 show`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode
from m3core.terminal import counted
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import print_json, say

if TYPE_CHECKING:
    from pipelines.operate.showing import Held, Shown, ShownChunk


def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A chunk's id, TENANT/DOC_ID, or DOC_ID.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> int:
    """Say where a stored chunk or document came from.

    Its run, model and lake file, and every store's view of it.
    """
    from m3core.terminal import plain
    from pipelines.operate.collection import Place
    from pipelines.operate.showing import show as look

    loaded = open_config(config)
    found = look(Place.of(loaded.config, loaded.base), name)
    if json:
        print_json(found.as_json())
    else:
        for line in _lines(found):
            say(plain(line))
    return int(ExitCode.UNREACHABLE if found.unreachable else ExitCode.OK)


def _lines(found: Shown) -> Iterator[str]:
    record = found.record
    if record is None:
        yield _line("document", "none: the manifest does not name it; m3 audit finds such rows")
    else:
        yield _line("document", f"{record.tenant}/{record.doc_id}, {counted(len(record.chunk_ids), 'chunk')}")
        yield _line("source", record.source)
        yield _line("run", str(record.revision))
        for state in ("pending", "refused"):
            if stores := sorted(name for name, status in record.status.items() if status == state):
                yield _line(state, ", ".join(stores))
    yield _line("generation", f"{found.generation} · {found.model}")
    for name, error in found.unreachable.items():
        yield _line("no answer", f"store {name}: {error.message}. Remedy: {error.remedy}")
    for chunk in found.chunks:
        yield from _chunk(chunk, found)


def _chunk(shown: ShownChunk, found: Shown) -> Iterator[str]:
    yield _line("chunk", shown.id)
    if shown.row is not None:
        chunk = shown.row.chunk
        span = f"code points {chunk.span[0]:,} to {chunk.span[1]:,}"
        yield f"  no. {chunk.ordinal}, {span}, {counted(chunk.token_count, 'token')}, run {shown.row.run}"
        yield f"  acl {', '.join(chunk.acl) or 'nobody'}"
    lake = "not in the lake" if shown.place is None else f"lake file {shown.place.file}, row {shown.place.row}"
    yield f"  {lake}"
    for name, held in shown.stores.items():
        yield f"  {name}: {_held(held, shown, found)}"


def _held(held: Held, shown: ShownChunk, found: Shown) -> str:
    if held.revision is None:
        return "absent"
    named = found.record is not None and shown.id in found.record.chunk_ids
    right = named and found.record is not None and held.revision == found.record.revision
    judged = "as the manifest says" if right else "not what the manifest says"
    acl = {None: "acl not compared", True: "acl equal", False: "acl differs"}[held.acl_equal]
    return f"revision {held.revision}, {judged}, {acl}"


def _line(name: str, text: str) -> str:
    return f"{name:<12}{text}"

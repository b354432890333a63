"""`m3 delete`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import ExitCode
from m3core.terminal import counted
from pipelines.cli.locked import FAIL, IfLockedOption, seconds_to_wait, unless_locked
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import print_json, say

if TYPE_CHECKING:
    from pipelines.ingest.deleting import Deleted

_NAMED = 3


def delete(
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="Whose documents.")],
    doc: Annotated[list[str], typer.Option("--doc", metavar="ID", help="A document's id; may be given again.")],
    config: ConfigOption = None,
    if_locked: IfLockedOption = FAIL,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Take documents out of every store.

    One that its source still has comes back with the next m3 ingest. Texts and vectors stay in the state folder: m3
    purge erases them and keeps the document away.
    """
    from m3core.terminal import plain
    from pipelines.ingest.deleting import DeleteRequest, delete_documents, would_delete
    from pipelines.ingest.progress import open_progress

    loaded = open_config(config)
    request = DeleteRequest(tenant, tuple(doc), seconds_to_wait(if_locked))
    run = would_delete if dry_run else delete_documents
    done = unless_locked(
        if_locked, lambda: run(loaded.config, loaded.base, open_progress(sys.stderr), request), as_json=json
    )
    if done is None:
        return ExitCode.OK
    if json:
        print_json(done.as_json())
    else:
        for line in _lines(done):
            say(plain(line))
    return int(ExitCode.OK if done.report is None else done.report.exit_code)


def _lines(done: Deleted) -> Iterator[str]:
    what = "to be deleted" if done.report is None else "deleted"
    yield f"{counted(done.documents, 'document')} {what}, {counted(done.chunks, 'chunk')}"
    if done.missing:
        named = ", ".join(done.missing[:_NAMED])
        more = f" and {len(done.missing) - _NAMED:,} more" if len(done.missing) > _NAMED else ""
        yield f"not in the collection: {named}{more}"
    if done.report is not None:
        yield from done.report.notes
    if done.documents:
        yield "A document that its source still has comes back with the next m3 ingest; m3 purge keeps it away."

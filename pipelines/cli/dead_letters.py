"""`m3 dead-letters list`, `show`, `replay` and `drop`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import UsageError
from m3core.terminal import counted
from pipelines.cli.amounts import moment
from pipelines.cli.options import ConfigOption, DryRunOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, print_json, say
from pipelines.cli.usage import CommandGroup, whole_number

if TYPE_CHECKING:
    from pipelines.operate.collection import Place
    from pipelines.operate.letters import Letter

app = typer.Typer(name="dead-letters", cls=CommandGroup, help="Documents that could not be ingested, and why.")

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="First digits of ids that `list` shows.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]
_SHOWN = 50


@app.command("list")
def list_(
    config: ConfigOption = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", parser=whole_number, help="Letters to show; 0: all.")
    ] = _SHOWN,
    json: JsonOption = False,
) -> None:
    """List what failed and is not resolved."""
    from m3core.terminal import plain
    from pipelines.operate.letters import list_letters

    found = list_letters(_place(config), limit or None)
    if json:
        letters = [letter.as_json() for letter in found.letters]
        print_json({"schema_version": SCHEMA_VERSION, "total": found.total, "letters": letters})
        return
    say(counted(found.total, "dead letter"))
    for letter in found.letters:
        one = letter.letter
        name = one.doc_id or one.source_path
        say(f"{letter.id}  {plain(name)}  {plain(one.stage)}/{plain(one.error_code)}  {_times(one.attempts)}")
        say(f"              {plain(one.message)}")
    if found.total > len(found.letters):
        say(f"... and {found.total - len(found.letters):,} more: --limit 0")


@app.command("show")
def show(
    given: Annotated[str, typer.Argument(metavar="ID", help="First digits of its id.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say all that is known of one dead letter."""
    from m3core.terminal import plain
    from pipelines.operate.letters import find_letters

    letter = find_letters(_place(config), [given])[0]
    if json:
        print_json({"schema_version": SCHEMA_VERSION, **letter.as_json()})
        return
    for name, text in _facts(letter):
        if text:
            say(f"{name:<12}{plain(text)}")


@app.command("replay")
def replay(
    ids: IdsArgument = None,
    config: ConfigOption = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Let the next ingest read these documents again.

    Also those that look unchanged. The letters stay until then.
    """
    from pipelines.operate.letters import replay as replay_letters

    done = replay_letters(_place(config), _chosen(ids, everything, "replay"), dry_run=dry_run)
    if json:
        counts = {"letters": done.letters, "stamps_forgotten": done.restored}
        print_json({"schema_version": SCHEMA_VERSION, "dry_run": dry_run, **counts})
        return
    would = "would be read" if dry_run else "will be read"
    say(f"{counted(done.letters, 'dead letter')}: their documents {would} by the next m3 ingest")


@app.command("drop")
def drop(
    ids: IdsArgument = None,
    config: ConfigOption = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Forget dead letters.

    The documents are not touched: one that fails again is told as new.
    """
    from pipelines.operate.letters import drop as drop_letters

    dropped = drop_letters(_place(config), _chosen(ids, everything, "drop"), dry_run=dry_run)
    if json:
        print_json({"schema_version": SCHEMA_VERSION, "dry_run": dry_run, "letters": dropped})
    else:
        say(f"{counted(dropped, 'dead letter')} {'would be forgotten' if dry_run else 'forgotten'}")


def _place(config: ConfigOption) -> Place:
    from pipelines.operate.collection import Place

    loaded = open_config(config)
    return Place.of(loaded.config, loaded.base)


def _chosen(ids: list[str] | None, everything: bool, command: str) -> list[str] | None:
    """None for all of them. UsageError unless either ids or `--all` are given."""
    if bool(ids) == everything:
        what = "both ids and --all are given" if everything else "which dead letters is not said"
        raise UsageError(f"m3 dead-letters {command}: {what}", "give ids that m3 dead-letters list shows, or --all")
    return None if everything else ids


def _times(attempts: int) -> str:
    return counted(attempts, "attempt")


def _facts(letter: Letter) -> list[tuple[str, str]]:
    one = letter.letter
    return [
        ("id", letter.id),
        ("document", f"{one.tenant}/{one.doc_id}" if one.doc_id else ""),
        ("source", one.source_path),
        ("chunk", one.chunk_id),
        ("stage", one.stage),
        ("error", one.error_code),
        ("message", one.message),
        ("attempts", f"{one.attempts:,}, last in run {one.run}"),
        ("first seen", f"{moment(one.first_seen)} UTC"),
        ("last seen", f"{moment(one.last_seen)} UTC"),
    ]

"""`m3 models pull`."""

from __future__ import annotations

from typing import Annotated

import typer

from m3core.errors import UsageError
from m3core.nearest import did_you_mean
from pipelines.cli.report import note, say
from pipelines.cli.usage import CommandGroup

app = typer.Typer(name="models", cls=CommandGroup, help="Fetch models.")

PULLABLE = ("m3-small",)


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="m3-small is the only one so far.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch and build it again.")] = False,
) -> None:
    """Download a model, check it and write it to $M3_HOME or the user's cache."""
    if name not in PULLABLE:
        raise UsageError(f'm3 models pull: no such model "{name}"', did_you_mean(name, PULLABLE))
    from m3core.zoo.m3_small import pull as pull_small

    say(str(pull_small(note, force=force)))

"""`m3 init`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from m3core.errors import UsageError
from pipelines.cli.report import say

_DEFAULT_FILE = Path("m3.toml")


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, a .jsonl or a .parquet file.")],
    config: Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The file to write.")] = _DEFAULT_FILE,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of the collection.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose documents these are.")] = "default",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the file instead of writing it.")] = False,
) -> None:
    """Write a configuration for your documents.

    Looks at them first, so that the file runs as it is; it is commented, to be changed.
    """
    from m3core.config.model import COLLECTION_PATTERN
    from m3core.terminal import plain
    from pipelines.cli.survey import survey
    from pipelines.cli.template import Wishes, collection_name, compose

    chosen = name if name is not None else collection_name(path.absolute())
    if not re.fullmatch(COLLECTION_PATTERN, chosen):
        remedy = "begin with a letter from a to z and go on with such letters, digits and _, 41 at most"
        raise UsageError(f"--name {chosen[:60]!r}: no name of a collection", remedy)
    if not 1 <= len(tenant) <= 128:
        raise UsageError(f"--tenant has {len(tenant)} characters", "give it 1 to 128")
    if config.exists() and not force and not dry_run:
        raise UsageError(f"{config} is there already", "m3 init with --force replaces it, with -c FILE writes another")
    found = survey(path)
    text = compose(found, Wishes(chosen, tenant, config.absolute().parent))
    if dry_run:
        say(text.rstrip("\n"))
        return
    try:
        config.write_text(text, encoding="utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{path}: the name is not UTF-8", "rename it; a configuration is UTF-8") from None
    say(f"wrote {plain(str(config))}: collection {chosen} from {plain(', '.join(str(each.path) for each in found))}")
    option = "" if config == _DEFAULT_FILE else f" -c {shlex.quote(str(config))}"
    say(f"Next:  m3 ingest{option}")

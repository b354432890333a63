"""The terminal that the command writes to, and what the command is called there."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.query.render import Look

_PLAIN_WIDTH = 100


def terminal_look(*, explain: bool = False) -> Look:
    """Width and colour of stdout: 100 cells and none if it is no terminal; `NO_COLOR` and a dumb terminal take none."""
    from pipelines.query.render import Look

    if not sys.stdout.isatty():
        return Look(_PLAIN_WIDTH, colour=False, explain=explain)
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Look(shutil.get_terminal_size().columns, colour=colour, explain=explain)


def copyable(path: Path) -> str:
    """`path` for a shell, with `~` for the user's home."""
    home = Path.home()
    if path.is_relative_to(home) and path != home:
        return f"~/{shlex.quote(str(path.relative_to(home)))}"
    return shlex.quote(str(path))


def command_name() -> str:
    """How this command was called, to copy: `m3` if the shell finds it so, else its path as short as possible."""
    called = Path(sys.argv[0])
    found = shutil.which("m3")
    if found is not None and called.exists() and Path(found).samefile(called):
        return "m3"
    if called.name != "m3":
        return "m3"
    relative = os.path.relpath(called)
    return shlex.quote(relative if not relative.startswith("..") else str(called))

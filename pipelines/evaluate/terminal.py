"""Tables of an evaluation on a terminal: at most its width, colour only where it takes some."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from m3core.terminal import fit, plain
from pipelines.evaluate.tables import INTERVAL, Table
from pipelines.query.render import Look

if TYPE_CHECKING:
    from rich.table import Table as RichTable

# Below this width the interval has no room beside the figures.
_WIDE = 90


def render(shown: Sequence[Table], sentences: Sequence[str], look: Look) -> str:
    """Tables and sentences as text, ending in a newline."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=look.width,
        force_terminal=look.colour,
        no_color=not look.colour,
        color_system="standard" if look.colour else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for table in shown:
        console.print(fit(table.title, look.width).rstrip(), style="bold" if look.colour else None)
        console.print(_rich(table, look))
        console.print()
    for line in sentences:
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _rich(table: Table, look: Look) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    wide = look.width >= _WIDE
    rich = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim" if look.colour else "", show_edge=False)
    kept = [column for column, heading in enumerate(table.header) if wide or heading != INTERVAL]
    for column in kept:
        words = all(not row[column][:1].isdigit() and row[column][:1] not in "+-" for row in table.rows)
        rich.add_column(table.header[column], justify="left" if words else "right", no_wrap=wide)
    for number, row in enumerate(table.rows):
        cells = [
            Text(plain(row[column]), style="bold" if look.colour and (number, column) in table.best else "")
            for column in kept
        ]
        rich.add_row(*cells)
    return rich

"""What may reach a terminal: one line, no control characters, nothing that reorders the text around it; counts."""

from __future__ import annotations

import re

# Line breaks and tabs keep words apart, so they become one space.
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
# C0 and C1 controls, DEL, and the characters that change the direction of what follows. The joiners (U+200C, U+200D)
# stay: Persian, Indic scripts and emoji are wrong without them.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def plain(text: str) -> str:
    """`text` on one line without control and bidi characters; a lone surrogate becomes U+FFFD."""
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", _BREAKS.sub(" ", text)))


def counted(count: int, noun: str) -> str:
    """`1 row`, `1,204 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def fit(text: str, width: int) -> str:
    """`plain(text)` cut or padded to exactly `width` terminal cells; a cut ends in an ellipsis.

    Wide characters (Chinese, Japanese, Korean) take two cells.
    """
    from rich.cells import cell_len, set_cell_size

    clean = plain(text)
    if cell_len(clean) <= width:
        return set_cell_size(clean, width)
    return set_cell_size(set_cell_size(clean, width - 1).rstrip() + "…", width)

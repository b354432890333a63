"""What may be the name of a tenant or a principal, wherever a request brings one."""

from __future__ import annotations

import re

MAX_NAME = 256
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


def is_name(text: str) -> bool:
    """Whether it is short enough, not empty, and without control characters or what is no text."""
    return 0 < len(text) <= MAX_NAME and not _CONTROLS.search(text)

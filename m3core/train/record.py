"""What a record of a run says of the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def shown_command(program: str, arguments: Sequence[str]) -> str:
    """The command with paths cut to their last two parts: where they lie on the machine is nobody's business."""
    shown = ["/".join(Path(part).parts[-2:]) if "/" in part else part for part in arguments]
    return " ".join([program, *shown])

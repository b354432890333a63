"""What a command does while another run writes: `--if-locked fail | skip | wait`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from pipelines.cli.report import SCHEMA_VERSION, print_json, say
from pipelines.cli.usage import one_of

T = TypeVar("T")

FAIL, SKIP, WAIT = "fail", "skip", "wait"

IfLockedOption = Annotated[
    str,
    typer.Option(
        "--if-locked",
        metavar=f"{FAIL}|{SKIP}|{WAIT}",
        parser=one_of(FAIL, SKIP, WAIT),
        help="While another run writes: end with 6, end with 0, or wait for it.",
    ),
]


def seconds_to_wait(if_locked: str) -> float:
    """How long to wait for another writer."""
    return math.inf if if_locked == WAIT else 0.0


def unless_locked(if_locked: str, run: Callable[[], T], *, as_json: bool) -> T | None:
    """What `run` returns; None, and a line or document that says so, if it is skipped for another writer.

    A lease that is lost on the way, or a store that knows a later run, is no other writer at work: that stays an error.
    """
    from m3core.terminal import plain
    from pipelines.state.lease import HeldError

    try:
        return run()
    except HeldError as error:
        if if_locked != SKIP:
            raise
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "skipped": error.message})
        else:
            say(f"skipped: {plain(error.message)}")
        return None

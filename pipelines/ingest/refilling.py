"""Stores that have lost their rows: found at the start of a run, noted until one has filled them whole again."""

from __future__ import annotations

from typing import Any

from pipelines.ingest.session import Run
from pipelines.ingest.stores import Stores
from pipelines.state.refills import read_refills, write_refills


def find_lost(run: Run[Any], stores: Stores) -> None:
    """Let nothing count as loaded into a store that is empty, or that a run which ended on the way began to fill again.

    Noted before the run writes its first row.
    """
    noted = read_refills(run.request.paths, run.generation.number)
    lost = noted | stores.empty()
    write_refills(run.request.paths, run.generation.number, lost)
    stores.standing.lost = lost - stores.standing.absent.keys()


def settle_refills(run: Run[Any], stores: Stores) -> None:
    """The run came to its end: what it filled again, and did not have to give up, is whole."""
    standing = stores.standing
    if filled := standing.lost - standing.absent.keys():
        noted = read_refills(run.request.paths, run.generation.number)
        write_refills(run.request.paths, run.generation.number, noted - filled)

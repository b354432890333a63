"""Waves without Beam, for commands that need no model: group after group from the state folder, each wave committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipelines.ingest.commit import CommitStep, Outcome, commit_wave
from pipelines.ingest.load import LoadStep
from pipelines.ingest.reading import Group
from pipelines.ingest.running import Asked
from pipelines.ingest.session import Run
from pipelines.ingest.stores import Stores
from pipelines.ingest.tally import Tally
from pipelines.state.chunks import ChunkFiles
from pipelines.state.lake import Lake


@dataclass(frozen=True)
class PlainStep:
    """What the groups of such a run share."""

    chunk_files: ChunkFiles
    load: LoadStep


Bring = Callable[[Group, int, PlainStep], Iterable[Outcome]]


def plain_waves(run: Run[Asked], stores: Stores, waves: Iterable[Sequence[Group]], bring: Bring, tally: Tally) -> int:
    """`bring` every group of a wave, commit the wave, until all is done or the run is to stop; how many there were.

    `bring` gets the group, the wave's number (from 1) and the step.
    """
    session = run.request
    lake = Lake(session.paths, run.generation.encoder_fingerprint)
    step = PlainStep(
        ChunkFiles(session.paths, run.generation.number),
        LoadStep(stores, lake, run.before_write, session.progress.loaded),
    )
    committing = CommitStep(run.number, run.manifest, run.folder, run.lease, stores)
    number = 0
    for number, wave in enumerate(waves, start=1):
        run.before_write()
        session.progress.wave(number)
        outcomes: list[Outcome] = []
        for group in wave:
            if not session.stop:
                outcomes.extend(bring(group, number, step))
        committed = commit_wave(number, outcomes, committing)
        tally.add_wave(committed)
        session.progress.committed(committed.documents, None)
        session.stop.announce(session.progress.stopping)
        if session.stop:
            break
    return number

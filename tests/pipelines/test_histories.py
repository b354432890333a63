"""Random histories: after every whole run the stores hold what a model of a few lines says, for everybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from pipelines.ingest import working
from tests.pipelines.fake_encoder import install
from tests.pipelines.histories.generations import GenerationHistories
from tests.pipelines.histories.plain_graph import run_wave
from tests.tiny import HIDDEN, MULTI_DIM

_SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.fixture
def _in_process(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither Beam nor a model, and one database for all joins, which share no table: these take most of the time of a
    run of ten lines, and have tests of their own.
    """
    monkeypatch.setattr(GenerationHistories, "model", tiny_model, raising=False)
    monkeypatch.setattr(working, "_beam", lambda: run_wave)
    install(monkeypatch, HIDDEN, MULTI_DIM)
    with duckdb.connect(config={"threads": 2}) as database:
        monkeypatch.setattr(duckdb, "connect", lambda *_, **__: database.cursor())
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_in_process")
def test_random_histories() -> None:
    # Ten steps are short enough to read as they are; shrinking takes minutes.
    unshrunk = (Phase.explicit, Phase.generate)
    dose = settings(_SETTINGS, max_examples=30, stateful_step_count=10, derandomize=True, phases=unshrunk)
    run_state_machine_as_test(GenerationHistories, settings=dose)


@pytest.mark.nightly
@pytest.mark.usefixtures("_in_process")
def test_many_random_histories() -> None:
    """`M3_HISTORIES` says how many, 1,000 if it is not set; `M3_SEED` which ones."""
    count, chosen = int(os.environ.get("M3_HISTORIES", "1000")), int(os.environ.get("M3_SEED", "1"))
    dose = settings(_SETTINGS, max_examples=count, stateful_step_count=15, database=None)
    run_state_machine_as_test(seed(chosen)(GenerationHistories), settings=dose)

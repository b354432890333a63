"""Random histories: after every whole run the stores hold what a model of a few lines says, for everybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.pipelines.histories.generations import GenerationHistories

_SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.mark.slow
def test_random_histories(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerationHistories, "model", tiny_model, raising=False)
    # Ten steps are short enough to read as they are; shrinking takes minutes.
    unshrunk = (Phase.explicit, Phase.generate)
    dose = settings(_SETTINGS, max_examples=8, stateful_step_count=10, derandomize=True, phases=unshrunk)
    run_state_machine_as_test(GenerationHistories, settings=dose)


@pytest.mark.nightly
def test_many_random_histories(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`M3_HISTORIES` says how many, 1,000 if it is not set."""
    count = int(os.environ.get("M3_HISTORIES", "1000"))
    monkeypatch.setattr(GenerationHistories, "model", tiny_model, raising=False)
    run_state_machine_as_test(
        GenerationHistories, settings=settings(_SETTINGS, max_examples=count, stateful_step_count=30)
    )

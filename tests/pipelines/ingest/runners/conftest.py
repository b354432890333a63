"""Fixtures of the runners' tests."""

from __future__ import annotations

import pytest

from pipelines.ingest.runners import worker


@pytest.fixture
def fresh_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has been nobody's worker yet."""
    for name in ("_workers", "_copies"):
        monkeypatch.setattr(worker, name, {})

"""Fixtures of the ingest tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.ingest.projects import Project


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Project:
    """An empty collection with the tiny model."""
    made = Project(tmp_path, tiny_model)
    made.docs.mkdir()
    return made

"""Fixtures of the tests of what an operator asks: a project, and the command on its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.cli.conftest import here, m3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project

__all__ = ["EDGE", "EDGE_AND_MEMORY", "here", "m3"]


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty collection with the tiny model; `m3` takes its configuration by itself once `configured` wrote it."""
    made = Project(tmp_path, tiny_model)
    made.docs.mkdir()
    monkeypatch.setenv("M3_CONFIG", str(tmp_path / "m3.toml"))
    return made


def configured(project: Project) -> Path:
    """Write the project's configuration as TOML."""
    file = project.base / "m3.toml"
    file.write_text(toml(project.raw()), encoding="utf-8")
    return file


def toml(value: Mapping[str, Any], prefix: str = "") -> str:
    """Tables of plain values; JSON's spelling of them is TOML's."""
    plain = "".join(f"{key} = {json.dumps(part)}\n" for key, part in value.items() if not isinstance(part, Mapping))
    tables = ((f"{prefix}{key}", part) for key, part in value.items() if isinstance(part, Mapping))
    return plain + "".join(f"[{name}]\n{toml(part, f'{name}.')}" for name, part in tables)

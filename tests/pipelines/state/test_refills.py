"""Which stores are being filled again, by generation."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3core.errors import StateError
from pipelines.state.paths import StatePaths
from pipelines.state.refills import read_refills, write_refills


def test_each_generation_has_its_own(tmp_path: Path) -> None:
    paths = StatePaths.of(tmp_path, "notes")
    paths.root.mkdir(parents=True)
    assert read_refills(paths, 1) == set()
    write_refills(paths, 1, ["words", "main"])
    write_refills(paths, 2, ["words"])
    assert (read_refills(paths, 1), read_refills(paths, 2)) == ({"words", "main"}, {"words"})
    write_refills(paths, 1, [])
    assert (read_refills(paths, 1), read_refills(paths, 2)) == (set(), {"words"})
    write_refills(paths, 2, [])
    assert not list(paths.root.iterdir())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    paths = StatePaths.of(tmp_path, "notes")
    paths.root.mkdir(parents=True)
    (paths.root / "refills.json").write_text("{}")
    with pytest.raises(StateError, match=r"refills\.json"):
        read_refills(paths, 1)

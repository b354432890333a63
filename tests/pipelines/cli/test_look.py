from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from pipelines.cli.look import command_name, copyable, terminal_look
from pipelines.query.render import Look


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("env", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_on_a_terminal_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], colour: bool
) -> None:
    for name, value in {"COLUMNS": "72", "TERM": "xterm", "NO_COLOR": "", **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert terminal_look(explain=True) == Look(72, colour, explain=True)


def test_no_terminal_is_100_cells_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert terminal_look() == Look(100, colour=False)


def test_the_command_is_named_as_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "m3"
    script.parent.mkdir()
    script.write_text("", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_name() == "bin/m3"
    monkeypatch.setenv("PATH", str(script.parent))
    assert command_name() == "m3"
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python/pytest"])
    assert command_name() == "m3"


def test_paths_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert copyable(Path("/home/ann/.cache/a b/m3.toml")) == "~/'.cache/a b/m3.toml'"
    assert copyable(Path("/home/ann/.cache/m3.toml")) == "~/.cache/m3.toml"
    assert copyable(Path("/data/x y")) == "'/data/x y'"

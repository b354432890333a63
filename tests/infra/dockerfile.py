"""A Dockerfile as data: its stages, each with its instructions. Only as much of the format as ours uses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One FROM and what follows; `base` is another stage's name or an image, arguments put in."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """What stands behind each instruction `word`."""
        return [rest for found, rest in self.instructions if found == word]

    def last(self, word: str) -> str | None:
        """What stands behind the last one."""
        return (self.all(word) or [None])[-1]


@dataclass(frozen=True)
class Dockerfile:
    """All stages by name, in order."""

    stages: dict[str, Stage]

    def line(self, name: str) -> list[Stage]:
        """A stage and those it is built from, itself first."""
        found = [self.stages[name]]
        while found[-1].base in self.stages:
            found.append(self.stages[found[-1].base])
        return found

    def in_force(self, name: str, word: str) -> str | None:
        """The last `word` of a stage, or of the nearest that it is built from."""
        return next((told for stage in self.line(name) if (told := stage.last(word)) is not None), None)


def read_dockerfile(path: Path) -> Dockerfile:
    """Parse a file."""
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    current: Stage | None = None
    for line in _logical_lines(path.read_text("utf-8")):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+)(?: AS (\S+))?", _filled(rest, arguments)).groups()
            current = stages[name] = Stage(name, base)
        elif current is None:
            assert word == "ARG", line
            key, _, value = rest.partition("=")
            arguments[key] = value
        else:
            current.instructions.append((word, rest))
    return Dockerfile(stages)


def exec_form(rest: str) -> list[str]:
    """The words of a JSON instruction."""
    words = json.loads(rest[rest.index("[") :])
    assert all(isinstance(word, str) for word in words)
    return list(words)


def _logical_lines(text: str) -> list[str]:
    kept = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return re.sub(r"\\\n\s*", "", kept).splitlines()


def _filled(text: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], text)

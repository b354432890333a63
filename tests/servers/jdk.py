"""Finding a JDK that is new enough: JAVA_HOME first, then what is installed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.servers.missing import MissingPartError

_PLACES = ("/usr/lib/jvm", "/opt/java", "/Library/Java/JavaVirtualMachines", "~/.sdkman/candidates/java")
_RELEASE = re.compile(r'^JAVA_VERSION="(?:1\.)?(\d+)', re.MULTILINE)


def find_jdk(least: int) -> Path:
    """Home of an installed JDK of version `least` or newer, compiler included. Raises MissingPartError."""
    for home in _homes():
        if (home / "bin" / "javac").exists() and major_version(home) >= least:
            return home
    raise MissingPartError(f"a JDK {least} or newer is not here (JAVA_HOME, {', '.join(_PLACES)})")


def major_version(home: Path) -> int:
    """Major version that the JDK's `release` file names; 0 without one."""
    try:
        found = _RELEASE.search((home / "release").read_text("utf-8"))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _homes() -> Iterator[Path]:
    if named := os.environ.get("JAVA_HOME"):
        yield Path(named)
    if compiler := shutil.which("javac"):
        yield Path(compiler).resolve().parent.parent
    for place in _PLACES:
        for home in sorted(Path(place).expanduser().glob("*"), reverse=True):
            yield home
            yield home / "Contents" / "Home"

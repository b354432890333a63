"""The checkers that `infra/tools.sh build` makes. A test that needs one skips where it is not built, and says how;
with REQUIRE_TOOLS=1 (make nightly) it fails.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.infra.places import INFRA

SCRIPT = INFRA / "tools.sh"


@cache
def tools_folder() -> Path:
    """Where the script puts them."""
    asked = subprocess.run([str(SCRIPT), "folder"], check=True, capture_output=True, text=True)
    return Path(asked.stdout.strip())


def tool(name: str) -> str:
    """The path of a checker."""
    for place in (tools_folder() / "bin" / name, tools_folder() / "python" / "bin" / name):
        if place.exists():
            return str(place)
    missing = f"{name} is not built: infra/tools.sh build"
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(f"REQUIRE_TOOLS=1, and {missing}")
    pytest.skip(missing)


def check(name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """What a checker says on stdout; an AssertionError with all that it said if it refuses."""
    env = os.environ | environment
    command = [tool(name), *arguments]
    done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{name} {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout

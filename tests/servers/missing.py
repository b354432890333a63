"""What a test does where a server cannot start: skip naming what is missing, or fail where servers are required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


class MissingPartError(Exception):
    """Something that a server needs is not on this machine; the message names it."""


def skip_or_fail(missing: MissingPartError) -> NoReturn:
    """Skip, or fail with REQUIRE_SERVERS=1."""
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(f"REQUIRE_SERVERS=1, and {missing}")
    pytest.skip(str(missing))

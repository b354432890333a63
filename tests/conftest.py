"""Fixtures for every test: a tiny real model, and a home of its own so that no test touches the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from m3core.home import m3_home
from m3core.zoo import m3_small as m3_small_model
from tests.servers.running import Servers
from tests.tiny import make_tiny_model

# The machines are shared and noisy: no deadlines; derandomised, so that a red run is red again.
settings.register_profile("threefold", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("threefold")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer M3 checkpoint (32 dense, 8 multi, 256 tokens)."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


# Read before the tests get a home of their own: the place where `make test` pulled the model.
_USERS_HOME = m3_home()


@pytest.fixture(scope="session")
def m3_small() -> Path:
    """Folder of the real m3-small, where `m3 models pull m3-small` put it."""
    folder = _USERS_HOME / "models" / m3_small_model.folder().name
    if not m3_small_model.is_complete(folder):
        reason = f"m3-small is not in {folder}; pull it with: m3 models pull m3-small"
        pytest.fail(reason) if os.environ.get("REQUIRE_SERVERS") == "1" else pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """M3_HOME in a temporary folder, so that no test touches the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M3_HOME", str(tmp_path_factory.mktemp("m3-home")))
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Real servers, each started when a test first asks for it."""
    opened = Servers(tmp_path_factory)
    yield opened
    opened.close()

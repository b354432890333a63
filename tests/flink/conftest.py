"""One Flink cluster for the tests of this folder; a test that breaks a part of it starts that part again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers.flink import FlinkCluster, running_flink
from tests.servers.missing import MissingPartError, skip_or_fail


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """JobManager, TaskManager with two slots, job server, worker pool."""
    try:
        with running_flink(tmp_path_factory.mktemp("flink"), M3_HOME=os.environ["M3_HOME"]) as started:
            yield started
    except MissingPartError as missing:
        skip_or_fail(missing)

"""Fixtures of the pipelines' tests: an S3 server and an empty bucket on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pipelines.s3 import S3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of this module's tests."""
    from tests.pipelines.s3 import serving  # a second to load

    with serving() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """An empty bucket, reached as a user would: by the environment."""
    from tests.pipelines.s3 import empty_bucket

    settings = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1", "ENDPOINT_URL": s3_server}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with empty_bucket(s3_server, "m3-" + str(abs(hash(tmp_path)))) as bucket:
        yield bucket


@pytest.fixture
def state_url(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's prefix for the state of a collection, of which this process has no copy."""
    from pipelines.state import mirror

    monkeypatch.setattr(mirror, "_mirrors", {})
    return f"{s3.url}/prod"

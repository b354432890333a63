"""A bucket on a real S3 server, moto's, as the tests fill and change it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class S3:
    """A bucket, and a client to write with that is not ours."""

    name: str
    endpoint: str
    client: Any

    @property
    def url(self) -> str:
        """Its address."""
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes, **options: Any) -> None:
        """One object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data, **options)

    def delete(self, key: str) -> None:
        """Remove one object."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def copy(self, folder: Path, prefix: str) -> None:
        """Every file of a folder as an object below a prefix."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server, for as long as entered."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@contextmanager
def empty_bucket(endpoint: str, name: str) -> Iterator[S3]:
    """A new bucket."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    yield S3(name, endpoint, client)
    client.close()

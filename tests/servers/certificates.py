"""A certificate for servers of the tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers.missing import MissingPartError


def self_signed(folder: Path) -> tuple[str, str]:
    """Files of a certificate of 127.0.0.1 that signs itself, and of its key. Raises MissingPartError."""
    if shutil.which("openssl") is None:
        raise MissingPartError("openssl is not here; it makes the certificate of a server")
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)
    return str(chain), str(key)

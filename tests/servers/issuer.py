"""A small OpenID Connect issuer on loopback: discovery, keys that rotate, tokens signed by them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.servers.loopback import serving

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_key(algorithm: str) -> PrivateKey:
    """A private key for `algorithm`."""
    if algorithm.startswith("ES"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


@dataclass
class Issuer:
    """What is served, to be changed by a test, and what was asked for. `status` other than 200 is an issuer in need."""

    url: str = ""
    keys: dict[str, tuple[str, PrivateKey]] = field(default_factory=dict)
    more: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    asked: list[str] = field(default_factory=list)
    # What the discovery document says instead of the truth.
    said: dict[str, Any] = field(default_factory=dict)

    def rotate(self, kid: str, algorithm: str = "ES256") -> None:
        """Sign with a new key from now on; the older ones are forgotten."""
        self.keys = {kid: (algorithm, new_key(algorithm))}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Those of a good token; None takes one out."""
        now = int(time.time())
        usual = {
            "iss": self.url, "aud": "threefold", "sub": "u-17", "iat": now, "exp": now + 300,
            "tenant": "acme", "groups": ["staff"],
        }  # fmt: skip
        return {name: value for name, value in {**usual, **changed}.items() if value is not None}

    def token(self, *, kid: str | None = None, headers: dict[str, Any] | None = None, **changed: Any) -> str:
        """Signed by the key of that name, or by the newest."""
        name = list(self.keys)[-1] if kid is None else kid
        algorithm, key = self.keys[name]
        return jwt.encode(self.claims(**changed), key, algorithm, headers={"kid": name, **(headers or {})})

    def jwks(self) -> dict[str, Any]:
        """The public halves."""
        return {"keys": [*(self._public(kid) for kid in self.keys), *self.more]}

    def _public(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        public: Any = key.public_key()
        told = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
        return {**told, "kid": kid, "use": "sig", "alg": algorithm}

    def answer(self, path: str) -> bytes:
        """The body under `path`."""
        if self.body is not None:
            return self.body
        if path == "/keys":
            return json.dumps(self.jwks()).encode()
        return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.said}).encode()


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer with one key, until the block ends."""
    issuer = Issuer()
    issuer.rotate("first")

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            body = issuer.answer(self.path)
            self.send_response(issuer.status)
            if issuer.status == 302:
                self.send_header("Location", f"{issuer.url}/keys")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            """Quiet."""

    with serving(Answers) as url:
        issuer.url = url
        yield issuer

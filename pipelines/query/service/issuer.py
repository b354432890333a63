"""The public keys of an OpenID Connect issuer: fetched, kept for a while, and fetched again when it changed them.

What is kept is used while the issuer is away, for a day at most. A token that names an unknown key makes us look again,
but not more often than every few seconds: who sends made-up names shall not reach the issuer through us.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError

from m3core.config.model import OidcSection
from m3core.errors import ConfigError
from pipelines.query.service.problems import Problem, ProblemError

_log = logging.getLogger("m3.serve")
FRESH_SECONDS = 600.0
STALE_SECONDS = 86_400.0
COOLDOWN_SECONDS = 5.0
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 256 << 10
_MAX_KEYS = 100
_DISCOVERY = "/.well-known/openid-configuration"

Jwk = Mapping[str, Any]
Fetch = Callable[[], "Mapping[str, Jwk]"]


class IssuerError(Exception):
    """The issuer did not say what its keys are; the text is for the log."""


@dataclass
class IssuerKeys:
    """The issuer's signing keys by their `kid` ("" for one without). For one event loop; `fetch` may block."""

    fetch: Fetch
    clock: Callable[[], float] = time.monotonic
    _keys: Mapping[str, Jwk] = field(default_factory=dict)
    # When the keys were fetched, and when they were last asked for, in vain or not.
    _fetched: float | None = None
    _asked: float | None = None
    _fetching: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, kid: str) -> Jwk | None:
        """The key of that name, None if the issuer has none. Raises ProblemError (503) if it cannot be asked."""
        if not self._younger(self._fetched, FRESH_SECONDS) or kid not in self._keys:
            await self._renew(kid)
        if not self._younger(self._fetched, STALE_SECONDS):
            detail = "the issuer of the tokens does not answer, so that none can be checked"
            raise ProblemError(Problem(503, "issuer", detail, "ask again in a moment", retry_after=5))
        return self._keys.get(kid)

    async def _renew(self, kid: str) -> None:
        asked = self._asked
        async with self._fetching:
            # Somebody else looked while this request waited, or a moment ago.
            if self._asked != asked or self._younger(self._asked, COOLDOWN_SECONDS):
                return
            try:
                self._keys = await asyncio.to_thread(self.fetch)
                self._fetched = self.clock()
            except IssuerError as error:
                _log.warning("the keys of the issuer are not renewed: %s", error)
            finally:
                self._asked = self.clock()

    def _younger(self, then: float | None, seconds: float) -> bool:
        return then is not None and self.clock() - then < seconds


def fetcher(section: OidcSection) -> Fetch:
    """How the keys of a configured issuer are fetched. Raises ConfigError if its `ca` cannot be read."""
    opener = urllib.request.build_opener(
        _NoRedirects, urllib.request.HTTPSHandler(context=_trusting(section.ca))
    )  # fmt: skip

    def fetch() -> Mapping[str, Jwk]:
        url = section.jwks_url
        if not url:
            found = _get(opener, section.issuer.rstrip("/") + _DISCOVERY)
            if found.get("issuer") != section.issuer:
                raise IssuerError("its configuration names another issuer")
            url = str(found.get("jwks_uri", ""))
            if not url.startswith(("https://", section.issuer)):
                raise IssuerError("its configuration names no https address of keys")
        return signing_keys(_get(opener, url))

    return fetch


def signing_keys(document: Mapping[str, Any]) -> dict[str, Jwk]:
    """The keys of a JWKS document that check signatures and hold no secret, by `kid`. Raises IssuerError."""
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise IssuerError(f"it sent no list of at most {_MAX_KEYS} keys")
    usable = [
        key
        for key in keys
        if isinstance(key, dict) and key.get("use", "sig") == "sig" and key.get("kty") in ("RSA", "EC", "OKP")
    ]
    # A key without a name can only be meant if it is the only one.
    return {str(key.get("kid", "")): key for key in usable if "kid" in key or len(usable) == 1}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from the address that was configured, not from where an answer points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _get(opener: urllib.request.OpenerDirector, url: str) -> dict[str, Any]:
    try:
        with opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
            body = answer.read(_MAX_BYTES + 1)
        if len(body) > _MAX_BYTES:
            raise IssuerError(f"{url} sent more than {_MAX_BYTES} bytes")
        value = json.loads(body)
    except HTTPError as error:
        with error:
            raise IssuerError(f"{url} answered {error.code}") from None
    except URLError as error:
        raise IssuerError(f"{url}: {error.reason}") from None
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise IssuerError(f"{url}: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise IssuerError(f"{url} sent no JSON object")
    return value


def _trusting(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise ConfigError(
            f"serve.oidc.ca: the file {ca!a} cannot be used: {error.strerror or type(error).__name__}",
            "name a PEM file of certificates",
        ) from None

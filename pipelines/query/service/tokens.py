"""OpenID Connect bearer tokens: checked by PyJWT with the issuer's keys, then their claims mapped to an identity.

What is checked: the signature, by an algorithm of the configuration and the very key that the token names; issuer,
audience, expiry, not-before and issued-at, with the configured leeway. Nothing of a token is believed before. A refusal
never says which of these was wrong.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m3core.config.model import OidcSection
from m3core.errors import MissingExtraError
from m3core.types import Identity
from pipelines.query.request import MAX_PRINCIPALS
from pipelines.query.service.issuer import IssuerKeys, Jwk, fetcher
from pipelines.query.service.names import is_name
from pipelines.query.service.problems import Problem, ProblemError, unauthorized

if TYPE_CHECKING:
    import jwt

# Headers end at 16 KiB in any case; what is longer is not even decoded.
MAX_TOKEN_CHARS = 12 << 10
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_REQUIRED = ["iss", "aud", "exp", "sub"]
# A curve belongs to its algorithm (RFC 7518, 3.4).
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_SUBJECT_DIGITS = 16


@dataclass(frozen=True)
class TokenOwner:
    """Whom a good token stands for. `id` names the subject in logs without telling who it is."""

    id: str
    subject: str
    identity: Identity


@dataclass(frozen=True)
class Tokens:
    """Tells the owners of bearer tokens of one issuer."""

    section: OidcSection
    keys: IssuerKeys

    @classmethod
    def of(cls, section: OidcSection) -> Tokens:
        """For a configured issuer. Raises MissingExtraError without PyJWT, ConfigError for a `ca` without use."""
        try:
            import jwt
        except ImportError:
            raise MissingExtraError("serve.oidc needs PyJWT", "pip install 'threefold[oidc]'") from None
        del jwt
        return cls(section, IssuerKeys(fetcher(section)))

    async def owner(self, token: str) -> TokenOwner:
        """Whom the token stands for. Raises ProblemError: 401, 403 (it is good, and maps to nobody here), 503."""
        if len(token) > MAX_TOKEN_CHARS or not _FORM.fullmatch(token):
            raise _refused()
        claims = await self._claims(token)
        self._check_scope(claims)
        subject = str(claims["sub"])
        return TokenOwner(_id(self.section.issuer, subject), subject, identity_of(claims, self.section))

    async def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            # Before the issuer is asked: a token that could not be good anyway must not make us ask.
            if header.get("alg") not in self.section.algorithms or "crit" in header:
                raise _refused()
            kid = header.get("kid", "")
            key = await self.keys.find(kid) if isinstance(kid, str) else None
            if key is None:
                raise _refused()
            return jwt.decode(
                token,
                _public_key(key, header["alg"]),
                algorithms=[header["alg"]],
                audience=self.section.audience,
                issuer=self.section.issuer,
                leeway=self.section.leeway,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise _refused() from None

    def _check_scope(self, claims: Mapping[str, Any]) -> None:
        wanted = self.section.required_scope
        if wanted and wanted not in _words(claims.get("scope")) + _words(claims.get("scp")):
            raise _nobody("the token does not have the scope that this service asks for")


def identity_of(claims: Mapping[str, Any], section: OidcSection) -> Identity:
    """Tenant and principals by the configured claims. Raises ProblemError (403) where they are missing or odd."""
    tenant = section.tenant or _claim(claims, section.tenant_claim)
    if not isinstance(tenant, str) or not is_name(tenant):
        raise _nobody("the token names no tenant")
    names = [*section.everyone]
    for claim, prefix in section.principals.items():
        found = _claim(claims, claim)
        values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        if not all(isinstance(value, str) and is_name(prefix + value) for value in values):
            raise _nobody("a claim of the token holds what is no principal")
        names += [prefix + value for value in values]
    principals = tuple(dict.fromkeys(names))
    if len(principals) > MAX_PRINCIPALS:
        raise _nobody(f"the token names {len(principals)} principals; at most {MAX_PRINCIPALS} are taken")
    return Identity(tenant, principals)


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that very name (which may hold dots, such as a URL), else what `a.b` finds inside of objects."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _public_key(key: Jwk, algorithm: str) -> jwt.PyJWK:
    """The key, for that algorithm only. Raises PyJWTError if it is of another kind, or meant for another algorithm."""
    import jwt

    curve = _CURVES.get(algorithm)
    if key.get("alg", algorithm) != algorithm or (curve is not None and key.get("crv") != curve):
        raise jwt.InvalidKeyError("the key is of another algorithm")
    return jwt.PyJWK(dict(key), algorithm=algorithm)


def _words(value: object) -> list[str]:
    """Scopes as a string of words (RFC 8693) or, as some issuers have it, a list."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, Sequence) else []


def _id(issuer: str, subject: str) -> str:
    digest = hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()
    return f"oidc:{digest[:_SUBJECT_DIGITS]}"


def _refused() -> ProblemError:
    return unauthorized("the token is not one that this service takes, or has expired")


def _nobody(detail: str) -> ProblemError:
    return ProblemError(Problem(403, "forbidden", detail, "ask whoever runs the issuer, or this service"))

"""Who asks: a key, a token of an issuer, or nobody on a loopback address; and whom a backend acts for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from m3core.types import Identity
from pipelines.query.request import MAX_PRINCIPALS
from pipelines.query.service.keys import ANY_TENANT, KeyRecord, KeyRing, Scope
from pipelines.query.service.limits import RateLimits
from pipelines.query.service.names import MAX_NAME, is_name
from pipelines.query.service.problems import Problem, ProblemError, unauthorized
from pipelines.query.service.tokens import Tokens

ACT_AS_TENANT = "m3-act-as-tenant"
ACT_AS_PRINCIPALS = "m3-act-as-principals"
ANONYMOUS = "-"


@dataclass(frozen=True)
class Caller:
    """On whose behalf a request runs. `acted`: a backend named somebody else than its key's own identity.

    `key_id` is what logs call the caller; `subject`, whom a token names, is for the audit log alone.
    """

    key_id: str
    identity: Identity
    acted: bool = False
    subject: str = ""


@dataclass(frozen=True)
class Door:
    """Lets callers in. `default` is whom a request without a key stands for where `open_access` allows one.

    `tokens` of an issuer are taken beside keys, where one is configured.
    """

    ring: KeyRing
    limits: RateLimits
    default: Identity
    open_access: bool
    tokens: Tokens | None = None

    @property
    def guarded(self) -> bool:
        """Whether a caller has to say who it is."""
        return not self.open_access or self.tokens is not None or self.ring.any()

    async def enter(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        """The caller of a request that needs `scope`. Raises ProblemError: 401, 403, 429, or 503 (no issuer)."""
        text = _bearer(headers.get("authorization"))
        if text is not None and self.tokens is not None and "." in text:
            return await self._with_token(self.tokens, text, headers, scope)
        return self._with_key(text, headers, scope)

    async def _with_token(self, tokens: Tokens, text: str, headers: Mapping[str, str], scope: Scope) -> Caller:
        owner = await tokens.owner(text)
        self.limits.take(owner.id, tokens.section.per_minute)
        if scope not in tokens.section.scopes:
            raise _forbidden(f"tokens do not have the scope {scope} here")
        if _act_as(headers) is not None:
            raise _forbidden("a token stands for its own user; acting for others needs a key with the scope act-as")
        return Caller(owner.id, owner.identity, subject=owner.subject)

    def _with_key(self, text: str | None, headers: Mapping[str, str], scope: Scope) -> Caller:
        record = self._key(text)
        if record is None:
            if _act_as(headers) is not None:
                raise _forbidden("acting for others needs a key with the scope act-as")
            return Caller(ANONYMOUS, self.default)
        self.limits.take(record.id, record.per_minute)
        if scope not in record.scopes:
            raise _forbidden(f"the key does not have the scope {scope}")
        other = _act_as(headers)
        if other is None:
            return Caller(record.id, record.identity)
        if "act-as" not in record.scopes:
            raise _forbidden("the key does not have the scope act-as")
        if ANY_TENANT not in record.act_as_tenants and other.tenant not in record.act_as_tenants:
            raise _forbidden("the key may not act for this tenant")
        return Caller(record.id, other, acted=True)

    def _key(self, text: str | None) -> KeyRecord | None:
        if text is None:
            if not self.guarded:
                return None
            raise unauthorized("this service asks for a key")
        record = self.ring.opens(text)
        if record is None:
            raise unauthorized("the key is unknown, revoked or expired")
        return record


def _bearer(header: str | None) -> str | None:
    """What a caller shows: None if nothing, "" if it is no bearer's."""
    if header is None:
        return None
    kind, _, text = header.partition(" ")
    return text.strip() if kind.lower() == "bearer" else ""


def _act_as(headers: Mapping[str, str]) -> Identity | None:
    """The identity that the request names; None if it names none. Names are percent-encoded UTF-8."""
    tenant, principals = headers.get(ACT_AS_TENANT), headers.get(ACT_AS_PRINCIPALS)
    if tenant is None and principals is None:
        return None
    if not tenant or principals is None:
        raise _malformed("both headers are needed")
    names = tuple(name for part in principals.split(",") if (name := _name(part)))
    if len(names) > MAX_PRINCIPALS:
        raise _malformed(f"{len(names)} principals are named; at most {MAX_PRINCIPALS} are taken")
    if not (own := _name(tenant)):
        raise _malformed("the tenant is empty")
    return Identity(own, names)


def _name(text: str) -> str:
    name = unquote(text.strip())
    if name and not is_name(name):
        raise _malformed(f"a name has at most {MAX_NAME} characters, UTF-8, no control characters")
    return name


def _malformed(detail: str) -> ProblemError:
    remedy = "M3-Act-As-Tenant: acme and M3-Act-As-Principals: staff,hr (percent-encoded UTF-8)"
    return ProblemError(Problem(400, "act-as", f"act-as: {detail}", remedy))


def _forbidden(detail: str) -> ProblemError:
    return ProblemError(Problem(403, "forbidden", detail, "m3 keys create makes a key that may"))

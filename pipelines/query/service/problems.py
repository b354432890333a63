"""Errors as RFC 9457 problem documents. What a caller may know is decided here; the rest goes to the log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from m3core.errors import FilterError, M3Error, StoreError, UsageError
from pipelines.query.errors import DegradedError, OverloadedError, TenantBusyError

MEDIA_TYPE = "application/problem+json"
_ASK_AGAIN = "ask again in a moment"


@dataclass(frozen=True)
class Problem:
    """One problem. `code` is stable; `errors` name the parts of a request that break a rule, never their values."""

    status: int
    code: str
    detail: str
    remedy: str = ""
    retry_after: int | None = None
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def as_json(self, request_id: str) -> dict[str, Any]:
        """The document; `request_id` finds the line in the log."""
        value: dict[str, Any] = {
            "type": f"urn:threefold:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "remedy": self.remedy,
            "request_id": request_id,
        }
        if self.errors:
            value["errors"] = [dict(error) for error in self.errors]
        return value

    def encoded(self, request_id: str) -> bytes:
        """The bytes of the answer."""
        return json.dumps(self.as_json(request_id), ensure_ascii=True).encode()

    def all_headers(self) -> dict[str, str]:
        """Headers of the answer besides its length."""
        retry = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return {"content-type": MEDIA_TYPE, **retry, **self.headers}


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def unauthorized(detail: str) -> ProblemError:
    """The caller did not say who it is, or nobody knows it. Never says which part was wrong."""
    problem = Problem(
        401,
        "unauthorized",
        detail,
        "send the header Authorization: Bearer KEY; m3 keys create makes one",
        headers={"www-authenticate": "Bearer"},
    )
    return ProblemError(problem)


def not_found(what: str) -> ProblemError:
    """There is no such thing, or the caller may not know that there is."""
    return ProblemError(Problem(404, "not-found", f"no such {what}", "check the name"))


def not_ready() -> Problem:
    """There is nothing to search yet."""
    return Problem(503, "not-ready", "the collection has nothing to search yet", _ASK_AGAIN, retry_after=5)


def of_error(error: M3Error) -> Problem:
    """What a caller may know of an error of ours. Paths, stores' words and models stay in the log."""
    if isinstance(error, OverloadedError):
        status = 429 if isinstance(error, TenantBusyError) else 503
        return Problem(
            status, error.code, error.message, error.remedy, retry_after=max(1, math.ceil(error.retry_after))
        )
    if isinstance(error, FilterError | UsageError):
        return Problem(400, error.code, error.message, error.remedy)
    if isinstance(error, StoreError):
        lost = isinstance(error, DegradedError)
        detail = (
            "a required signal did not answer" if lost else "the stores did not answer, so that no hit could be checked"
        )
        return Problem(503, error.code, detail, _ASK_AGAIN, retry_after=1)
    return internal()


def internal() -> Problem:
    """Something that the caller cannot change."""
    return Problem(500, "internal", "the service could not answer", "report the request_id to whoever runs it")

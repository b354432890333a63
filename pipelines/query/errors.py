"""What can go wrong with a search apart from its stores: too much of it, too little of an answer, a stale cursor."""

from __future__ import annotations

from m3core.errors import ExitCode, M3Error, StoreError, UsageError


class DegradedError(StoreError):
    """A signal that the request requires did not answer."""

    code = "degraded"


class RestingError(StoreError):
    """A store failed too often in a row and is not asked for a while: see pipelines.query.breaker."""

    code = "store-resting"


class CursorError(UsageError):
    """A cursor that is not ours, has expired, is of another caller or request, or of a generation that is gone."""

    code = "cursor"


class OverloadedError(M3Error):
    """More searches than can be answered in time: refused at once. `retry_after` is in seconds.

    HTTP calls it 503 Service Unavailable.
    """

    code = "overloaded"
    exit_code = ExitCode.UNREACHABLE

    def __init__(self, message: str, remedy: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.remedy, self.retry_after)


class TenantBusyError(OverloadedError):
    """The tenant has its share of searches running already. HTTP calls it 429 Too Many Requests."""

    code = "tenant-busy"

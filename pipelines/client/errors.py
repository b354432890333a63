"""What a service answers instead of an answer, as one of our errors."""

from __future__ import annotations

from m3core.errors import ExitCode, M3Error


class ServiceError(M3Error):
    """The service refused, or could not be reached. `status` is 0 where no answer came.

    `code` and `remedy` are the service's; `request_id` finds the line in its log.
    """

    code = "service"
    exit_code = ExitCode.UNREACHABLE

    def __init__(
        self, message: str, remedy: str = "", status: int = 0, code: str = "service", request_id: str = ""
    ) -> None:
        super().__init__(message, remedy)
        self.status = status
        self.code = code
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.remedy, self.status, self.code, self.request_id)

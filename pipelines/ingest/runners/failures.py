"""Errors of workers, told through the state folder: an engine would hand over text only, if anything."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from m3core.errors import (
    ConfigError,
    DiskFullError,
    LockedError,
    M3Error,
    MissingExtraError,
    ModelError,
    RefusedError,
    SourceError,
    StateError,
    StoreError,
)
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.ingest.shared import disk_full

_KNOWN = (StoreError, SourceError, ModelError, ConfigError, MissingExtraError, StateError, RefusedError, LockedError)
_BY_CODE: dict[str, type[M3Error]] = {kind.code: kind for kind in (*_KNOWN, DiskFullError)}
# Trying again does not help: the launcher ends the job at once.
_FATAL = (ModelError, ConfigError, MissingExtraError, RefusedError, LockedError)


class WorkerError(M3Error):
    """A fault of ours in a worker; the message names its kind."""

    code = "internal"


def tell_failure(files: WorkFiles, step: str, error: BaseException, *, fatal: bool = False) -> None:
    """Leave word of a failure. A text that is not one of ours may hold anything: of it only the kind is told."""
    error = disk_full(error) or error
    told = isinstance(error, M3Error)
    files.tell(
        "failures",
        {
            "step": step,
            "host": socket.gethostname(),
            "code": error.code if isinstance(error, M3Error) else "internal",
            "message": error.message if isinstance(error, M3Error) else f"{type(error).__name__} in step {step}",
            "remedy": error.remedy if isinstance(error, M3Error) else "see the worker's log; report it if it stays",
            "fatal": fatal or (told and isinstance(error, _FATAL)),
        },
    )


def failures(files: WorkFiles, *, fatal_only: bool = False) -> Iterator[M3Error]:
    """What workers said, oldest first, as the errors that they were."""
    for _, body in files.told("failures"):
        if body["fatal"] or not fatal_only:
            yield error_of(body["code"], body["message"], body["remedy"])


def error_of(code: str, message: str, remedy: str) -> M3Error:
    """The error again that had this code."""
    return _BY_CODE.get(code, WorkerError)(message, remedy)

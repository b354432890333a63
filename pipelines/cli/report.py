"""What the command says at its end: one JSON document, or an error on one line."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from m3core.errors import DiskFullError, M3Error
from m3core.logs import place_of
from m3core.terminal import plain

SCHEMA_VERSION = 1


class OutputClosedError(Exception):
    """Nobody reads stdout any more. typer would end the process on a BrokenPipeError by itself."""


def print_json(document: Mapping[str, Any]) -> None:
    """The one JSON document of a command on stdout."""
    write(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def say(line: str = "") -> None:
    """One line of the answer on stdout. Texts of documents go through `plain` or `fit` first."""
    write(line + "\n")


def write(text: str) -> None:
    """`text` on stdout, at once. Raises OutputClosedError if its reader went away."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosedError from None


def note(line: str) -> None:
    """One line about the work on stderr."""
    sys.stderr.write(plain(line) + "\n")
    sys.stderr.flush()


def report_error(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Print `error` where the caller looks for it and return the exit code."""
    if debug:
        traceback.print_exception(error)
    known = error if isinstance(error, M3Error) else unexpected(error)
    if as_json:
        parts = {"code": known.code, "message": known.message, "remedy": known.remedy}
        print_json({"schema_version": SCHEMA_VERSION, "error": parts})
    else:
        sys.stderr.write(error_line(known) + "\n")
    return int(known.exit_code)


def error_line(error: M3Error) -> str:
    """`m3: config: <value and rule>. Remedy: <what to do>`; a question follows after a semicolon."""
    line = f"m3: {error.code}: {error.message}"
    if error.remedy:
        line += f"; {error.remedy}" if error.remedy.endswith("?") else f". Remedy: {error.remedy}"
    return plain(line)


def unexpected(error: BaseException) -> M3Error:
    """An error that nobody foresaw: its type and place. Its text stays out: it may hold a document's."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        at = f" at {error.filename}" if error.filename else ""
        return DiskFullError(f"no space left{at}", "free some space and run it again; finished work is kept")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return M3Error(f"{error.filename}: {error.strerror}", "check the path and its permissions")
    return M3Error(f"{type(error).__name__} in {place_of(error)}", "run again with --debug and report what it prints")

"""Log lines for machines: with M3_LOG=json every record of m3's loggers is one JSON object per line on stderr.

time      ISO 8601, UTC, milliseconds
level     debug | info | warning | error
logger    who says it
message   what happened: an event's name, or a sentence; no document text, no secret
...       what the record carries beside (`extra={"m3": {...}}`): collection, run, tenant, doc_id, chunk_id, store
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import traceback
from typing import TextIO

from m3core.errors import ConfigError

_PACKAGES = ("m3core", "connectors", "pipelines")
_VARIABLE = "M3_LOG"
_LOGGERS = ("m3", "m3.run", "pipelines", "connectors", "m3core")


class JsonLines(logging.Formatter):
    """One record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        """ASCII only: nothing in it can move a terminal's cursor or end the line."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "m3", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=True)


def lines_are_json() -> bool:
    """Whether M3_LOG asks for it."""
    return os.environ.get(_VARIABLE) == "json"


def log_as_asked(stream: TextIO | None = None) -> bool:
    """Set the loggers up as M3_LOG says (json, or nothing); whether lines are JSON. ConfigError for another value."""
    asked = os.environ.get(_VARIABLE, "")
    if not asked:
        return False
    if asked != "json":
        raise ConfigError(
            f"{_VARIABLE} = {asked[:40]!r}: json is the only form", f"unset {_VARIABLE}, or set it to json"
        )
    lines = logging.StreamHandler(stream or sys.stderr)
    lines.setFormatter(JsonLines())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [lines], False
        logger.setLevel(logging.INFO)
    return True


def place_of(error: BaseException) -> str:
    """`module:line`, the innermost of ours that an error passed through. Its text may hold a document's: say this."""
    places = [(str(frame.f_globals.get("__name__")), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [(module, line) for module, line in places if module.partition(".")[0] in _PACKAGES]
    module, line = (ours or places or [("an unknown place", 0)])[-1]
    return f"{module}:{line}"

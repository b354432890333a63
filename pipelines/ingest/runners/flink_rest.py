"""The JobManager's REST: what Flink it is, its slots, its jobs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from pipelines.ingest.runners.engine import EngineError

_SECONDS = 10.0
_MOST_BYTES = 16 << 20
_REMEDY = "start the JobManager, or correct the address of its REST"


class NoAnswerError(EngineError):
    """The JobManager did not answer this time."""


@dataclass(frozen=True)
class FlinkRest:
    """One JobManager."""

    url: str

    def version(self) -> str:
        """Its Flink's."""
        return str(self._ask("/config").get("flink-version", ""))

    def slots(self) -> tuple[int, int]:
        """All of them, and those that no job has."""
        found = self._ask("/overview")
        return int(found.get("slots-total", 0)), int(found.get("slots-available", 0))

    def find(self, name: str) -> str | None:
        """Id of the newest job of that name."""
        found: list[dict[str, Any]] = self._ask("/jobs/overview").get("jobs", [])
        jobs = [job for job in found if job["name"] == name]
        return str(max(jobs, key=lambda job: job["start-time"])["jid"]) if jobs else None

    def state(self, job: str) -> str:
        """RUNNING, FINISHED, FAILED, CANCELED and so on."""
        return str(self._ask(f"/jobs/{job}").get("state", ""))

    def cause(self, job: str) -> str:
        """What failed, from the root to the outermost error, a line each; "" if nothing did."""
        history = self._ask(f"/jobs/{job}/exceptions").get("exceptionHistory", {}).get("entries", [])
        lines = [line.strip() for line in history[0]["stacktrace"].splitlines()] if history else []
        causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
        return "\n".join(reversed(causes)) or "".join(lines[:1])

    def cancel(self, job: str) -> None:
        """Ask for the end of a job; one that has ended stays as it is."""
        self._send(f"/jobs/{job}?mode=cancel", "PATCH")

    def _ask(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(self._send(path, "GET"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NoAnswerError(f"runner.flink_rest: {self.url} answers {path} with no object of JSON", _REMEDY)
        return found

    def _send(self, path: str, method: str) -> bytes:
        request = urllib.request.Request(self.url.rstrip("/") + path, method=method)  # noqa: S310 - from the config
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - from the config
                return bytes(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            if method == "PATCH" and error.code in (404, 409):
                return b"{}"
            raise NoAnswerError(f"runner.flink_rest: {self.url} answers {path} with {error.code}", _REMEDY) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise NoAnswerError(f"runner.flink_rest: {self.url} does not answer ({reason})", _REMEDY) from None

"""One collection, every night: plan, embed, load, audit, and where another generation is configured, build it, ask it
the quality gate's questions and promote it. Each task is one `m3` command with --json; its report is the task's XCom.

Copy the two files of this folder into the dags folder of an Airflow 3. The worker needs `m3`, the model and the state
folder. Secrets reach m3 as its configuration says: from the worker's environment or files, never through Airflow.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from threefold_exit_codes import Outcome, meaning_of

# After so many waits (15 minutes each by default: three hours) a store that is down is somebody's business.
MOST_WAITS = 12
GRACE_SECONDS = 120


class M3Operator(BaseOperator):
    """Runs `m3 ARGUMENTS --json` and does what its exit code means.

    `only_if` is a template: the task is skipped where it is empty. A wait is a deferral: the triggerer sleeps, no
    worker does, and the same command runs again.
    """

    template_fields: Sequence[str] = ("m3", "arguments", "only_if", "wait_seconds")

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        m3: str = "{{ params.m3 }}",
        only_if: str = "always",
        wait_seconds: str = "{{ params.wait_seconds }}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self.m3 = m3
        self.only_if = only_if
        self.wait_seconds = wait_seconds
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        """The first try."""
        if not self.only_if:
            raise AirflowSkipException("nothing is configured for this step")
        return self._attempt(waits=0)

    def resume(self, context: Any, event: Any = None, waits: int = 0) -> Any:
        """Another try, after a wait."""
        return self._attempt(waits)

    def on_kill(self) -> None:
        """m3 ends the running unit, commits, and exits with 143."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)

    def _attempt(self, waits: int) -> Any:
        code, output = self._run()
        meaning = meaning_of(code)
        self.log.info("exit code %d: %s", code, meaning.text)
        if meaning.outcome is Outcome.SUCCESS:
            return self._report(output)
        if meaning.outcome is Outcome.WAIT and waits < MOST_WAITS:
            self._wait(waits)
        if meaning.outcome is Outcome.RETRY:
            raise AirflowException(f"exit code {code}: {meaning.text}")
        raise AirflowFailException(f"exit code {code}: {meaning.text}")

    def _run(self) -> tuple[int, str]:
        command = [self.m3, *self.arguments, "--json"]
        self.log.info("%s", " ".join(command))
        # stderr is for the log, line by line, while it runs; the report goes to a file, which no pipe's size limits.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as report:
            with subprocess.Popen(  # noqa: S603 - a list from this file and the DAG's parameters, no shell
                command, stdout=report, stderr=subprocess.PIPE, text=True
            ) as self._process:
                for line in self._process.stderr or ():
                    self.log.info("%s", line.rstrip())
            report.seek(0)
            return self._process.returncode, report.read()

    def _report(self, output: str) -> Any:
        report = json.loads(output)
        # With --if-locked skip the document says why nothing was done; a report of a run has other things skipped.
        if isinstance(report.get("skipped"), str):
            raise AirflowSkipException(report["skipped"])
        return report

    def _wait(self, waits: int) -> None:
        seconds = float(self.wait_seconds)
        self.log.info("again in %g s (%d of %d)", seconds, waits + 1, MOST_WAITS)
        # Raises what makes Airflow hand the task to its triggerer.
        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=seconds)), method_name="resume", kwargs={"waits": waits + 1}
        )


PARAMS = {
    "m3": Param("m3", type="string", description="the command, or its path"),
    "config": Param("/etc/m3/m3.toml", type="string", description="of the live generation"),
    "next_config": Param("", type="string", description="of a generation to build and promote; empty: none"),
    "queries": Param("/etc/m3/gate.jsonl", type="string", description='{"query": "...", "relevant": ["ID"]} a line'),
    "least": Param("ndcg@10=0.60", type="string", description="what the gate asks of these queries"),
    "gate_as": Param("default:everyone", type="string", description="whose search the gate's questions are"),
    "wait_seconds": Param(900, type="number", minimum=1, description="between tries while something is down"),
}
LIVE = ["-c", "{{ params.config }}"]
NEXT = ["-c", "{{ params.next_config }}"]
GATE = ["--queries", "{{ params.queries }}", "--min", "{{ params.least }}", "--as", "{{ params.gate_as }}"]
HAS_NEXT = "{{ params.next_config }}"

with DAG(
    dag_id="threefold_nightly",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # The lease would keep two runs apart anyway; this keeps the second from waiting for it.
    max_active_runs=1,
    params=PARAMS,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=12),
    },
    doc_md=__doc__,
) as dag:
    plan = M3Operator(task_id="plan", arguments=["plan", *LIVE])
    embed = M3Operator(task_id="embed", arguments=["embed", *LIVE])
    load = M3Operator(task_id="load", arguments=["load", *LIVE])
    audit = M3Operator(task_id="audit", arguments=["audit", *LIVE])
    build = M3Operator(task_id="build", arguments=["generations", "build", *NEXT], only_if=HAS_NEXT)
    gate = M3Operator(
        task_id="quality_gate", arguments=["generations", "promote", "--dry-run", *GATE, *NEXT], only_if=HAS_NEXT
    )
    promote = M3Operator(task_id="promote", arguments=["generations", "promote", *GATE, *NEXT], only_if=HAS_NEXT)
    plan >> embed >> load >> audit >> build >> gate >> promote

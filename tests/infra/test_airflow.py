"""The DAG under a real Airflow: imported, and run from plan to promote on the sample corpus, with a store that is down
when load first asks for it. Airflow has an environment of its own, kept in the user's cache.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock

from m3core.errors import ExitCode
from tests.infra.places import INFRA
from tests.servers.milvus import MilvusServer, start_milvus
from tests.servers.process import free_ports

DAGS = INFRA / "airflow" / "dags"
REQUIREMENTS = Path(__file__).parent / "airflow-requirements.txt"
BIN = Path(sys.executable).parent
_SECONDS = 3000
TASKS = ["plan", "embed", "load", "audit", "build", "quality_gate", "promote"]
CONFIG = """
[collection]
name = "sample"
[model]
name = "{model}"
[sources.sample]
kind = "jsonl"
path = "documents.jsonl"
[fields]
kind = "string"
department = "string"
year = "integer"
published = "string"
[chunking]
max_tokens = {max_tokens}
[search]
preset = "cross-lingual"
[stores.vectors]
kind = "qdrant-edge"
signals = ["dense", "lexical"]
[stores.tokens]
kind = "milvus"
signals = ["multi"]
text = false
url = "http://127.0.0.1:{port}"
"""


def test_every_exit_code_has_its_meaning() -> None:
    spec = importlib.util.spec_from_file_location("threefold_exit_codes", DAGS / "threefold_exit_codes.py")
    assert spec is not None
    assert spec.loader is not None
    codes = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = codes
    spec.loader.exec_module(codes)
    assert codes.MEANINGS.keys() == {int(code) for code in ExitCode}
    outcome = codes.Outcome
    assert codes.meaning_of(0).outcome is codes.meaning_of(3).outcome is outcome.SUCCESS
    assert {code for code in range(200) if codes.meaning_of(code).outcome is outcome.WAIT} == {4, 6, 7}
    assert {code for code in range(200) if codes.meaning_of(code).outcome is outcome.FAIL} == {2, 5, 8}
    assert codes.meaning_of(-9).outcome is outcome.RETRY


def test_the_dag_has_the_steps_in_order() -> None:
    tree = ast.parse((DAGS / "threefold_nightly.py").read_text("utf-8"))
    tasks = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "task_id"
    ]
    assert tasks == TASKS


@pytest.fixture(scope="module")
def airflow() -> Path:
    """The command, in an environment that is made once."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = platformdirs.user_cache_path("threefold") / "airflow" / wanted
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not (place / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            install = [str(BIN / "uv"), "pip", "install", "--quiet", "--python", str(place / "bin" / "python")]
            subprocess.run([*install, "--requirement", str(REQUIREMENTS)], check=True)
            (place / "complete").touch()
    return place / "bin" / "airflow"


@dataclass
class Night:
    """One run of the DAG; Milvus starts when load has failed once."""

    folder: Path
    airflow: Path
    port: int
    milvus: MilvusServer | None = None
    lines: list[str] = field(default_factory=list)

    def run(self, conf: dict[str, object]) -> int:
        """`airflow dags test`; its exit code."""
        self._airflow("db", "migrate")
        command = [str(self.airflow), "dags", "test", "threefold_nightly", "-f", str(DAGS / "threefold_nightly.py")]
        process = subprocess.Popen(
            [*command, "--conf", json.dumps(conf)],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        timer = threading.Timer(_SECONDS, process.kill)
        timer.start()
        with process:
            for line in process.stdout or ():
                self.lines.append(line)
                print(line, end="", flush=True)
                if self.milvus is None and re.search(r"exit code [47]: ", line):
                    self.milvus = start_milvus(self.folder / "milvus", self.port)
        timer.cancel()
        return process.returncode

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "NO_COLOR": "1",
        }

    def _airflow(self, *words: str) -> None:
        subprocess.run([str(self.airflow), *words], env=self.environment, check=True, capture_output=True)


@pytest.fixture
def night(tmp_path: Path, airflow: Path, m3_small: Path) -> Iterator[Night]:
    (port,) = free_ports(1)
    sample = files("pipelines.sample")
    (tmp_path / "documents.jsonl").write_bytes(sample.joinpath("documents.jsonl").read_bytes())
    questions = [json.loads(line) for line in sample.joinpath("questions.jsonl").read_text("utf-8").splitlines()]
    asked = [json.dumps({"query": each["query"], "relevant": each["doc_ids"]}) for each in questions]
    (tmp_path / "gate.jsonl").write_text("\n".join(asked))
    for name, tokens in (("m3.toml", 512), ("next.toml", 256)):
        (tmp_path / name).write_text(CONFIG.format(model=m3_small, port=port, max_tokens=tokens))
    made = Night(tmp_path, airflow, port)
    yield made
    if made.milvus is not None:
        made.milvus.process.stop()


@pytest.mark.nightly
def test_a_night_from_plan_to_promote_with_a_store_that_is_down_at_first(night: Night) -> None:
    conf: dict[str, object] = {
        "m3": str(BIN / "m3"),
        "config": str(night.folder / "m3.toml"),
        "next_config": str(night.folder / "next.toml"),
        "queries": str(night.folder / "gate.jsonl"),
        "least": "ndcg@10=0.60",
        "gate_as": "default:everyone,staff,lab,board",
        "wait_seconds": 5,
    }
    assert night.run(conf) == 0
    text = "".join(night.lines)
    codes = re.findall(r"exit code (\d+): ", text)
    assert codes[:2] == ["0", "0"]
    assert codes[2] in ("4", "7")
    assert codes[-4:] == ["0"] * 4
    assert "again in 5 s (1 of 12)" in text
    assert re.findall(r"end task\s+task_id=(\w+)", text)[-1] == "promote"
    listed = subprocess.run(
        [str(BIN / "m3"), "generations", "list", "--json", "-c", conf["next_config"]],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(listed.stdout)["live"] == 2

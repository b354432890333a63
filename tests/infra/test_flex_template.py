"""The flex template: metadata as Dataflow documents it, parameters that the launcher turns into m3's words."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.infra.places import INFRA
from tests.infra.tools import tool

FOLDER = INFRA / "dataflow"
METADATA: dict[str, Any] = json.loads((FOLDER / "metadata.json").read_text("utf-8"))
PARAMETERS = {each["name"]: each for each in METADATA["parameters"]}
# What Dataflow's own launcher adds to a Python template's parameters.
ADDED = ["--runner=DataflowRunner", "--project=p", "--region=r", "--job_name=j", "--template_location=gs://b/t"]


@pytest.fixture(scope="module")
def launcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launcher", FOLDER / "launcher.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_metadata_is_as_dataflow_documents_it() -> None:
    assert METADATA.keys() == {"name", "description", "streaming", "parameters"}
    assert METADATA["streaming"] is False
    for name, each in PARAMETERS.items():
        assert {"name", "label", "helpText"} <= each.keys() <= {
            "name", "label", "helpText", "paramType", "isOptional", "regexes",
        }  # fmt: skip
        assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]*", name)
        assert isinstance(each["isOptional"], bool)
        for pattern in each["regexes"]:
            re.compile(pattern)


def test_it_is_a_message_of_dataflows_own_type() -> None:
    program = (
        "import sys; from google.cloud.dataflow_v1beta3 import TemplateMetadata as T;"
        "told = T.from_json(sys.stdin.read(), ignore_unknown_fields=False);"
        "print(told.name, len(told.parameters), sorted({each.param_type.name for each in told.parameters}))"
    )
    done = subprocess.run(
        [tool("python"), "-W", "ignore", "-c", program],
        input=json.dumps(METADATA), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "threefold ingest 4 ['TEXT']", done.stderr


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("config", "gs://bucket/folder/m3.toml", "/etc/m3.toml"),
        ("max_delete_fraction", "0.05", "5"),
        ("if_locked", "skip", "wait"),
        ("dry_run", "true", "yes"),
    ],
)
def test_each_pattern_lets_through_what_m3_takes(name: str, good: str, bad: str) -> None:
    (pattern,) = PARAMETERS[name]["regexes"]
    assert re.match(pattern, good)
    assert not re.match(pattern, bad)


def test_the_launcher_takes_every_parameter(launcher: ModuleType) -> None:
    given = {"config": "gs://b/m3.toml", "max_delete_fraction": "0.1", "if_locked": "skip", "dry_run": "true"}
    assert given.keys() == PARAMETERS.keys()
    asked = launcher.parameters([*(f"--{name}={value}" for name, value in given.items()), *ADDED])
    assert vars(asked) == given
    assert launcher.command(asked, Path("m3.toml")) == [
        "m3", "ingest", "--config", "m3.toml", "--runner", "dataflow", "--if-locked", "skip",
        "--max-delete-fraction", "0.1", "--dry-run",
    ]  # fmt: skip


def test_only_the_configuration_has_to_be_given(launcher: ModuleType) -> None:
    needed = {name for name, each in PARAMETERS.items() if not each["isOptional"]}
    assert needed == {"config"}
    asked = launcher.parameters(["--config=gs://b/m3.toml"])
    assert launcher.command(asked, Path("m3.toml"))[4:] == ["--runner", "dataflow", "--if-locked", "fail"]
    with pytest.raises(SystemExit):
        launcher.parameters(ADDED)


def test_the_configuration_is_fetched_by_beam(launcher: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "there.toml"
    source.write_text("[collection]\n")
    launcher.fetch(str(source), tmp_path / "here.toml")
    assert (tmp_path / "here.toml").read_text() == "[collection]\n"

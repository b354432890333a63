"""The images, as far as they can be checked without a container engine; hadolint where it is built."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import shlex
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.infra.dockerfile import exec_form, read_dockerfile
from tests.infra.places import INFRA, ROOT
from tests.infra.tools import check

FILE = INFRA / "images" / "Dockerfile"
CONSTRAINTS = INFRA / "images" / "constraints.txt"
IMAGES = ["ingest", "ingest-cuda", "flink-worker", "flink-worker-cuda", "dataflow", "serve"]
DOCKERFILE = read_dockerfile(FILE)


def test_every_base_is_pinned_by_a_version_and_ours_by_digest() -> None:
    outside = [stage.base for stage in DOCKERFILE.stages.values() if stage.base not in DOCKERFILE.stages]
    assert len(outside) >= 5
    for base in set(outside) - {"scratch"}:
        assert re.search(r":[\w.-]*\d[\w.-]*", base), base
        assert ":latest" not in base
    pythons = {base for base in outside if base.startswith("python:")}
    assert len(pythons) == 1
    assert re.search(r"@sha256:[0-9a-f]{64}$", pythons.pop())


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_with_its_health_told(image: str) -> None:
    user = DOCKERFILE.in_force(image, "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user or ""), user
    assert DOCKERFILE.in_force(image, "HEALTHCHECK") is not None
    assert DOCKERFILE.in_force(image, "ENTRYPOINT") is not None


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_starts_is_there(image: str) -> None:
    words = exec_form(DOCKERFILE.in_force(image, "ENTRYPOINT") or "")
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
    elif words == ["m3"]:
        assert "m3" in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    else:
        assert any(words[0].startswith(copy.split()[-1]) for copy in DOCKERFILE.stages[image].all("COPY"))


def test_what_health_checks_run_is_python_that_compiles() -> None:
    checks = [rest for stage in DOCKERFILE.stages.values() for rest in stage.all("HEALTHCHECK") if "CMD" in rest]
    assert len(checks) == 3
    for rest in checks:
        python, flag, program = exec_form(rest)
        assert (python, flag) == ("python", "-c")
        compile(program, "HEALTHCHECK", "exec")


def test_files_that_are_copied_are_there_and_let_through() -> None:
    ignore = (FILE.parent / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignore
    let_through = [line[1:] for line in ignore if line.startswith("!")]
    copied = []
    for stage in DOCKERFILE.stages.values():
        for rest in stage.all("COPY"):
            words = shlex.split(rest)
            if not words[0].startswith("--from="):
                copied += [word for word in words[:-1] if not word.startswith("--")]
    assert set(let_through) == set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path


def test_stages_that_are_copied_from_come_before() -> None:
    seen: list[str] = []
    for name, stage in DOCKERFILE.stages.items():
        for rest in stage.all("COPY"):
            if found := re.match(r"--from=(\S+)", rest):
                assert found[1] in seen
        seen.append(name)


def test_no_secret_has_a_place_in_an_image() -> None:
    for stage in DOCKERFILE.stages.values():
        for word in ("ARG", "ENV"):
            for rest in stage.all(word):
                assert not re.search(r"(?i)(password|secret|token|api_?key|credential)", rest), rest


def test_extras_that_are_installed_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = re.findall(r"whl\)\[([\w,-]+)\]", FILE.read_text("utf-8"))
    assert len(asked) == 3
    assert {extra for found in asked for extra in found.split(",")} <= known.keys()
    assert not any({"ingest", "serve"} <= set(found.split(",")) for found in asked)


def test_constraints_are_exact_and_keep_what_pyproject_asks() -> None:
    lines = [line for line in CONSTRAINTS.read_text("utf-8").splitlines() if not line.startswith("#")]
    pinned = dict(_pin(line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for name in _installed_extras() for each in extras[name])]
    for each in map(Requirement, asked):
        if each.name == "threefold":
            continue
        assert each.name.lower() in pinned, f"{each.name} is not in constraints.txt: make constraints"
        assert each.specifier.contains(pinned[each.name.lower()]), f"{each}: make constraints"


def test_beams_worker_binary_is_of_the_beam_that_is_installed() -> None:
    beam = next(line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("apache-beam=="))
    assert DOCKERFILE.stages["beam-sdk"].base == f"apache/beam_python3.11_sdk:{beam.partition('==')[2]}"
    assert fnmatch.fnmatch(DOCKERFILE.stages["wheel"].base, "python:3.11.*")


def test_hadolint() -> None:
    check("hadolint", "--failure-threshold", "info", str(FILE))


def _installed_extras() -> set[str]:
    return {extra for found in re.findall(r"whl\)\[([\w,-]+)\]", FILE.read_text("utf-8")) for extra in found.split(",")}


def _pin(line: str) -> tuple[str, Version]:
    requirement = Requirement(line.partition(";")[0])
    (only,) = requirement.specifier
    assert only.operator == "=="
    return requirement.name.lower(), Version(only.version)

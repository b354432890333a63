"""Every `m3 ...` that operators are told to type is one that the command understands: its words, options and values."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli.main import app
from tests.infra.places import INFRA

DOCUMENTS = ["RUNBOOK.md", "README.md", "images/README.md", "helm/README.md", "airflow/README.md", "compose/README.md"]
# What an engine's helper brings: not on every branch yet.
AHEAD = re.compile(r"--runner\b")
_SPAN = re.compile(r"`(m3 [^`]+)`")
_LINE = re.compile(r"(?:^|(?<!install)\s)(m3 [a-z][^\n]*)")  # m3 is also a release's name
_BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}\S.*$", re.MULTILINE)
_END = re.compile(r"\s+(?:#|&&|\|\||\||>|;)\s.*$")


def documented(text: str) -> Iterator[str]:
    """Commands in code blocks and code spans."""
    for block in [*_BLOCK.findall(text), "\n".join(_INDENTED.findall(text))]:
        for line in block.splitlines():
            if found := _LINE.search(re.sub(r"^\s*(\$ )?", "", line)):
                yield found[1]
    yield from _SPAN.findall(_BLOCK.sub("", text))


def commands() -> Iterator[tuple[str, str]]:
    """Where a command stands, and the command."""
    for name in DOCUMENTS:
        for found in documented((INFRA / name).read_text("utf-8")):
            yield name, _END.sub("", found)
    for line in re.findall(r"^\s*step (.+)$", (INFRA / "nightly.sh").read_text("utf-8"), re.MULTILINE):
        yield "nightly.sh", f"m3 {line}"
    yield from (("threefold_nightly.py", found) for found in dag_commands())


def dag_commands() -> Iterator[str]:
    """The words of the DAG's tasks, with its variables put in."""
    tree = ast.parse((INFRA / "airflow" / "dags" / "threefold_nightly.py").read_text("utf-8"))
    known: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and ast.unparse(node.targets[0]).isupper():
            known[ast.unparse(node.targets[0])] = [ast.literal_eval(each) for each in node.value.elts]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "arguments" and isinstance(node.value, ast.List):
            words: list[str] = []
            for each in node.value.elts:
                is_list = isinstance(each, ast.Starred) and isinstance(each.value, ast.Name)
                words += known[each.value.id] if is_list else [ast.literal_eval(each)]
            yield shlex.join(["m3", *words])


FOUND = sorted(set(commands()))


def understand(command: str) -> None:
    """Let the command line's parser read the words, down to the last command, and run nothing."""
    words = [_filled(word) for word in shlex.split(command)[1:]]
    current: Any = typer.main.get_command(app)
    context = current.context_class(current, info_name="m3")
    while hasattr(current, "resolve_command"):
        name, current, words = current.resolve_command(context, words)
        context = current.context_class(current, info_name=name, parent=context)
    current.make_context(context.info_name, list(words))


def _filled(word: str) -> str:
    """A value in the place of a variable of shell or template."""
    if not re.search(r"\$|\{\{", word):
        return word
    values = {"least": "ndcg@10=0.6", "gate_as": "default:everyone"}
    return next((value for name, value in values.items() if name in word), "value")


def test_commands_were_found_everywhere() -> None:
    counts = {name: sum(where == name for where, _ in FOUND) for name, _ in FOUND}
    assert counts["RUNBOOK.md"] >= 25
    assert counts["nightly.sh"] == 7
    assert counts["threefold_nightly.py"] == 7


@pytest.mark.parametrize(("where", "command"), FOUND)
def test_it_is_understood(where: str, command: str) -> None:
    if command == "m3 --version":
        return
    if AHEAD.search(command):
        pytest.skip("an option that is not here yet")
    understand(command)


@pytest.mark.parametrize("wrong", ["m3 ingets", "m3 load --pendig", "m3 generations bild", "m3 audit --sample many"])
def test_a_wrong_one_is_not(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|many|ingets|bild"):
        understand(wrong)


def test_paths_that_are_named_are_there() -> None:
    for name in DOCUMENTS:
        text = (INFRA / name).read_text("utf-8")
        for path in re.findall(r"`((?:infra|tests)/[\w./-]+)`", text):
            assert (INFRA.parent / path).exists(), (name, path)


def test_the_cron_line_calls_the_script_under_a_lock() -> None:
    line = (INFRA / "cron" / "threefold").read_text("utf-8").splitlines()[-1]
    assert re.match(r"(\S+ ){5}m3 flock --nonblock ", line)
    assert "/infra/nightly.sh" in line
    assert Path(INFRA / "nightly.sh").stat().st_mode & 0o111

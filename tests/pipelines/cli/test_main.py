from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from m3core import errors
from m3core.errors import ExitCode
from pipelines.cli import main as main_module
from pipelines.cli.main import BROKEN_PIPE, INTERRUPTED, app, main
from tests.pipelines.cli.conftest import M3

HEAVY = (
    "torch",
    "apache_beam",
    "pyarrow",
    "duckdb",
    "transformers",
    "qdrant_edge",
    "numpy",
    "m3core.config.model",
    "rich.console",
)


def python(code: str, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, **(env or {})}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=full, check=False, timeout=60
    )


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `m3 config schema` fail with `error`."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(main_module, "_run", fail)


def test_the_help_of_every_command_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pipelines.cli.main import main\n"
        "commands = ([], ['search'], ['ingest'], ['init'], ['demo'], ['encode'], ['config', 'show'])\n"
        "models = [['models', name] for name in ('pull', 'inspect', 'convert')]\n"
        "for words in (*commands, *models):\n"
        "    assert main([*words, '--help']) == 0\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = python(code)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_every_command_has_a_one_line_help_that_is_not_cut(m3: M3) -> None:
    ended = m3("--help")
    assert ended.code == 0
    listed = ended.out.split("Commands:")[1]
    assert "..." not in listed
    assert [line.split()[0] for line in listed.splitlines()[1:27]] == [
        "init", "demo", "doctor", "plan", "ingest", "search", "serve", "status", "show", "embed", "load", "audit",
        "repair", "delete", "purge", "gc", "encode", "eval", "mine", "train", "generations", "dead-letters", "keys",
        "models", "bench", "config",
    ]  # fmt: skip


def test_no_command_asks_for_help(m3: M3) -> None:
    assert m3().out == m3("--help").out
    assert m3("config").out == m3("config", "--help").out


def test_version(m3: M3) -> None:
    ended = m3("--version")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("threefold ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serch"], 'm3: usage: m3: no such command "serch"; did you mean "search"?'),
        (["config", "shw"], 'm3: usage: m3 config: no such command "shw"; did you mean "show"?'),
        (
            ["xyzzy"],
            'm3: usage: m3: no such command "xyzzy". Remedy: use one of audit, bench, config, dead-letters, delete, '
            "demo, doctor, embed, encode, eval, gc, generations, ingest, init, keys, load, mine, models, plan, purge, "
            "repair, search, serve, show, status, train",
        ),
        (["search", "x", "--limt", "3"], 'm3: usage: m3 search: no such option "--limt"; did you mean "--limit"?'),
        (["--vresion"], 'm3: usage: m3: no such option "--vresion"; did you mean "--version"?'),
        (["search"], "m3: usage: m3 search: missing argument 'QUERY'. Remedy: m3 search --help"),
        (
            ["search", "two", "words"],
            "m3: usage: m3 search: got unexpected extra argument(s) (words). Remedy: m3 search --help",
        ),
        (
            ["search", "x", "--limit", "many"],
            "m3: usage: m3 search: --limit 'many' is no whole number. Remedy: m3 search --help",
        ),
        (
            ["ingest", "--if-locked", "hope"],
            "m3: usage: m3 ingest: --if-locked 'hope' is none of fail, skip, wait. Remedy: m3 ingest --help",
        ),
        (
            ["ingest", "--max-delete-fraction", "5"],
            "m3: usage: m3 ingest: --max-delete-fraction '5' is no number from 0 to 1. Remedy: m3 ingest --help",
        ),
        (
            ["models", "pull", "m3-smal"],
            'm3: usage: m3 models pull: no such model "m3-smal"; did you mean "m3-small"?',
        ),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_line(m3: M3, arguments: list[str], line: str) -> None:
    ended = m3(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == line + "\n"


def test_without_a_configuration_the_remedy_is_init(m3: M3, here: Path) -> None:
    ended = m3("ingest")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "m3: config: no configuration at m3.toml. Remedy: write one with: m3 init ./docs\n"


CODES = {
    "internal": ExitCode.INTERNAL,
    "usage": ExitCode.USAGE,
    "config": ExitCode.USAGE,
    "missing-extra": ExitCode.USAGE,
    "model": ExitCode.USAGE,
    "training": ExitCode.USAGE,
    "encode-memory": ExitCode.INTERNAL,
    "document": ExitCode.DEAD_LETTERS,
    "source": ExitCode.UNREACHABLE,
    "store": ExitCode.UNREACHABLE,
    "filter": ExitCode.USAGE,
    "state": ExitCode.INTERNAL,
    "disk-full": ExitCode.UNREACHABLE,
    "locked": ExitCode.LOCKED,
    "refused": ExitCode.REFUSED,
}


def tree(kind: type[errors.M3Error]) -> list[type[errors.M3Error]]:
    return [kind, *(child for below in kind.__subclasses__() for child in tree(below))]


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_error_of_the_tree_has_its_exit_code_in_text_and_in_json(
    m3: M3, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    kind = next(kind for kind in tree(errors.M3Error) if kind.code == code)
    failing(monkeypatch, kind("value 7 breaks the rule", "do the other thing"))
    ended = m3("config", "schema")
    assert (ended.code, ended.out) == (CODES[code], "")
    assert ended.err == f"m3: {code}: value 7 breaks the rule. Remedy: do the other thing\n"
    ended = m3("config", "schema", "--json")
    assert (ended.code, ended.err) == (CODES[code], "")
    assert json.loads(ended.out) == {
        "schema_version": 1,
        "error": {"code": code, "message": "value 7 breaks the rule", "remedy": "do the other thing"},
    }


def test_the_tree_has_no_error_without_a_tested_code() -> None:
    ours = [kind for kind in tree(errors.M3Error) if kind.__module__ == errors.__name__]
    assert {kind.code for kind in ours} == set(CODES)


def test_json_after_two_dashes_is_an_argument(m3: M3, here: Path) -> None:
    ended = m3("search", "--", "--json")
    assert ended.out == ""
    assert ended.err.startswith("m3: config: no configuration")


def test_an_unexpected_error_shows_its_type_and_place_but_neither_text_nor_traceback(
    m3: M3, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ValueError("the secret text of a document"))
    ended = m3("config", "schema")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("m3: internal: ValueError in pipelines.cli.main:")
    assert ended.err.endswith(". Remedy: run again with --debug and report what it prints\n")
    assert "secret" not in ended.err


@pytest.mark.parametrize("arguments", [("--debug", "config", "schema"), ("config", "schema", "--debug")])
def test_debug_adds_the_traceback_wherever_it_stands(
    m3: M3, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    failing(monkeypatch, ValueError("what happened"))
    ended = m3(*arguments)
    assert ended.code == 1
    assert ended.err.startswith("Traceback (most recent call last):")
    assert "ValueError: what happened" in ended.err
    assert ended.err.splitlines()[-1].startswith("m3: internal: ValueError in pipelines.cli.main:")


def test_a_full_disk_and_an_unreadable_file_are_named(m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OSError(28, "No space left on device", "/data/x"))
    ended = m3("config", "schema")
    assert ended.code == ExitCode.UNREACHABLE
    assert ended.err.startswith("m3: disk-full: no space left at /data/x. Remedy: free some space")
    failing(monkeypatch, PermissionError(13, "Permission denied", "/data/x"))
    ended = m3("config", "schema")
    assert (ended.code, ended.err) == (
        1,
        "m3: internal: /data/x: Permission denied. Remedy: check the path and its permissions\n",
    )


def test_an_error_stays_on_one_line_without_control_characters(m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errors.SourceError("folder \x1b[31m\u202ea\nb", "look"))
    assert m3("config", "schema").err == "m3: source: folder [31ma b. Remedy: look\n"


def test_control_c_ends_with_130_and_says_nothing(m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert m3("config", "schema") == type(m3("--version"))(INTERRUPTED, "", "")


def test_a_reader_that_went_away_is_no_error() -> None:
    code = (
        "import os, sys\n"
        "from pipelines.cli.main import main\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "sys.exit(main(['config', 'schema']))\n"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


def test_a_terminal_that_cannot_show_a_character_gets_a_question_mark() -> None:
    code = "from pipelines.cli.main import main\nimport sys\nsys.exit(main(['models', 'pull', '低温']))"
    done = python(code, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 2
    assert done.stderr.startswith('m3: usage: m3 models pull: no such model "??"')


def test_the_installed_command_answers() -> None:
    m3 = Path(sys.executable).with_name("m3")
    if not m3.exists():
        pytest.skip("the package is not installed beside this Python: no m3 command")
    done = subprocess.run([m3, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_main_returns_what_a_command_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.main, "get_command", lambda _: lambda *_, **__: None)
    assert isinstance(app, typer.Typer)
    monkeypatch.setattr(main_module, "_run", lambda _: 4)
    assert main(["ingest"]) == 4

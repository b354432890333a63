"""The entry point `m3`: registers the commands, turns every outcome into an exit code and one line.

This module and the command modules import nothing heavy: `m3 --help` answers in under 0.3 s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from m3core.errors import ExitCode
from m3core.logs import log_as_asked
from pipelines.cli import (
    audit,
    bench,
    config,
    dead_letters,
    delete,
    demo,
    doctor,
    embed,
    encode,
    evaluate,
    gc,
    generations,
    ingest,
    init,
    keys,
    load,
    mine,
    models,
    plan,
    purge,
    repair,
    search,
    serve,
    show,
    status,
    train,
)
from pipelines.cli.report import OutputClosedError, report_error, say
from pipelines.cli.usage import TYPER_USAGE_ERROR, CommandGroup, before_dashes, usage_error

INTERRUPTED = 130
BROKEN_PIPE = 141
_DEBUG = "--debug"

app = typer.Typer(
    name="m3",
    cls=CommandGroup,
    help="threefold: one M3 forward pass per text; dense, lexical and multi-vector stores that answer as one.",
    epilog="A first look: m3 demo. Your own documents: m3 init ./docs, then m3 ingest, then m3 search QUERY.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("ingest")(ingest.ingest)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("show")(show.show)
app.command("embed")(embed.embed)
app.command("load")(load.load)
app.command("audit")(audit.audit)
app.command("repair")(repair.repair)
app.command("delete")(delete.delete)
app.command("purge")(purge.purge)
app.command("gc")(gc.gc)
app.add_typer(generations.app)
app.add_typer(dead_letters.app)
app.add_typer(keys.app)
app.command("encode")(encode.encode)
app.command("eval")(evaluate.evaluate)
app.command("mine")(mine.mine)
app.command("train")(train.train)
app.add_typer(models.app)
app.add_typer(bench.app)
app.add_typer(config.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"threefold {version('threefold')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Print a traceback with an error; works in any place.")] = False,
) -> None:
    """Options before the command. `--debug` is taken out by `main`, so that it also works after the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    flags = before_dashes(given)
    debug, as_json = _DEBUG in flags, "--json" in flags
    arguments = [part for part in flags if part != _DEBUG] + given[len(flags) :]
    _tolerate_narrow_encodings()
    try:
        log_as_asked()
        code = _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputClosedError:
        # Nobody reads any more; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost place: everything becomes one line and an exit code
        return report_error(error, as_json=as_json, debug=debug)
    return code


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="m3", standalone_mode=False)
    except TYPER_USAGE_ERROR as error:
        raise usage_error(error) from error
    return code if isinstance(code, int) else ExitCode.OK


def _tolerate_narrow_encodings() -> None:
    """A terminal that cannot show a character gets a question mark, never a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")

"""`m3 encode`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m3core.errors import UsageError
from m3core.terminal import counted
from pipelines.cli.models import RevisionOption
from pipelines.cli.report import note, write
from pipelines.cli.usage import one_of

if TYPE_CHECKING:
    from m3core.encoder import Encoder
    from m3core.types import Signal, TextKind
    from pipelines.encode.reading import Input, Totals
    from pipelines.encode.run import Counts
    from pipelines.encode.writing import Format

KINDS = ("passage", "query")
FORMATS = ("jsonl", "parquet", "npz")
STDIO = Path("-")


def encode(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", help="A .jsonl or .parquet file with id and text; default: lines of stdin."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", metavar="T", help="A text; may be repeated.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="|".join(KINDS), parser=one_of(*KINDS), help="What the texts are.")
    ] = KINDS[0],
    model: Annotated[str, typer.Option("--model", metavar="M", help="m3-small, a folder, or owner/name.")] = "m3-small",
    revision: RevisionOption = None,
    signals: Annotated[str, typer.Option("--signals", metavar="NAMES", help="E.g. dense,multi; default: all.")] = "",
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            parser=one_of(*FORMATS),
            help="Default: by the output's extension, else jsonl. npz holds at most 2 GiB.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Replaced when all is done; default: stdout.")
    ] = None,
) -> None:
    """Encode texts into dense, lexical and multi-vectors.

    Texts longer than the model reads are cut, marked and counted.
    """
    target = None if output == STDIO else output
    chosen = _format(form, target)
    wanted = _signals(signals)
    given = _input(source, text or [])
    _check_target(target, source)
    # A fault in the last line is told before the model is loaded.
    totals = given.totals()
    from m3core.encoder import Encoder
    from pipelines.cli.terminated import cleaning_up_on_sigterm

    encoder = Encoder.load(model, revision=revision, signals=wanted)
    started = time.monotonic()
    with cleaning_up_on_sigterm():
        counts = _run(encoder, given, totals, cast(Any, kind), chosen, target)
    _say_counts(counts, target, time.monotonic() - started)


def _format(form: str | None, output: Path | None) -> Format:
    """What was asked for, else what the file's extension says. Raises UsageError if stdout cannot take it."""
    by_extension = output.suffix.lower().removeprefix(".") if output is not None else ""
    chosen = form or (by_extension if by_extension in FORMATS else FORMATS[0])
    if output is None and chosen != FORMATS[0]:
        raise UsageError(f"--format {chosen} is no text for stdout", f"add --output vectors.{chosen}")
    return cast("Format", chosen)


def _signals(text: str) -> tuple[Signal, ...]:
    from m3core.types import ALL_SIGNALS
    from pipelines.query.request import parse_signals

    return parse_signals(text) if text else ALL_SIGNALS


def _input(source: Path | None, texts: list[str]) -> Input:
    from pipelines.encode.reading import from_arguments, from_file, from_lines

    if texts and source is not None:
        raise UsageError(f"INPUT {source} and --text are both given", "give one of them")
    if texts:
        return from_arguments(texts)
    if source is not None and source != STDIO:
        return from_file(source)
    if source is None and sys.stdin.isatty():
        raise UsageError("there is no INPUT and no --text", 'm3 encode texts.jsonl, or m3 encode --text "a text"')
    return from_lines(sys.stdin.buffer, "stdin")


def _check_target(output: Path | None, source: Path | None) -> None:
    from pipelines.encode.writing import check_file

    if output is None:
        return
    check_file("--output", output)
    if source is not None and source.exists() and output.exists() and source.samefile(output):
        raise UsageError(f"--output {output} is the INPUT itself", "name another file")


def _run(
    encoder: Encoder, given: Input, totals: Totals | None, kind: TextKind, form: Format, output: Path | None
) -> Counts:
    from pipelines.encode.jsonl import JsonLines
    from pipelines.encode.origin import Origin
    from pipelines.encode.progress import Silent, open_progress
    from pipelines.encode.run import encode_texts
    from pipelines.encode.writing import open_writer

    shared = output is None and sys.stdout.isatty()
    progress = Silent() if shared else open_progress(sys.stderr, totals)
    try:
        if output is None:
            return encode_texts(encoder, given.read(), kind, JsonLines(write), progress)
        with open_writer(form, output, Origin.of(encoder, kind)) as writer:
            return encode_texts(encoder, given.read(), kind, writer, progress)
    finally:
        progress.close()


def _say_counts(counts: Counts, output: Path | None, seconds: float) -> None:
    """What was done, and what was cut, on stderr: stdout may be the vectors."""
    into = f" into {output}" if output is not None else ""
    note(f"encoded {counted(counts.texts, 'text')}, {counts.tokens:,} tokens{into}   {seconds:.1f} s")
    if counts.truncated:
        note(f"truncated {counted(counts.truncated, 'text')}: longer than {counts.limit:,} tokens, cut there")

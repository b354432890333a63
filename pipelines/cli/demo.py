"""`m3 demo`: the sample corpus, ingested once into the user's cache, and what it answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import JsonOption
from pipelines.cli.report import SCHEMA_VERSION, note, print_json, say, write

if TYPE_CHECKING:
    from m3core.config.load import LoadedConfig
    from pipelines.cli.demo_run import Outcome
    from pipelines.ingest.report import IngestReport

MODEL = "m3-small"
# Five languages and scripts, each asked about a document in another one.
EXAMPLES = ("q07", "q08", "q13", "q20", "q21")
ASK = "I lost my key"


def demo(
    questions: Annotated[bool, typer.Option("--questions", help="Show the rank of every question's answer.")] = False,
    json: JsonOption = False,
) -> None:
    """Ingest a sample corpus and answer its questions.

    120 documents in 16 languages, kept in your cache, and 40 questions, most asked in another language.
    """
    from m3core.home import m3_home
    from pipelines.cli.demo_run import build_name

    pull_model(quiet=json)
    run(m3_home() / "demo" / build_name(MODEL), MODEL, questions=questions, as_json=json)


def pull_model(*, quiet: bool) -> None:
    """Fetch m3-small unless it is there, and say so."""
    from m3core.checkpoint import read_spec
    from m3core.zoo.m3_small import DOWNLOAD_BYTES, folder, is_complete, pull

    started = time.monotonic()
    if not is_complete(folder()):
        size = f"{DOWNLOAD_BYTES / 1e6:.0f} MB to download, 470 MB on disk"
        note(f"m3-small is not here yet: {size}, into {folder().parent}")
    model = pull(note)
    spec = read_spec(model)
    if not quiet:
        what = f"multilingual, {spec.dense_dim} dense, {spec.multi_dim} multi, {spec.max_length} tokens, checked"
        say(_step("m3-small", what, time.monotonic() - started))


def run(folder: Path, model: str, *, questions: bool, as_json: bool) -> None:
    """Ingest into `folder`, ask every question and print the figures."""
    from pipelines.cli.demo_run import ask, prepare, read_questions
    from pipelines.query.router import SyncRouter

    started = time.monotonic()
    loaded = prepare(folder, model)
    report = ingest_sample(loaded)
    if not as_json:
        say(_step("sample", _ingested(report), report.seconds, _pace(report)))
    with SyncRouter.open(loaded.config, loaded.base) as router:
        outcomes = [ask(router.search, question) for question in read_questions()]
    seconds = time.monotonic() - started
    if as_json:
        print_json(_document(report, outcomes, seconds, questions))
        return
    for outcome in outcomes:
        if outcome.question.query_id in EXAMPLES:
            _say_example(outcome)
    if questions:
        _say_ranks(outcomes)
    _say_figures(outcomes)
    _say_next(loaded)


def ingest_sample(loaded: LoadedConfig) -> IngestReport:
    """Ingest what is new in the sample; raises RuntimeError if a document of ours failed."""
    from pipelines.cli.percent import Percent
    from pipelines.ingest.run import ingest
    from pipelines.ingest.session import IngestOptions

    progress = Percent("  sample        reading and encoding", sys.stderr)
    report = ingest(loaded.config, loaded.base, progress, options=IngestOptions(lock_wait=60.0))
    if report.exit_code:
        raise RuntimeError(f"the sample did not go in whole: exit code {report.exit_code}")
    return report


def _document(report: IngestReport, outcomes: Sequence[Outcome], seconds: float, questions: bool) -> dict[str, Any]:
    from pipelines.cli.demo_run import mean_reciprocal_rank, recall_at_1

    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "questions": len(outcomes),
        "documents": report.documents.listed,
        "recall@1": recall_at_1(outcomes),
        "mrr": mean_reciprocal_rank(outcomes),
        "seconds": round(seconds, 3),
    }
    if questions:
        document["ranks"] = {
            outcome.question.query_id: {name: outcome.rank(name) for name in outcome.rankings} for outcome in outcomes
        }
    return document


def _step(name: str, what: str, seconds: float, pace: str = "") -> str:
    return f"  {name:<12}  {what:<57}  ok {seconds:4.0f} s   {pace}".rstrip()


def _ingested(report: IngestReport) -> str:
    from pipelines.cli.demo_run import read_languages

    kept = "" if report.documents.added else ", in the cache already"
    languages = len(set(read_languages().values()))
    return f"{report.documents.listed} documents, {languages} languages -> dense, lexical, multi{kept}"


def _pace(report: IngestReport) -> str:
    return f"{report.tokens_per_second:,.0f} tokens/s" if report.tokens_encoded else ""


def _say_example(outcome: Outcome) -> None:
    from m3core.terminal import plain
    from pipelines.cli.look import terminal_look
    from pipelines.query.render import render_heads

    say()
    say(f"Question ({outcome.question.language})  {plain(outcome.question.query)}")
    write(render_heads(outcome.answer, terminal_look(), limit=2))


def _say_ranks(outcomes: Sequence[Outcome]) -> None:
    from pipelines.cli.demo_run import read_languages

    languages = read_languages()
    say()
    say("Rank of the right document; – where it is not among the first 100")
    say("      asked  answered  dense  lexical  multi  fused")
    for outcome in outcomes:
        asked, answered = outcome.question.language, languages[outcome.question.doc_ids[0]]
        ranks = [str(outcome.rank(name) or "–") for name in ("dense", "lexical", "multi", "fused")]
        cells = f"{ranks[0]:>5}  {ranks[1]:>7}  {ranks[2]:>5}  {ranks[3]:>5}"
        say(f"{outcome.question.query_id:<5} {asked:<5}  {answered:<8}  {cells}")


def _say_figures(outcomes: Sequence[Outcome]) -> None:
    from pipelines.cli.demo_run import mean_reciprocal_rank, recall_at_1

    say()
    lines = (
        (f"{len(outcomes)} questions", "recall@1", recall_at_1(outcomes)),
        ("", "mrr", mean_reciprocal_rank(outcomes)),
    )
    for count, name, figures in lines:
        cells = "   ".join(f"{signal} {value:.2f}" for signal, value in figures.items())
        say(f"{count:<14}{name:<10}{cells}")


def _say_next(loaded: LoadedConfig) -> None:
    from pipelines.cli.look import command_name, copyable

    m3 = command_name()
    say()
    say(f"Data:    {copyable(loaded.base)}")
    say(f'Ask:     {m3} search -c {copyable(loaded.file)} --explain "{ASK}"')
    say(f'Yours:   {m3} init ./your-folder && {m3} ingest && {m3} search "..."')

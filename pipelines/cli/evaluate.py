"""`m3 eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3core.errors import UsageError
from pipelines.cli.models import RevisionOption
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, print_json, write
from pipelines.cli.usage import one_of


def evaluate(
    data: Annotated[
        list[Path], typer.Option("--data", metavar="DIR", help="A folder in BEIR's layout; may be repeated.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="m3-small (default), a folder, or owner/name.")
    ] = None,
    revision: RevisionOption = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Judgements of qrels/NAME.tsv; default test, dev.")
    ] = None,
    max_queries: Annotated[
        int | None, typer.Option("--max-queries", min=1, metavar="N", help="Only the first N of each set.")
    ] = None,
    signals: Annotated[str, typer.Option("--signals", metavar="NAMES", help="E.g. dense; default: all.")] = "",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="W", help="A run more, e.g. dense=1,lexical=.3,multi=1.")
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=100, max=10_000, metavar="N", help="Documents kept per query and run.")
    ] = 1000,
    compare: Annotated[
        str | None,
        typer.Option("--compare", metavar="RUN|FILE", help="Test against a run, or a file of --json --per-query."),
    ] = None,
    mine: Annotated[bool, typer.Option("--mine-weights", help="Look for better fusion weights.")] = False,
    long_documents: Annotated[
        bool, typer.Option("--long-documents", help="Dense runs more: mean and best of a document's windows.")
    ] = False,
    long_pooling: Annotated[
        str | None,
        typer.Option("--long-pooling", metavar="mcls", parser=one_of("mcls"), help="For models that pool cls."),
    ] = None,
    through: Annotated[bool, typer.Option("--through", help="Ask the live collection of -c as well.")] = False,
    config: ConfigOption = None,
    identity: Annotated[
        str | None, typer.Option("--as", metavar="TENANT:PRINCIPALS", help="With --through: on whose behalf.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of intervals, tests and folds.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="P", help="auto, float32, bfloat16, float16 or int8.")
    ] = "auto",
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables there.")] = None,
    trec: Annotated[
        Path | None, typer.Option("--trec-dir", metavar="DIR", help="Write TREC run and qrels files there.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the figures there.")] = None,
    json: JsonOption = False,
    with_queries: Annotated[
        bool, typer.Option("--per-query", help="With --json: figures of every query, for --compare.")
    ] = False,
) -> None:
    """Measure a model on your own questions.

    Each signal, the presets, RRF and BM25, by exact search.

    A data set is a folder with corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels.tsv (query-id,
    corpus-id, score).
    """
    if with_queries and not json:
        raise UsageError("--per-query without --json: only JSON has room for it", "add --json")
    if identity is not None and not through:
        raise UsageError("--as without --through: nobody is asked", "add --through, or leave --as out")
    if config is not None and not through:
        raise UsageError("-c without --through: no configuration is read", "add --through, or leave -c out")
    for option, given in (
        ("--model", model),
        ("--revision", revision),
        ("--signals", signals),
        ("--long-pooling", long_pooling),
        ("--device", device != "auto"),
        ("--precision", precision != "auto"),
    ):
        if through and given:
            raise UsageError(f"{option} and --through are both given", "the collection says it; leave it out")
    from pipelines.cli.evaluate_run import (
        Asked,
        Job,
        Named,
        Outputs,
        findings,
        load_encoder,
        mined_of,
        read_datasets,
        write_files,
    )
    from pipelines.cli.look import terminal_look
    from pipelines.evaluate.document import as_json
    from pipelines.evaluate.tables import sentences, tables
    from pipelines.evaluate.terminal import render

    outputs = Outputs(markdown, trec, plot)
    outputs.check()
    loaded = open_config(config) if through else None
    asked = Asked(signals, weights, depth, seed, mine, long_documents, compare)
    job = Job.of(asked, loaded)
    datasets = read_datasets(data, split, max_queries)
    outputs.check_ids(datasets)
    named = Named(model or "m3-small", revision, device, precision, long_pooling)
    encoder = load_encoder(named, job)
    found = findings(encoder, datasets, job, identity)
    mined = mined_of(encoder, found, seed) if mine else None
    write_files(found, mined, outputs)
    if json:
        print_json({"schema_version": SCHEMA_VERSION, **as_json(found, mined, with_queries=with_queries)})
    else:
        write(render(tables(found), sentences(found, mined), terminal_look()))

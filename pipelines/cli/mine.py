"""`m3 mine`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3core.errors import UsageError
from pipelines.cli.models import RevisionOption
from pipelines.cli.options import JsonOption
from pipelines.cli.report import SCHEMA_VERSION, note, print_json, say
from pipelines.cli.usage import fraction

if TYPE_CHECKING:
    from m3core.encoder import Encoder
    from m3core.types import Float32Array


def mine(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Rows with query and pos, as for m3 train.")],
    corpus: Annotated[
        Path, typer.Option("--corpus", metavar="FILE", help="Texts: corpus.jsonl or Parquet, or its folder.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="FILE.jsonl", help="Rows with neg, replaced at the end.")],
    model: Annotated[str, typer.Option("--model", metavar="M", help="m3-small, a folder, or owner/name.")] = "m3-small",
    revision: RevisionOption = None,
    ranks: Annotated[str, typer.Option("--ranks", metavar="A-B", help="Ranks to take from, the first is 1.")] = "5-100",
    margin: Annotated[
        float,
        typer.Option("--margin", metavar="F", parser=fraction, help="Only scores under this share of the positive's."),
    ] = 0.95,
    most: Annotated[int, typer.Option("--negatives", min=1, metavar="N", help="At most N a row.")] = 1,
    no_bm25: Annotated[bool, typer.Option("--no-bm25", help="By dense vectors alone.")] = False,
    max_bad_rows: Annotated[int, typer.Option("--max-bad-rows", min=0, metavar="N", help="Broken rows allowed.")] = 10,
    json: JsonOption = False,
) -> None:
    """Find hard wrong answers for training rows.

    In a corpus, by the model and by BM25.
    """
    first, last = _ranks(ranks)
    from pipelines.encode.writing import check_file
    from pipelines.train.mine import mine as run
    from pipelines.train.mine import read_corpus, spelled, write_mined
    from pipelines.train.rows import read_rows

    check_file("--output", output)
    if any(output.exists() and path.exists() and path.samefile(output) for path in [*data, corpus]):
        raise UsageError(f"--output {output} is an input", "name another file")
    reading = read_rows(data, max_bad_rows)
    texts = read_corpus(corpus)
    for line in [*reading.lines(), *texts.problems.lines()]:
        note(line)
    from m3core.encoder import Encoder
    from m3core.train.mining import Window
    from m3core.types import Signal
    from pipelines.cli.terminated import cleaning_up_on_sigterm

    window = Window(first, last, margin, most)
    encoder = Encoder.load(model, revision=revision, signals=[Signal.DENSE])
    with cleaning_up_on_sigterm():
        found = run(encoder, reading.rows, texts, window, lexical=not no_bm25, encode=_encode)
        mined = write_mined(found, spelled(reading.rows, texts), output)
    document = {"corpus": len(texts.texts), "corpus_left_out": texts.left_out, "broken": len(reading.broken)}
    document |= {"duplicates": len(reading.duplicates), **asdict(mined)}
    if json:
        print_json({"schema_version": SCHEMA_VERSION, "output": str(output), **document})
        return
    say(f"{mined.rows:,} rows, {mined.negatives:,} wrong passages from {len(texts.texts):,} texts into {output}")
    if texts.left_out:
        say(f"{texts.left_out:,} texts of the corpus are empty or came before, left out")
    if mined.without:
        say(f"{mined.without:,} rows have none: nothing at ranks {first} to {last} scores under the margin")
    if mined.scores_dropped:
        say(f"{mined.scores_dropped:,} rows lost their teacher's scores: what was added has none")
    say(f"passed over as too close to the right passage: {mined.too_close:,}")


def _ranks(text: str) -> tuple[int, int]:
    parts = text.split("-")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
        first, last = int(parts[0]), int(parts[1])
        if 1 <= first <= last:
            return first, last
    raise UsageError(f"--ranks {text[:40]!r}: two whole numbers with 1 <= A <= B are needed", "for example 5-100")


def _encode(encoder: Encoder, texts: Sequence[str], kind: Any) -> Float32Array:
    """Dense vectors of texts, with progress on stderr."""
    import numpy as np

    from pipelines.encode.progress import open_progress
    from pipelines.encode.reading import Totals

    sizes = [len(text.encode()) for text in texts]
    progress = open_progress(sys.stderr, Totals(len(texts), sum(sizes)))
    parts: list[Float32Array] = []
    done = 0
    try:
        for encoded in encoder.stream(texts, kind):
            assert encoded.dense is not None  # noqa: S101 - that is what was asked for
            parts.append(encoded.dense)
            progress.encoded(len(encoded), int(encoded.token_counts.sum()), sum(sizes[done : done + len(encoded)]))
            done += len(encoded)
    finally:
        progress.close()
    vectors: Float32Array = np.concatenate(parts)
    return vectors

"""`m3 bench encode`."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3core.errors import UsageError
from pipelines.cli.models import RevisionOption
from pipelines.cli.options import JsonOption
from pipelines.cli.report import SCHEMA_VERSION, note, print_json, say
from pipelines.cli.usage import CommandGroup

if TYPE_CHECKING:
    from m3core.benchmark import EncodeFigures
    from m3core.encoder import Encoder

app = typer.Typer(name="bench", cls=CommandGroup, help="Measure this machine.")


@app.callback()
def bench() -> None:
    """Measure this machine."""


@app.command("encode")
def encode(
    source: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="A .jsonl or .parquet file with texts; default: the sample.")
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="M", help="m3-small, a folder, or owner/name.")] = "m3-small",
    revision: RevisionOption = None,
    texts: Annotated[int, typer.Option("--texts", min=1, metavar="N", help="At most so many texts.")] = 400,
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="The best of so many counts.")] = 3,
    batch_tokens: Annotated[
        int | None,
        typer.Option("--batch-tokens", min=64, metavar="N", help="Per forward pass; else what suits the device."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="Default: all cores.")] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="P", help="auto, float32, bfloat16, float16 or int8.")
    ] = "auto",
    json: JsonOption = False,
) -> None:
    """Say how fast this machine encodes with this model, against the bare backbone on the same tokens."""
    chosen = _texts(source, texts)
    from m3core.benchmark import measure_encoding
    from m3core.encoder import Encoder
    from pipelines.ingest.memory import MemoryPeak

    encoder = Encoder.load(model, revision=revision, threads=threads, device=device, precision=precision)
    note(f"encoding {len(chosen):,} texts, best of {rounds}, in turn with the bare backbone")
    with MemoryPeak() as memory:
        figures = measure_encoding(encoder, chosen, batch_tokens, rounds)
    document = _document(encoder, figures, encoder.tokens_at_once(batch_tokens))
    document[f"peak_{memory.kind}_bytes"] = memory.bytes()
    if json:
        print_json(document)
    else:
        _say(document)


def _texts(source: Path | None, most: int) -> list[str]:
    """The first texts of a file, or of the sample corpus over and over."""
    if source is None:
        from pipelines.cli.demo_run import read_texts

        sample = read_texts()
        return [sample[i % len(sample)] for i in range(most)]
    from pipelines.encode.reading import from_file

    found = [one.text for one in islice(from_file(source).read(), most)]
    if not found:
        raise UsageError(f"{source} holds no texts", "name a file with some")
    return found


def _document(encoder: Encoder, figures: EncodeFigures, batch_tokens: int) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "model": encoder.spec.name,
        **asdict(encoder.execution),
        "batch_tokens": batch_tokens,
        **{name: value for name, value in asdict(figures).items() if isinstance(value, int)},
        "padding": round(figures.padding, 4),
        "seconds": round(figures.seconds, 3),
        "tokens_per_second": round(figures.tokens_per_second, 1),
        "backbone_tokens_per_second": round(figures.tokens / figures.backbone_seconds, 1),
        "backbone_share": round(figures.backbone_share, 4),
    }


def _say(document: dict[str, Any]) -> None:
    peak = next(value for name, value in document.items() if name.startswith("peak_"))
    rows = (
        ("model", f"{document['model']}, {document['precision']} on {document['device']}"),
        ("texts", f"{document['texts']:,}, {document['tokens']:,} tokens, {document['truncated']:,} truncated"),
        ("three signals", f"{document['tokens_per_second']:,.0f} tokens/s"),
        ("bare backbone", f"{document['backbone_tokens_per_second']:,.0f} tokens/s"),
        ("share of it", f"{document['backbone_share']:.1%}"),
        ("padding saved", f"{document['padding']:.1%} of {document['batch_tokens']:,} tokens a pass"),
        ("threads", f"{document['threads']}"),
        ("peak memory", f"{peak / (1 << 20):,.0f} MiB"),
    )
    for name, value in rows:
        say(f"  {name:<14} {value}")

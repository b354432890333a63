"""`m3 plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import UsageError
from m3core.terminal import counted
from pipelines.cli.amounts import size_text
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import note, print_json, say
from pipelines.cli.usage import whole_number

if TYPE_CHECKING:
    from pipelines.ingest.planned import Estimate, PlanReport


def plan(
    config: ConfigOption = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", parser=whole_number, help="Estimate from so many documents."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what the next ingest would do and cost.

    Documents, chunks, tokens, hours and bytes; it reads the sources, changes nothing and takes no lease.
    """
    if sample is not None and sample < 2:
        raise UsageError(f"--sample {sample}: an error bar needs at least 2 documents", "m3 plan --sample 200")
    loaded = open_config(config)
    from m3core.terminal import plain
    from pipelines.ingest.planning import plan as look

    note("reading the sources; nothing is written")
    found = look(loaded.config, loaded.base, sample=sample)
    if json:
        print_json(found.as_json())
        return
    for line in _lines(found):
        say(plain(line))


def _lines(found: PlanReport) -> Iterator[str]:
    documents = found.documents
    where = "new" if found.generation is None else f"generation {found.generation}"
    yield f"{found.collection} · {where} · {documents.listed:,} documents listed"
    if found.sampled is not None:
        yield _line("sample", f"estimated from {counted(found.sampled, 'document')}; ± is half of a 95 % interval")
    classes = [f"{count:,} {name}" for name, count in documents.as_json().items() if name != "listed" and count]
    yield _line("documents", ", ".join(classes) or "none")
    yield _line("chunks", f"{_amount(found.chunks)} to write")
    yield _line("tokens", f"{_amount(found.tokens_new)} to encode, {_amount(found.tokens_cached)} in the lake already")
    pace = f"{found.tokens_per_second:,.0f} tokens/s" if found.tokens_per_second else "no rate"
    yield _line("rate", f"{pace} ({found.rate_from})")
    yield _line("lake", f"{size_text(found.lake_bytes)} more")
    for name, store in found.stores.items():
        size = (
            "size not known before a run" if store.bytes is None else f"{size_text(store.bytes)} more ({store.basis})"
        )
        yield _line("store", f"{name}: {size}")
    for text in found.notes:
        yield _line("note", text)
    yield _sentence(found)


def _sentence(found: PlanReport) -> str:
    """`About 2 h 10 min on this machine, 8.2 M tokens (1.1 M new), 3.4 GB more: lake 3.1 GB, main 0.3 GB.`"""
    new = found.tokens_new.value
    tokens = f"{_short(new + found.tokens_cached.value)} tokens ({_short(new)} new)"
    sizes = {"lake": found.lake_bytes} | {n: one.bytes for n, one in found.stores.items() if one.bytes is not None}
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())
    return f"About {_time(found.seconds)} on this machine, {tokens}, {size_text(sum(sizes.values()))} more: {parts}."


def _amount(estimate: Estimate) -> str:
    error = f" ± {estimate.error:,.0f}" if estimate.error else ""
    return f"{estimate.value:,.0f}{error}"


def _short(count: float) -> str:
    for step, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= step:
            return f"{count / step:.1f}{unit}"
    return f"{count:.0f}"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def _line(name: str, text: str) -> str:
    return f"{name:<12}{text}"

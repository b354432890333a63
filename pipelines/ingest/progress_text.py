"""The words of a run's progress: what a bar and plain lines both say."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.ingest.meter import Meter


@dataclass(frozen=True)
class Header:
    """The run, named."""

    collection: str
    generation: int
    model: str
    run: int


@dataclass(frozen=True)
class Planned:
    """What the listing says before any document is read; `listed` is None where no source is listed."""

    listed: int | None
    unchanged: int
    to_read: int
    pending: int
    gone: int
    to_read_bytes: int


def header_line(header: Header) -> str:
    """`handbook · generation 1 · m3-small · run 3`."""
    return f"{header.collection} · generation {header.generation} · {header.model} · run {header.run}"


def planned_line(planned: Planned) -> str:
    """What the listing found, classes that are empty left out."""
    parts = [("unchanged", planned.unchanged), ("to read", planned.to_read), ("pending", planned.pending)]
    classes = " · ".join(f"{name} {count:,}" for name, count in [*parts, ("gone", planned.gone)] if count)
    if planned.listed is None:
        return f"waiting  {classes or 'nothing'}"
    return f"listing  {planned.listed:,} documents   {classes}".rstrip()


def work_line(meter: Meter) -> str:
    """One line of progress."""
    return ("encode   " if meter.tokens or meter.reused_tokens else "load     ") + bar_text(meter)


def bar_text(meter: Meter) -> str:
    """Documents committed, tokens, pace and time left."""
    left = meter.seconds_left()
    remaining = f"   {duration(left)} left" if left is not None and left >= 1 else ""
    reused = f" ({meter.reused_tokens:,} reused)" if meter.reused_tokens else ""
    pace = f"   {meter.tokens_per_second():,.0f} tokens/s" if meter.tokens else ""
    encodes = meter.tokens or meter.reused_tokens or not meter.rows
    work = f"{meter.tokens:,} tokens{reused}" if encodes else f"{meter.rows:,} rows"
    return f"{meter.documents:,}/{meter.total_documents:,} documents   {work}{pace}{remaining}"


def duration(seconds: float) -> str:
    """`0:12:31`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def stopping_line(reason: str) -> str:
    """What happens after a signal."""
    return f"stopping ({reason}): the running unit finishes, finished documents are committed"

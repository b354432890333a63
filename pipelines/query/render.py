"""The answer as people read it in a terminal. Pure: answer and look in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m3core.terminal import fit, plain
from m3core.types import Signal
from pipelines.query.answer import Answer, Coverage, Explanation, Hit, SignalScore
from pipelines.query.request import Fusion
from pipelines.query.snippet import snippet

if TYPE_CHECKING:
    from rich.text import Text

MIN_WIDTH, MAX_WIDTH = 60, 100
_INDENT = 4
_BAR_CELLS = 6
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# From here on the bars have room beside the title.
_WIDE = 90
_SNIPPET_LINES = 2
_TOKENS_SHOWN = 5
_STYLES = {Signal.DENSE: "cyan", Signal.LEXICAL: "yellow", Signal.MULTI: "magenta"}


@dataclass(frozen=True, slots=True)
class Look:
    """How wide the terminal is (cells), whether it takes colour, and whether the answer is to be explained."""

    width: int = MAX_WIDTH
    colour: bool = False
    explain: bool = False


def render(answer: Answer, look: Look) -> str:
    """The answer as text, every line at most `look.width` cells (60 to 100), ending in a newline.

    Control and bidi characters of documents are stripped; without colour there is no escape sequence at all.
    """
    width = min(MAX_WIDTH, max(MIN_WIDTH, look.width))
    lines = list(_lines(answer, width, look.explain))
    return "".join(_printed(line, look.colour) + "\n" for line in lines)


def render_heads(answer: Answer, look: Look, limit: int) -> str:
    """The first `limit` hits as title, language, total and bars only."""
    width = min(MAX_WIDTH, max(MIN_WIDTH, look.width))
    shown = answer.hits[:limit]
    longest = max((score.contribution for hit in shown for score in hit.signals.values()), default=0.0)
    lines = (line for place, hit in enumerate(shown, start=1) for line in _head_lines(place, hit, longest, width))
    return "".join(_printed(line, look.colour) + "\n" for line in lines)


def _lines(answer: Answer, width: int, explain: bool) -> Iterator[Text]:
    if answer.degraded:
        yield from _wrapped(_degraded(answer), width, "bold yellow")
    if not answer.hits:
        reason = answer.empty.reason if answer.empty is not None else "nothing matches"
        yield from _wrapped(f"No hits: {reason}.", width)
    longest = max((score.contribution for hit in answer.hits for score in hit.signals.values()), default=0.0)
    for place, hit in enumerate(answer.hits, start=1):
        yield from _hit_lines(place, hit, longest, answer.query, width)
        if explain:
            yield from _explanation_lines(hit, width)
    if explain and answer.plan is not None:
        yield from _titled("plan", _plan(answer.plan, answer.candidates), width)
    yield from (
        _titled("time", _timings(answer), width) if explain else _wrapped(" · ".join(_summary(answer)), width, "dim")
    )


def _hit_lines(place: int, hit: Hit, longest: float, query: str, width: int) -> Iterator[Text]:
    from rich.text import Text

    yield from _head_lines(place, hit, longest, width)
    source = f"{hit.doc_id}#{hit.ordinal}" + _further(hit.further_chunks) + _same(hit.same_text)
    yield Text.assemble(" " * _INDENT, (fit(source, width - _INDENT).rstrip(), "dim"))
    yield from _snippet_lines(hit.text, query, width)
    for chunk in hit.chunks:
        yield Text(" " * _INDENT).append(f"#{chunk.ordinal} {chunk.score:.3f}", "dim")
        yield from _snippet_lines(chunk.text, query, width)


def _head_lines(place: int, hit: Hit, longest: float, width: int) -> Iterator[Text]:
    from rich.text import Text

    bars = _bars(hit.signals, longest)
    wide = width >= _WIDE
    language = fit(hit.language, 5)
    end = Text.assemble("  ", (language, "dim"), " ", (f"{hit.score:6.3f}", "bold"))
    number = f"{place:>2}  "
    room = width - len(number) - end.cell_len - (2 + bars.cell_len if wide else 0)
    head = Text.assemble((number, "dim"), (fit(hit.title or hit.doc_id, room), "bold"), end)
    yield (head + Text("  ") + bars) if wide else head
    if not wide:
        yield Text(" " * _INDENT) + bars


def _further(chunks: int) -> str:
    return "" if chunks == 0 else f" · {chunks} more {'chunk' if chunks == 1 else 'chunks'}"


def _same(documents: Sequence[str]) -> str:
    return f" · same text in {', '.join(documents)}" if documents else ""


def _snippet_lines(text: str, query: str, width: int) -> Iterator[Text]:
    from rich.text import Text

    room = width - _INDENT
    part = snippet(text, query, _SNIPPET_LINES * room - 2)
    shown = Text(part.text)
    for start, end in part.marks:
        shown.stylize("bold underline", start, end)
    if part.cut_before:
        shown = Text("…") + shown
    if part.cut_after:
        shown.append("…")
    lines = list(_fold(shown, room))
    if len(lines) > _SNIPPET_LINES:
        # Wide characters take two cells, so that what fits by count may not fit by cells.
        lines = lines[:_SNIPPET_LINES]
        lines[-1].truncate(room - 1)
        lines[-1].append("…")
    yield from (Text(" " * _INDENT) + line for line in lines)


def _bars(signals: Mapping[Signal, SignalScore], longest: float) -> Text:
    from rich.text import Text

    bars = Text()
    for place, (signal, score) in enumerate(signals.items()):
        if place:
            bars.append("  ")
        bars.append(f"{signal.value} ")
        bars.append(_bar(score.contribution, longest), _STYLES[signal])
    return bars


def _bar(contribution: float, longest: float) -> str:
    """A bar in eighths of a cell; what is there but rounds to nothing still shows as the thinnest one."""
    if longest <= 0 or contribution <= 0:
        return ("-" if contribution < 0 else "·").ljust(_BAR_CELLS)
    full, rest = divmod(max(1, round(8 * _BAR_CELLS * contribution / longest)), 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(_BAR_CELLS)


def _explanation_lines(hit: Hit, width: int) -> Iterator[Text]:
    from rich.text import Text

    for signal, score in hit.signals.items():
        line = Text(" " * _INDENT).append(
            f"{signal.value:<8} {_sum(score)}  {_rank(score)}  {score.origin.value:<9}", _STYLES[signal]
        )
        details = _details(signal, hit.explanation)
        if width >= _WIDE and details:
            # Beside the numbers: the largest ones, as many as fit.
            line.append("  " + next(_packed(details, width - line.cell_len - 2)).removesuffix(" ·"), "dim")
            details = []
        yield line
        for each in _packed(details, width - 2 * _INDENT):
            yield Text(" " * 2 * _INDENT).append(each, "dim")


def _sum(score: SignalScore) -> str:
    if score.raw is None:
        return f"{'–':>6} × {score.weight:.2f} = {0:6.3f}"
    return f"{score.raw:6.3f} × {score.weight:.2f} = {score.contribution:6.3f}"


def _rank(score: SignalScore) -> str:
    return f"{'–':<8}" if score.rank is None else f"rank {score.rank:<3}"


def _details(signal: Signal, explanation: Explanation | None) -> list[str]:
    if explanation is None:
        return []
    if signal is Signal.LEXICAL:
        return [f"{plain(each.token)} {each.product:.3f}" for each in explanation.tokens[:_TOKENS_SHOWN]]
    if signal is Signal.MULTI:
        met = explanation.alignments[:_TOKENS_SHOWN]
        return [f"{plain(each.query)}→{plain(each.passage) or '·'} {each.value:.2f}" for each in met]
    return []


def _plan(plan: Mapping[str, Any], candidates: int) -> list[str]:
    legs = [_leg(leg, min(candidates, plan["rerank_cap"])) for leg in plan["signals"]]
    preset = f"preset {plan['preset']}" if plan["preset"] else "own weights"
    fusion = [] if plan["fusion"] == Fusion.WEIGHTED_SUM else [f"fusion {plan['fusion']}"]
    required = [f"required {' and '.join(plan['require'])}"] if plan["require"] else []
    phrases = [f'phrase "{phrase}" in the {plan["phrases_checked_in"]}' for phrase in plan["phrases"]]
    least = [] if plan["min_score"] is None else [f"score at least {plan['min_score']:g}"]
    texts, where = f"texts from {plan['text_store']}", f"filter {plan['filter']}"
    return [*legs, preset, *fusion, *required, texts, where, *phrases, *least]


def _leg(leg: Mapping[str, Any], scored: int) -> str:
    depth = str(leg["candidates"]) if leg["candidates"] else f"on {scored}"
    return f"{leg['signal']} {depth} from {leg['store']}{'' if leg['weight'] else ' (candidates only)'}"


def _summary(answer: Answer) -> list[str]:
    hits = "1 hit" if len(answer.hits) == 1 else f"{len(answer.hits)} hits"
    return [hits, f"generation {answer.generation}", f"{answer.timings_ms.get('total', 0.0):.0f} ms"]


def _timings(answer: Answer) -> list[str]:
    stages = [f"{stage} {spent:.0f} ms" for stage, spent in answer.timings_ms.items()]
    return [*stages, f"coverage {'partial' if answer.degraded else 'full'}", f"generation {answer.generation}"]


def _degraded(answer: Answer) -> str:
    lost = [signal for signal, coverage in answer.coverage.items() if coverage is not Coverage.OK]
    causes = "; ".join(f"{signal.value} is missing ({answer.why[signal]})" for signal in lost)
    return f"Degraded: {causes}. The ranking rests on {' and '.join(signal.value for signal in answer.weights)}."


def _titled(title: str, items: Sequence[str], width: int) -> Iterator[Text]:
    from rich.text import Text

    begin = len(title) + 2
    for place, line in enumerate(_packed(items, width - begin)):
        yield Text(f"{title if place == 0 else '':<{begin}}{line}", style="dim")


def _packed(items: Sequence[str], width: int) -> Iterator[str]:
    """Items with ` · ` between them, a line as full as it gets; an item wider than the line is folded."""
    from rich.cells import cell_len

    line = ""
    for item in items:
        longer = f"{line} · {item}" if line else item
        if cell_len(longer) <= width - 2:
            line = longer
            continue
        if line:
            yield f"{line} ·"
        *folded, line = (each.plain for each in _wrapped(item, width - 2))
        yield from folded
    if line:
        yield line


def _wrapped(text: str, width: int, style: str = "") -> Iterator[Text]:
    from rich.text import Text

    return _fold(Text(plain(text), style=style), width)


def _fold(text: Text, width: int) -> Iterator[Text]:
    from rich.console import Console

    for line in text.wrap(Console(width=width, color_system=None), width):
        line.rstrip()
        yield line


def _printed(line: Text, colour: bool) -> str:
    if not colour:
        return line.plain.rstrip()
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=2 * MAX_WIDTH, highlight=False)
    console.print(line, end="", soft_wrap=True)
    return out.getvalue().rstrip()

"""`m3 search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import UsageError
from pipelines.cli.look import terminal_look
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import print_json, write
from pipelines.cli.usage import whole_number

if TYPE_CHECKING:
    from m3core.config.model import Config
    from m3core.fusion import Weights
    from m3core.types import Identity


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The question, in any language.")],
    config: ConfigOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", parser=whole_number, help="Hits to show.")
    ] = None,
    where: Annotated[
        str, typer.Option("--filter", metavar="FILTER", help="Condition on declared fields, e.g. 'year >= 2024'.")
    ] = "",
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="balanced, long-documents, cross-lingual, dense-only."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="D,L,M", help="Weights of dense, lexical, multi, e.g. 0.4,0.2,0.4."),
    ] = None,
    signals: Annotated[
        str | None, typer.Option("--signals", metavar="NAMES", help="Only these, e.g. dense,multi.")
    ] = None,
    require: Annotated[
        str | None, typer.Option("--require", metavar="NAMES", help="Signals without which there is to be no answer.")
    ] = None,
    fusion: Annotated[
        str, typer.Option("--fusion", metavar="NAME", help="weighted-sum of the scores, or reciprocal-rank.")
    ] = "weighted-sum",
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="X", help="Leave out documents that score less.")
    ] = None,
    chunks: Annotated[
        int, typer.Option("--chunks", metavar="N", parser=whole_number, help="Best chunks of each document to show.")
    ] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each hit is where it is.")] = False,
    identity: Annotated[
        str | None, typer.Option("--as", metavar="TENANT:PRINCIPALS", help="Search as this caller, e.g. acme:staff,hr.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Answer a question from the collection.

    Shows the best chunk of each document, best first, and what each signal contributed. Words in double quotes must
    stand in the text as they are: m3 search '"night train" refund'.
    """
    from connectors.filters.tree import Everything
    from pipelines.query.render import render
    from pipelines.query.request import SearchRequest, parse_fusion, parse_signals
    from pipelines.query.router import SyncRouter

    loaded = open_config(config)
    if preset is not None and weights is not None:
        raise UsageError("--preset and --weights are both given", "give one of them")
    request = SearchRequest(
        query=query,
        identity=caller(identity, loaded.config),
        limit=limit,
        filter=where if where.strip() else Everything(),
        preset=preset,
        weights=parse_weights(weights) if weights is not None else None,
        signals=parse_signals(signals) if signals is not None else None,
        explain=explain,
        require=parse_signals(require, "--require") if require is not None else (),
        min_score=min_score,
        chunks=chunks,
        fusion=parse_fusion(fusion),
    )
    with SyncRouter.open(loaded.config, loaded.base) as router:
        answer = router.search(request)
    if json:
        print_json(answer.as_json())
    else:
        write(render(answer, terminal_look(explain=explain)))


def caller(text: str | None, config: Config) -> Identity:
    """Whom to search for: `--as`, else the configuration's tenant and principals."""
    from m3core.types import Identity
    from pipelines.query.request import parse_identity

    if text is not None:
        return parse_identity(text)
    return Identity(config.search.tenant, config.search.principals)


def parse_weights(text: str) -> Weights:
    """`0.4,0.2,0.4` for dense, lexical and multi. Raises UsageError."""
    from m3core.fusion import Weights

    try:
        dense, lexical, multi = (float(part) for part in text.split(","))
    except ValueError:
        remedy = "give weights of dense, lexical and multi, for example 0.4,0.2,0.4"
        raise UsageError(f"--weights {text[:40]!r}: not three numbers", remedy) from None
    return Weights(dense, lexical, multi)

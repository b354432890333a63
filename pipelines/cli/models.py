"""`m3 models pull`, `m3 models inspect` and `m3 models convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m3core.errors import UsageError
from m3core.nearest import did_you_mean
from pipelines.cli.options import JsonOption
from pipelines.cli.report import note, print_json, say
from pipelines.cli.usage import CommandGroup, one_of

if TYPE_CHECKING:
    from m3core.checkpoint import ModelSpec

app = typer.Typer(name="models", cls=CommandGroup, help="Fetch, inspect and convert models.")

PULLABLE = ("m3-small",)
DTYPES = ("float32", "float16", "bfloat16")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="m3-small, a folder, or owner/name on the hub.")]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", metavar="HEX", help="Commit of a model on the hub, 40 hex digits.")
]


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="m3-small is the only one so far.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch and build it again.")] = False,
) -> None:
    """Download a model, check it and write it to $M3_HOME or the user's cache."""
    if name not in PULLABLE:
        raise UsageError(f'm3 models pull: no such model "{name}"', did_you_mean(name, PULLABLE))
    from m3core.zoo.m3_small import pull as pull_small

    say(str(pull_small(note, force=force)))


@app.command("inspect")
def inspect(model: ModelArgument, revision: RevisionOption = None, json: JsonOption = False) -> None:
    """Say what a model folder holds, and check that its files fit together.

    The weights are not loaded: of them only names, shapes and dtypes are read.
    """
    spec = _spec(model, revision)
    from m3core.inspection import inspect_model
    from pipelines.cli.inspected import as_json, lines

    inspection = inspect_model(spec)
    if json:
        print_json(as_json(inspection))
        return
    for line in lines(inspection):
        say(line)


@app.command("convert")
def convert(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write, new or empty.")],
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="|".join(DTYPES), parser=one_of(*DTYPES), help="Of the stored weights.")
    ] = "float32",
    revision: RevisionOption = None,
) -> None:
    """Write a model anew, its weights as safetensors in one dtype.

    Other weights are another model: a collection made with one does not take vectors of the other.
    """
    spec = _spec(model, revision)
    from m3core.conversion import convert_model
    from pipelines.cli.inspected import converted_lines
    from pipelines.cli.terminated import cleaning_up_on_sigterm

    with cleaning_up_on_sigterm():
        conversion = convert_model(spec, target, cast(Any, dtype))
    for line in converted_lines(conversion):
        say(line)


def _spec(model: str, revision: str | None) -> ModelSpec:
    from m3core.checkpoint import model_spec

    return model_spec(model, revision)

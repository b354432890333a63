"""How the command line is read: unknown names get the nearest known one, and every mistake becomes our UsageError."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from m3core.errors import UsageError
from m3core.nearest import did_you_mean

# The base of typer's usage errors; typer exports it only as the parent of BadParameter.
TYPER_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]


class CommandGroup(TyperGroup):
    """A group that shows its help when called bare and names the nearest command for an unknown one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the group's own options; nothing at all asks for help."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that the first argument names. Raises UsageError if there is none."""
        if args and self.get_command(ctx, args[0]) is None:
            raise UsageError(f'{ctx.command_path}: no such command "{args[0]}"', did_you_mean(args[0], self.commands))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of a first day with threefold, not of the alphabet."""
        return list(self.commands)


def usage_error(error: Exception) -> UsageError:
    """typer's usage error as ours: what was wrong, and the nearest option or the page that lists them."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "m3"
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and option:
        known = [name for parameter in context.command.params for name in parameter.opts] if context else []
        return UsageError(f'{command}: no such option "{option}"', did_you_mean(option, [*known, "--help"]))
    parameter = getattr(error, "param", None)
    if isinstance(error, typer.BadParameter) and parameter is not None and _said(error):
        return UsageError(f"{command}: {max(parameter.opts, key=len)} {_said(error)}", f"{command} --help")
    text = str(error.format_message() if hasattr(error, "format_message") else error).strip().rstrip(".")
    return UsageError(f"{command}: {text[:1].lower()}{text[1:]}", f"{command} --help")


def whole_number(text: str) -> int:
    """Parser of an option that counts."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:40]!r} is no whole number") from None


def fraction(text: str) -> float:
    """Parser of an option that is a share."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text[:40]!r} is no number from 0 to 1")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """Parser of an option with a fixed choice."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text[:40]!r} is none of {', '.join(names)}")
        return text

    return parse


def _said(error: Exception) -> str:
    return str(getattr(error, "message", error)).strip().rstrip(".")


def before_dashes(argv: Sequence[str]) -> Sequence[str]:
    """The arguments up to `--`, after which everything is a plain argument."""
    return argv[: argv.index("--")] if "--" in argv else argv

"""`m3 doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from m3core.terminal import counted
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import print_json, say

if TYPE_CHECKING:
    from pipelines.operate.doctor import Health
    from pipelines.operate.doctor_check import Check
    from pipelines.operate.doctor_store import StoreHealth

_WIDTH = 100
_INDENT = 13


def doctor(config: ConfigOption = None, json: JsonOption = False) -> int:
    """Check the model, the state and every store.

    Each store is asked for its version and limits, compared with what was built, and gets one row in a scratch
    collection, which is searched, deleted and removed. The live collection is not touched.
    """
    from m3core.terminal import plain
    from pipelines.operate.collection import Place
    from pipelines.operate.doctor import examine

    loaded = open_config(config)
    found = examine(Place.of(loaded.config, loaded.base))
    if json:
        print_json(found.as_json())
    else:
        for line in lines(found):
            say(plain(line))
    return int(found.exit_code)


def lines(found: Health) -> Iterator[str]:
    """The verdict, what failed, what could be better, then a line for each part."""
    failures = len(found.failures)
    advice = [(part, check.finding) for part, check in found.checks if check.finding.advice]
    verdict = f"{counted(failures, 'thing')} failed" if failures else "in order"
    hints = f", {counted(len(advice), 'hint')}" if advice else ""
    yield f"{found.collection} · {counted(len(found.stores), 'store')} · {verdict}{hints}"
    for part, check in found.checks:
        if check.failure is not None:
            yield f"  {part}: {check.failure.message}. Remedy: {check.failure.remedy}"
    for part, finding in advice:
        yield f"  {part}: {finding.advice}. Better: {finding.remedy}"
    yield from _part("model", _found(found.model) or ["cannot be used"])
    yield from _part("state", _found(found.state) or ["cannot be used"])
    for store in found.stores:
        yield from _part(store.name, [_store(store), *_found(store.checks)])


def _store(store: StoreHealth) -> str:
    keeps = ", ".join([*store.signals, *(["text"] if store.text else [])])
    return f"{store.kind} {store.version or 'does not answer'}: {keeps}"


def _found(checks: Sequence[Check]) -> list[str]:
    return [check.finding.text for check in checks if check.finding.text]


def _part(name: str, parts: Sequence[str]) -> Iterator[str]:
    """The parts behind the name, in lines of at most 100 columns as far as they can be broken."""
    line = f"{name:<{_INDENT}}"
    empty = True
    for part in parts:
        if not empty and len(line) + len(part) + 3 > _WIDTH:
            yield line
            line, empty = " " * _INDENT, True
        line += part if empty else f" · {part}"
        empty = False
    yield line

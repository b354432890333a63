"""Stores that are being filled again: noted before the first row goes into one that has lost its own.

A run that ends on the way leaves some rows there. The store is not empty any more, and nothing else tells the next run
that it lacks the others: until one run has filled it whole, it counts as one that has lost its rows.

`refills.json` in the state folder, kind `threefold.refills`, format 1: `stores` is a list of [generation, store].
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pipelines.state.files import damaged, read_json, remove_files, write_json
from pipelines.state.paths import StatePaths

KIND = "threefold.refills"
FORMAT = 1


def read_refills(paths: StatePaths, generation: int) -> frozenset[str]:
    """Stores of the generation that are not filled whole again; DamagedError if the file is damaged."""
    return frozenset(store for number, store in _read(paths) if number == generation)


def write_refills(paths: StatePaths, generation: int, stores: Collection[str]) -> None:
    """Note these stores of the generation, and no others of it. Only under the lease."""
    before = _read(paths)
    after = {each for each in before if each[0] != generation} | {(generation, store) for store in stores}
    if after and after != before:
        write_json(_file(paths), KIND, FORMAT, {"stores": sorted(map(list, after))})
    elif before and not after:
        remove_files([_file(paths)])


def _read(paths: StatePaths) -> set[tuple[int, str]]:
    try:
        body = read_json(_file(paths), KIND, FORMAT)
    except FileNotFoundError:
        return set()
    try:
        return {(int(generation), str(store)) for generation, store in body["stores"]}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(_file(paths), "fields are missing or wrong") from error


def _file(paths: StatePaths) -> Path:
    return paths.root / "refills.json"

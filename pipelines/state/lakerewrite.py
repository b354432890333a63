"""Lake files written anew without some of their rows: for what is erased, and for what nobody needs any more.

A file is named by its keys, so the rest of one is a new file. Order for a crash at any point: the new file, its index
segment, then the old file goes, then the index is merged without it. Nothing is ever without a file in between; what a
crash leaves (both files, an index that names a file which is gone) is what every lake can meet.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipelines.state import keyindex, lakefile
from pipelines.state.files import DamagedError, remove_files
from pipelines.state.lake import Lake
from pipelines.state.paths import StatePaths


def drop_rows(folder: Path, name: str, dropped: Collection[int]) -> int:
    """Write the lake file `name` anew without the rows of these numbers; bytes that this gave back. Under the lease.

    A damaged file is removed whole: none of its rows can be trusted, and any of them may be one that has to go.
    """
    path = folder / name
    before = path.stat().st_size
    try:
        after = _write_rest(path, set(dropped))
    except DamagedError:
        after = 0
    remove_files([path])
    return before - after


def _write_rest(path: Path, dropped: set[int]) -> int:
    """Write the rows that stay; the new file's size. DamagedError."""
    fingerprint = path.parent.name
    keys = [key.ljust(lakefile.KEY_BYTES, b"\0") for key in lakefile.read_keys(path).tolist()]
    kept = [row for row in range(len(keys)) if row not in dropped]
    if not kept:
        return 0
    left = [keys[row] for row in kept]
    unit = dict(zip(left, lakefile.read_rows(path, kept, left, fingerprint), strict=True))
    with suppress(FileExistsError):  # a rewrite that was killed before it removed the old file
        lakefile.write_lake_file(path.parent, fingerprint, unit, lakefile.read_created(path))
    name = lakefile.unit_name(np.frombuffer(b"".join(left), dtype="S32"))
    sealed = lakefile.seal(lakefile.path_of(path.parent, name))
    keyindex.write_unit_segment(path.parent / "index", sealed, keyindex.as_keys([key.hex() for key in left]))
    return sealed.size


def tidy_index(paths: StatePaths, fingerprint: str) -> None:
    """Take the keys of files that are gone out of the index: one segment is left then. Under the lease."""
    lake = Lake(paths, fingerprint)
    lake.find([])  # adds segments of files that none covers, moves damaged ones aside
    there = {bytes.fromhex(path.name.removesuffix(lakefile.SUFFIX)) for path in lake.files()}
    folder = paths.lake(fingerprint) / "index"
    segments = [keyindex.open_segment(path) for path in sorted(folder.glob(f"*{keyindex.SUFFIX}"))]
    if all(seal.name in there for segment in segments for seal in segment.seals()):
        return
    made = keyindex.merge_segments(folder, segments, there) if there else None
    remove_files([segment.path for segment in segments if segment.path != made])

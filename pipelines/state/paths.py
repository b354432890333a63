"""Where everything of one collection lies. `<storage.path>/state/<collection>/`:

    collection.json                 format, run counter, generations, live pointer      collection.py
    lease.json                      who writes                                          lease.py
    lake/<encoder fingerprint>/     vectors, append-only                                lake.py, lakefile.py
        <hash of its sorted keys>.parquet
        index/*.keys                sorted keys of the files                            keyindex.py
    chunks/g<generation>/<run>/     texts and metadata of chunks                        chunks.py
        <wave>-<part>.parquet
        unsettled                   while the run is at work, and after it died
    manifest/g<generation>/         one row per document                                manifest.py, documents.py
        manifest.json, delta-<run>-<wave>.json                                          manifestfiles.py
        data/*.parquet
    runs/<run>/                     configuration, report, metrics, dead letters        runs.py
    runs/dead_letters.parquet       unresolved dead letters                             deadletters.py
    purged.json                     purges that were carried out in this state          tombstones.py
    refills.json                    stores that are being filled again                  refills.py

Beside the state folder, in `<storage.path>/tombstones/<collection>/`, lie the tombstones of purges (tombstones.py).

Generations are written with 5 digits, runs with 6, waves with 5. Beside a file `x` that is compared and swapped lies an
empty `x.lock`. Names that begin with `.tmp-` are being written; nobody reads them. Names that end in `.damaged` were
moved aside; nobody reads them either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from m3core.errors import StateError

_FINGERPRINT = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")


@dataclass(frozen=True)
class StatePaths:
    """The state folder of one collection; the folder's name is the collection's."""

    root: Path

    @classmethod
    def of(cls, storage: Path, collection: str) -> StatePaths:
        """State folder of `collection` under `storage`."""
        return cls(storage / "state" / collection)

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self.root.name

    @property
    def collection_file(self) -> Path:
        """The file with the generations and the live pointer."""
        return self.root / "collection.json"

    @property
    def lease_file(self) -> Path:
        """The file that says who writes."""
        return self.root / "lease.json"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.root / "runs"

    @property
    def tombstones(self) -> Path:
        """Folder of the tombstones: not in the state folder, so that a restored one meets them."""
        return self.root.parent.parent / "tombstones" / self.collection

    def run(self, number: int) -> Path:
        """Folder of one run."""
        return self.runs / f"{number:06d}"

    def lake(self, fingerprint: str) -> Path:
        """Folder of the vectors of one encoder fingerprint; StateError if it is none (it becomes a path)."""
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise StateError(f"{fingerprint!r} is no encoder fingerprint (a-z, 0-9 and -, at most 80)")
        return self.root / "lake" / fingerprint

    def chunks(self, generation: int) -> Path:
        """Folder of the chunks of one generation."""
        return self.root / "chunks" / f"g{generation:05d}"

    def manifest(self, generation: int) -> Path:
        """Folder of the manifest of one generation."""
        return self.root / "manifest" / f"g{generation:05d}"

"""Identity of what an encoder produces and of how a collection was built.

The encoder fingerprint hashes weights, heads, tokenizer and the parsed settings that affect vectors; never a path, a
model card or presets. Rows whose encoder fingerprints differ never meet.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3core.checkpoint import ModelSpec
from m3core.home import m3_home
from m3core.layout import MULTI_HEAD, SPARSE_HEAD

_HEX = 32


def encoder_fingerprint(spec: ModelSpec, cache: Path | None = None) -> str:
    """The precision class (`float` or `int8`), `-` and 32 hex digits.

    File hashes are cached by size, mtime and inode in `cache` (default: M3_HOME).
    """
    files = [spec.weights_file, spec.folder / SPARSE_HEAD, spec.folder / MULTI_HEAD, spec.folder / "tokenizer.json"]
    hashes = _FileHashes(cache or m3_home() / "file-hashes.json")
    settings = {
        "architecture": asdict(spec.architecture),
        "pooling": spec.pooling,
        "max_length": spec.max_length,
        "multi_dim": spec.multi_dim,
        "prefixes": [spec.query_prefix, spec.passage_prefix],
        # Named by role: a checkpoint in another container format is another file, but the same role.
        "files": [hashes.of(path) if path.is_file() else None for path in files],
    }
    hashes.save()
    return f"{spec.precision_class}-{digest(settings)}"


def collection_fingerprint(encoder: str, settings: Mapping[str, Any]) -> str:
    """32 hex digits over the encoder's fingerprint and what else shapes rows: chunker, parser, field declarations."""
    return digest({"encoder": encoder, **settings})


def digest(value: Any) -> str:
    """32 hex digits of the sha256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:_HEX]


class _FileHashes:
    """sha256 of files, remembered by size, mtime and inode: hashing 2 GB takes seconds, a second start should not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            known = json.loads(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            known = None  # A cache that is absent or damaged is made again.
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        stat = path.stat()
        key = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        if not self._changed:
            return
        # A name of its own (and mode 0600): another process may be saving the same hashes.
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}-")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                json.dump(self._known, file)
            Path(name).replace(self._path)
        finally:
            Path(name).unlink(missing_ok=True)

"""How large the vectors of texts will be on disk, and how long encoding them takes: measured, then multiplied.

What depends on the corpus and the model is the number of lexical weights per token; it is counted in the lake where
there is one, else in a few texts that are encoded now. Everything else follows from the formats.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from m3core.checkpoint import ModelSpec
from m3core.config.model import Config
from pipelines.ingest.embed import LazyEncoder
from pipelines.ingest.session import Request
from pipelines.state.chunks import ChunkRow
from pipelines.state.collection import StoreBinding
from pipelines.state.lake import Lake
from pipelines.state.paths import StatePaths
from pipelines.state.runs import RunFolder, list_runs

# lakefile.py: key, checksum, number of vectors, and the lengths of three columns of bytes; then a row of the key index.
_ROW_BYTES = 32 + 4 + 4 + 3 * 4 + 40
# Measured on files of 1 to 18 row groups of a megabyte: 1.4 kB and 0.6 kB a group; and 0.1 kB of index.
_FILE_BYTES = 1_500
_GROUP_BYTES = 570
_WEIGHT_BYTES = 8
# Ids, payload besides the text, offsets and indexes of a row in Qdrant Edge; measured on rows of 150 tokens.
_EDGE_ROW_BYTES = 900
# What a row takes in the files that a reader's copy does not share.
_EDGE_COPY_BYTES = 470
_LAKE_FILES_READ = 3

Basis = Literal["last run", "measured now", "nothing to encode"]


@dataclass(frozen=True)
class Pace:
    """Tokens per second and lexical weights per token, and where each is from."""

    tokens_per_second: float
    weights_per_token: float
    basis: Basis


@dataclass(frozen=True)
class Amount:
    """Texts and their tokens (as the encoder counts them), their UTF-8 bytes, and lake files for them."""

    texts: float = 0
    tokens: float = 0
    text_bytes: float = 0
    files: float = 0


def lake_bytes(amount: Amount, spec: ModelSpec, weights_per_token: float) -> float:
    """Bytes of lake files and their index. A text has a vector of 2 D' bytes for each token but the first."""
    multi = 2 * spec.multi_dim * (amount.tokens - amount.texts)
    body = amount.texts * (2 * spec.dense_dim + _ROW_BYTES) + multi + _WEIGHT_BYTES * weights_per_token * amount.tokens
    return body + _FILE_BYTES * amount.files + _GROUP_BYTES * max(amount.files, body / (1 << 20))


def edge_bytes(amount: Amount, spec: ModelSpec, binding: StoreBinding, weights_per_token: float) -> float:
    """Bytes of rows in Qdrant Edge: 16 bits a dense number, 8 a multi-vector's, each weight in row and index, the text,
    and what a row costs besides, in the snapshot and in one reader's copy."""
    per_signal = {
        "dense": 2 * spec.dense_dim * amount.texts,
        "multi": spec.multi_dim * (amount.tokens - amount.texts),
        "lexical": 2 * _WEIGHT_BYTES * weights_per_token * amount.tokens,
    }
    text = amount.text_bytes if binding.text else 0
    per_row = _EDGE_ROW_BYTES + _EDGE_COPY_BYTES
    return sum(per_signal[name] for name in binding.signals) + text + per_row * amount.texts


def pace_of(request: Request, lake: Lake, new: Sequence[ChunkRow]) -> Pace:
    """From the last run and the lake where there are both, else measured on a few of the texts that are `new`."""
    rate, density = last_rate(request.paths, request.config), lake_density(lake)
    if rate is not None and density is not None:
        return Pace(rate, density, "last run")
    if not new:
        return Pace(rate or 0.0, density or 0.0, "nothing to encode" if rate is None else "last run")
    encoder = LazyEncoder(request.build.spec.folder, request.config.model.loading())
    measured = measure(new, encoder, request.config.ingest.batch_tokens)
    if rate is not None:
        return Pace(rate, measured.weights_per_token, "last run")
    return measured


def last_rate(paths: StatePaths, config: Config) -> float | None:
    """Tokens per second of the newest run of the same model settings that encoded something; None if there is none."""
    wanted = config.model.model_dump(mode="json")
    for number in reversed(list_runs(paths)):
        folder = RunFolder(paths, number)
        report = _report(folder)
        if not report or not float(report.get("tokens_per_second", 0)):
            continue
        if folder.read_config().get("model") == wanted:
            return float(report["tokens_per_second"])
    return None


def _report(folder: RunFolder) -> Mapping[str, Any]:
    return folder.read_report() or {}


def lake_density(lake: Lake) -> float | None:
    """Lexical weights per token of what the lake holds, from a few of its files; None if it is empty."""
    import pyarrow.compute as pc

    from pipelines.state.files import DamagedError
    from pipelines.state.lakefile import read_columns

    weights = tokens = 0
    for path in sorted(lake.files())[:_LAKE_FILES_READ]:
        try:
            table = read_columns(path, ["lexical_ids", "multi_rows"])
        except (DamagedError, FileNotFoundError):
            continue
        weights += (pc.sum(pc.binary_length(table.column("lexical_ids"))).as_py() or 0) // 4
        tokens += (pc.sum(table.column("multi_rows")).as_py() or 0) + table.num_rows
    return weights / tokens if tokens else None


def measure(rows: Sequence[ChunkRow], encoder: LazyEncoder, batch_tokens: int | None) -> Pace:
    """Encode a few texts, after one to warm up."""
    texts = [row.chunk.encoded_text for row in rows]
    model = encoder.get()
    model.encode(texts[:1], "passage", batch_tokens)
    started = time.monotonic()
    encoded = model.encode(texts, "passage", batch_tokens)
    seconds = time.monotonic() - started
    tokens = int(encoded.token_counts.sum())
    weights = 0 if encoded.lexical is None else len(encoded.lexical.ids)
    return Pace(tokens / max(seconds, 1e-9), weights / max(tokens, 1), "measured now")

"""What reading the sources amounts to, counted in bounded memory: equal texts once, or a sample as a stand-in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipelines.ingest.embed import UnitLimits, cut_units
from pipelines.ingest.planned import Estimate
from pipelines.ingest.reading import Chunked
from pipelines.state.chunks import ChunkRow
from pipelines.state.lake import Lake
from pipelines.state.tables import duckdb_connection

if TYPE_CHECKING:
    import pyarrow as pa

# 97.5th percentile of the normal distribution.
_Z95 = 1.959964
# What a measurement of this machine encodes.
MEASURED_TOKENS = 4096


@dataclass
class Count:
    """Chunks, texts and tokens, with and without vectors in the lake; `fresh` are chunks of new documents."""

    chunks: int = 0
    fresh: int = 0
    new_texts: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    text_bytes: int = 0
    files: int = 0

    def values(self) -> dict[str, int]:
        """By name."""
        return dict(vars(self))


@dataclass
class Counting:
    """Counts what groups became. `specials`: tokens that specials and prefix add to a text, besides one for every
    `stride` tokens.

    Keys of new texts go to a file, so that a text that comes twice is encoded once.
    """

    file: Path
    lake: Lake
    limits: UnitLimits
    specials: int
    stride: int | None
    changes: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    first_new: list[ChunkRow] = field(default_factory=list)
    total: Count = field(default_factory=Count)
    _writer: Any = None

    def __enter__(self) -> Counting:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(self.file, _schema())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def tokens_of(self, row: ChunkRow) -> int:
        """Tokens of a text with specials and prefix."""
        tokens = row.chunk.token_count
        return tokens + self.specials + (tokens // self.stride if self.stride else 0)

    def add(self, chunked: Chunked) -> Count:
        """Count a group; what it alone amounts to, equal texts counted as often as they come."""
        new_documents = {one.record.key for one in chunked.documents if one.change == "added"}
        self.changes.update(one.change for one in chunked.documents)
        self.failed += len(chunked.letters)
        known = self.lake.find({row.lake_key for row in chunked.rows})
        new = [row for row in chunked.rows if row.lake_key not in known]
        tokens = {row.lake_key: self.tokens_of(row) for row in new}
        self._write(tokens)
        count = Count(
            chunks=len(chunked.rows),
            fresh=sum((row.chunk.tenant, row.chunk.doc_id) in new_documents for row in chunked.rows),
            new_texts=len(tokens),
            new_tokens=sum(tokens.values()),
            cached_tokens=sum(self.tokens_of(row) for row in chunked.rows if row.lake_key in known),
            text_bytes=sum(len(row.chunk.encoded_text.encode()) for row in chunked.rows),
            files=sum(1 for _ in cut_units(new, self.limits)),
        )
        for name, value in count.values().items():
            setattr(self.total, name, getattr(self.total, name) + value)
        self._keep(new)
        return count

    def distinct(self) -> tuple[int, int]:
        """Texts that the lake lacks and their tokens, each text once; after the block."""
        query = "SELECT count(*), coalesce(sum(tokens), 0) FROM (SELECT key, any_value(tokens) AS tokens FROM "
        with duckdb_connection(self.file.parent) as database:
            found: Any = database.execute(
                query + "read_parquet($file) GROUP BY key)", {"file": str(self.file)}
            ).fetchone()
        return int(found[0]), int(found[1])

    def _keep(self, new: list[ChunkRow]) -> None:
        """The first new rows, as many as a measurement takes."""
        held = sum(map(self.tokens_of, self.first_new))
        for row in new:
            if held >= MEASURED_TOKENS:
                return
            self.first_new.append(row)
            held += self.tokens_of(row)

    def _write(self, tokens: Mapping[str, int]) -> None:
        import pyarrow as pa

        columns = {"key": [bytes.fromhex(key) for key in tokens], "tokens": list(tokens.values())}
        self._writer.write_table(pa.table(columns, schema=_schema()))


def ratio_estimate(values: list[float], sizes: list[float], total_size: float, population: int) -> Estimate:
    """Total of a quantity over `population` documents of `total_size` bytes, from its `values` [n] in a simple random
    sample with those `sizes` [n], and the half-width of its 95 % interval.

    Ratio estimator: Y = R X with R = sum(y) / sum(x); variance N^2 (1 - n / N) / n * sum((y - R x)^2) / (n - 1), scaled
    to the sample's own mean size (Cochran 1977, eqs. 6.1 and 6.13). A sample of one has no known error: infinite.
    """
    count = len(values)
    if count == 0 or population == 0:
        return Estimate(0.0)
    ratio = sum(values) / sum(sizes) if sum(sizes) else 0.0
    total = ratio * total_size if sum(sizes) else sum(values) / count * population
    if count >= population:
        return Estimate(total)
    if count == 1:
        return Estimate(total, math.inf)
    spread = sum((y - ratio * x) ** 2 for y, x in zip(values, sizes, strict=True)) / (count - 1)
    return Estimate(total, _Z95 * population * math.sqrt((1 - count / population) * spread / count))


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("key", pa.binary(32)), ("tokens", pa.int64())])

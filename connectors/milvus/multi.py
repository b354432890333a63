"""MaxSim: by the server on its arrays of structs, or here on packed vectors where the server is Milvus Lite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pymilvus.client.embedding_list import EmbeddingList

from connectors.milvus.filters import EVERY_ROW, among
from connectors.milvus.parts import part_ids, unpack
from connectors.milvus.reading import Asked, Reads, cut
from connectors.milvus.schema import parts_name
from connectors.milvus.structs import ANNS_FIELD, vectors_of
from connectors.protocol import Scored
from connectors.queries import best_first
from m3core import scoring
from m3core.types import Float16Array, Float32Array, Signal

# Vectors in one answer: 64 MB is the most that a server sends.
_ANSWER_BYTES = 16 << 20
# Parts in one answer: 65 KB each.
_PARTS = 256


class MultiVectors(Protocol):
    """How multi-vectors of one layout are asked for."""

    def search(self, query: Float32Array, conditions: str, limit: int, deadline: float) -> list[Scored]:
        """The `limit` best of the rows with vectors that pass."""

    def score(self, query: Float32Array, ids: Sequence[str], conditions: str, deadline: float) -> dict[str, float]:
        """Scores of the given rows as far as they exist and pass."""


@dataclass(frozen=True)
class StructVectors:
    """On a server. It scores what it finds; its graph may miss rows of `ids`, which are read and scored here.

    The query goes in fp16, because a server compares vectors of one type; what is scored here is rounded alike.
    """

    reads: Reads
    dim: int

    def search(self, query: Float32Array, conditions: str, limit: int, deadline: float) -> list[Scored]:
        return self.reads.best(_asked(query), _with_vectors(conditions), limit, deadline)

    def score(self, query: Float32Array, ids: Sequence[str], conditions: str, deadline: float) -> dict[str, float]:
        found = {}
        if len(query):
            found = self.reads.scores(_asked(query), ids, _with_vectors(conditions), deadline)
        missed = _counts(self.reads, [chunk_id for chunk_id in ids if chunk_id not in found], conditions, deadline)
        for chunk_id, stored in self._read(missed, deadline):
            found[chunk_id] = scoring.max_sim(query.astype(np.float16), stored)
        return found

    def _read(self, vectors: Mapping[str, int], deadline: float) -> Iterator[tuple[str, Float16Array]]:
        for rows in _bounded(vectors, lambda count: 2 * self.dim * max(1, count), _ANSWER_BYTES):
            for record in self.reads.query(among(rows), ["id", Signal.MULTI.value], deadline):
                chunk_id = record["id"]
                yield chunk_id, vectors_of(chunk_id, vectors[chunk_id], self.dim, record[Signal.MULTI])


@dataclass(frozen=True)
class PackedVectors:
    """On Milvus Lite, in the collection of parts beside `main`."""

    reads: Reads
    dim: int
    main: str

    def search(self, query: Float32Array, conditions: str, limit: int, deadline: float) -> list[Scored]:
        """Every row that passes, page by page: the router asks for scores of candidates instead."""
        best: list[Scored] = []
        for page in self.reads.pages(conditions, ["id", "vectors"], deadline):
            vectors = {record["id"]: int(record["vectors"]) for record in page if record["vectors"]}
            scores = {hit.id: hit.score for hit in best}
            for chunk_id, stored in self._read(vectors, deadline):
                scores[chunk_id] = scoring.max_sim(query, stored)
            best = best_first(scores, limit)
        return best

    def score(self, query: Float32Array, ids: Sequence[str], conditions: str, deadline: float) -> dict[str, float]:
        vectors = _counts(self.reads, ids, conditions, deadline)
        return {chunk_id: scoring.max_sim(query, stored) for chunk_id, stored in self._read(vectors, deadline)}

    def _read(self, vectors: Mapping[str, int], deadline: float) -> Iterator[tuple[str, Float16Array]]:
        """Multi-vectors by chunk id, read in answers of bounded size. `vectors`: how many each row has."""
        for rows in _bounded(vectors, lambda count: sum(1 for _ in part_ids("", count, self.dim)), _PARTS):
            wanted = [part for chunk_id in rows for part in part_ids(chunk_id, vectors[chunk_id], self.dim)]
            found: dict[str, str] = {}
            for part in cut(wanted, _PARTS):
                records = self.reads.query(among(part), ["id", "packed"], deadline, parts_name(self.main))
                found |= {record["id"]: record["packed"] for record in records}
            for chunk_id in rows:
                yield chunk_id, unpack(chunk_id, vectors[chunk_id], self.dim, found)


def _asked(query: Float32Array) -> Asked:
    # The server's MaxSim is a sum over the query's vectors, ours the mean.
    return Asked(EmbeddingList(query.astype(np.float16)), ANNS_FIELD, "MAX_SIM_IP", times=len(query))


def _with_vectors(conditions: str) -> str:
    """Rows that pass and have vectors; the others have one of zeros in their place."""
    return "vectors > 0" if conditions == EVERY_ROW else f"vectors > 0 and ({conditions})"


def _counts(reads: Reads, ids: Sequence[str], conditions: str, deadline: float) -> dict[str, int]:
    """How many vectors each row has, of those that exist and pass."""
    records = reads.by_id(ids, conditions, ["id", "vectors"], deadline)
    return {record["id"]: int(record["vectors"]) for record in records}


def _bounded(vectors: Mapping[str, int], size_of: Callable[[int], int], most: int) -> Iterator[list[str]]:
    """Ids in groups of at most `most`, as `size_of` measures their vectors; one id at least."""
    group: list[str] = []
    size = 0
    for chunk_id, count in vectors.items():
        if group and size + size_of(count) > most:
            yield group
            group, size = [], 0
        group.append(chunk_id)
        size += size_of(count)
    if group:
        yield group

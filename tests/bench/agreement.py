"""Does the router find what exhaustive search finds, and the same over every kind of store? On sets in BEIR's layout.

python -m tests.bench.agreement --data DIR ... [--queries 200] [--stores memory edge three]

Every document is one passage, cut at the model's limit. Exhaustive: the weighted sum (preset `balanced`) of all three
scores of every passage. The router: the usual plan, 100 candidates a signal. `three` are Edge (dense), a real
Elasticsearch node (lexical, the texts) and Milvus Lite (multi). A hit counts as found if its exact score is within
TOLERANCE of the tenth or better; `scores` is the largest difference of a hit's score to its exact one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np

from connectors.protocol import CollectionSchema, Connection, Searcher, StoreOptions
from connectors.registry import open_searcher, open_sink
from m3core import scoring
from m3core.config.model import SearchSection
from m3core.encoder import Encoder
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.types import Chunk, ChunkVectors, Encoded, Identity, QueryVectors, Row, Signal
from m3core.zoo import m3_small
from pipelines.query.answer import Answer, Explanation
from pipelines.query.encoding import EncoderFacts, query_vectors
from pipelines.query.live import Pinned
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router
from pipelines.state.collection import Generation, StoreBinding
from tests.conformance.store import publish
from tests.pipelines.query.conftest import FixedStores
from tests.servers.elasticsearch import running_elasticsearch
from tests.servers.milvus import running_milvus

ALL = ("dense", "lexical", "multi")
LAYOUTS = {
    "memory": (StoreBinding("main", "memory", ALL, True),),
    "edge": (StoreBinding("main", "qdrant-edge", ALL, True),),
    "three": (
        StoreBinding("vectors", "qdrant-edge", ("dense",), False),
        StoreBinding("words", "elasticsearch", ("lexical",), True),
        StoreBinding("tokens", "milvus", ("multi",), False),
    ),
}
ASKER = Identity("t", ("p",))
PAGE = 10
TOLERANCE = 1e-3


class Remembered:
    """A `QueryEncoder` whose queries were encoded before."""

    def __init__(self, fingerprint: str, known: Mapping[str, QueryVectors], presets: Mapping[str, Weights]) -> None:
        self._facts, self._known = EncoderFacts(fingerprint, presets), known

    async def facts(self) -> EncoderFacts:
        return self._facts

    async def ready(self) -> None:
        """It is."""

    async def encode_query(self, query: str) -> QueryVectors:
        return self._known[query]

    async def explain(self, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing to release."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--stores", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    options = parser.parse_args()
    encoder = Encoder.load(m3_small.folder())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        urls: dict[str, str] = {}
        if "three" in options.stores:
            urls["elasticsearch"] = servers.enter_context(running_elasticsearch(Path(folder) / "elasticsearch")).url
            urls["milvus"] = servers.enter_context(running_milvus(Path(folder) / "milvus")).url
        for data in options.data:
            rows, queries = encoded(data, encoder, options.queries)
            exact = exhaustive(rows, queries, BUILT_IN_PRESETS["balanced"])
            for name in options.stores:
                with stores(LAYOUTS[name], rows, encoder, Path(folder) / data.name / name, urls) as pinned:
                    answers = asked(pinned, queries, encoder)
                compare(f"{data.name}, {len(rows)} passages, {name}", answers, exact)


def encoded(data: Path, encoder: Encoder, limit: int) -> tuple[list[Row], dict[str, QueryVectors]]:
    """Rows of the corpus, and the first queries with their vectors."""
    corpus = [json.loads(line) for line in (data / "corpus.jsonl").open(encoding="utf-8")]
    texts = [json.loads(line)["text"] for line in (data / "queries.jsonl").open(encoding="utf-8")][:limit]
    passages = encoder.encode([each["text"] for each in corpus], "passage")
    queries = encoder.encode(texts, "query")
    rows = [
        Row(chunk_of(place, str(each["_id"]), each["text"]), vectors_of(passages, place), 1)
        for place, each in enumerate(corpus)
    ]
    return rows, {text: query_vectors(queries, place) for place, text in enumerate(texts)}


def chunk_of(place: int, doc_id: str, text: str) -> Chunk:
    return Chunk(
        id=str(UUID(int=place + 1)), tenant="t", doc_id=doc_id, ordinal=0, text=text, context="", span=(0, len(text)),
        token_count=1, title="", language="", metadata={}, acl=("p",),
    )  # fmt: skip


def vectors_of(passages: Encoded, place: int) -> ChunkVectors:
    one = query_vectors(passages, place)
    assert one.dense is not None
    assert one.multi is not None
    assert one.lexical_ids is not None
    assert one.lexical_weights is not None
    return ChunkVectors(
        one.dense.astype(np.float16), one.lexical_ids, one.lexical_weights, one.multi.astype(np.float16)
    )


def exhaustive(
    rows: Sequence[Row], queries: Mapping[str, QueryVectors], weights: Weights
) -> dict[str, dict[str, float]]:
    """Of every query the score of every document."""
    shares = weights.normalised(tuple(Signal))
    found: dict[str, dict[str, float]] = {}
    for text, query in queries.items():
        found[text] = {row.chunk.doc_id: total(query, row.vectors, shares) for row in rows}
    return found


def total(query: QueryVectors, passage: ChunkVectors, shares: Mapping[Signal, float]) -> float:
    assert query.dense is not None
    assert query.multi is not None
    assert query.lexical_ids is not None
    assert query.lexical_weights is not None
    dense = float(scoring.dense(query.dense, passage.dense[None, :])[0])
    lexical = scoring.lexical(query.lexical_ids, query.lexical_weights, passage.lexical_ids, passage.lexical_weights)
    multi = scoring.max_sim(query.multi, passage.multi)
    return shares[Signal.DENSE] * dense + shares[Signal.LEXICAL] * lexical + shares[Signal.MULTI] * multi


@contextmanager
def stores(
    layout: tuple[StoreBinding, ...], rows: Sequence[Row], encoder: Encoder, root: Path, urls: Mapping[str, str]
) -> Iterator[Pinned]:
    """The rows in stores of that layout."""
    first = rows[0].vectors
    generation = Generation(
        1, "c", encoder.fingerprint, "m3-small", first.dense.shape[0], first.multi.shape[1], {}, layout, "live", "now"
    )
    searchers: dict[str, Searcher] = {}
    for binding in layout:
        schema = CollectionSchema(
            "agreement", 1, frozenset(Signal(each) for each in binding.signals), generation.dense_dim,
            generation.multi_dim, {}, binding.text, encoder.fingerprint,
        )  # fmt: skip
        prefix = f"a{abs(hash(str(root))) % 10**6}_"
        connection = Connection(url=urls[binding.kind], prefix=prefix) if binding.kind in urls else Connection()
        options = StoreOptions(binding.name, root / binding.name, schema, min_free_bytes=1 << 20, connection=connection)
        sink = open_sink(binding.kind, options)
        sink.ensure(schema)
        for at in range(0, len(rows), 128):
            assert not sink.write(rows[at : at + 128]).failures
        publish(sink)
        sink.close()
        searchers[binding.name] = open_searcher(binding.kind, options)
    yield Pinned(generation, searchers)


def asked(pinned: Pinned, queries: Mapping[str, QueryVectors], encoder: Encoder) -> dict[str, Answer]:
    """What the router answers to each query."""

    async def run() -> dict[str, Answer]:
        remembered = Remembered(encoder.fingerprint, queries, BUILT_IN_PRESETS)
        router = Router(FixedStores(pinned), remembered, SearchSection(timeout=300.0))
        answers = {}
        for text in queries:
            answers[text] = await router.search(SearchRequest(text, ASKER, quotes=False, once=False, preset="balanced"))
            assert not answers[text].degraded, answers[text].why
        await router.aclose()
        return answers

    return asyncio.run(run())


def compare(name: str, answers: Mapping[str, Answer], exact: Mapping[str, Mapping[str, float]]) -> None:
    overlaps, largest = [], 0.0
    for text, answer in answers.items():
        scores = exact[text]
        tenth = sorted(scores.values(), reverse=True)[:PAGE][-1]
        shown = [hit for hit in answer.hits if scores[hit.doc_id] >= tenth - TOLERANCE]
        overlaps.append(len(shown) / min(PAGE, len(scores)))
        largest = max(largest, *(abs(hit.score - scores[hit.doc_id]) for hit in answer.hits))
    whole = sum(each == 1.0 for each in overlaps)
    print(
        f"{name:<42} overlap@10 {np.mean(overlaps):.4f}   all ten in {whole} of {len(overlaps)}   scores {largest:.1e}",
        flush=True,
    )


if __name__ == "__main__":
    main()

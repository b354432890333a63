"""The router over a configuration: real state folder, real Qdrant Edge, real (tiny) model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from connectors.filters.tree import Everything
from connectors.protocol import CollectionSchema, EmbeddedSink, FieldType, Searcher, StoreOptions
from connectors.registry import open_searcher, open_sink
from m3core.config.model import CollectionSection, Config, ModelSection, SourceSection, StorageSection
from m3core.encoder import Encoder, stored_vectors
from m3core.errors import ModelError, StateError, UsageError
from m3core.types import ALL_SIGNALS, Chunk, Identity, Row
from pipelines.query.errors import CursorError
from pipelines.query.live import LiveGeneration
from pipelines.query.other_models import OtherModels
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router, SyncRouter
from pipelines.state.collection import CollectionState, Generation, StoreBinding, read_collection, swap_collection
from pipelines.state.paths import StatePaths

STAFF = Identity("default", ("everyone",))
TEXTS = [
    "The cryostat of the low temperature laboratory is booked at the front desk",
    "Wer den Schlüssel verliert, meldet es sofort der Leitung",
    "低温実験室の鍵は受付にあります。",
    "travel by night train is refunded within thirty days",
]


class Site:
    """One configured collection on disk, filled without the ingest side."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.config = Config(
            collection=CollectionSection(name="handbook"),
            storage=StorageSection(path=Path("data")),
            model=ModelSection(name=str(model)),
            sources={"docs": SourceSection(kind="folder", path=Path("docs"))},
            fields={"year": "integer"},
        )
        self.paths = StatePaths.of(folder / "data", "handbook")
        self.encoder = Encoder.load(model)

    def ingest(self, number: int, texts: Sequence[str], revision: int = 1) -> None:
        """Write the texts, a document each, into one generation and make it live."""
        schema = CollectionSchema(
            collection="handbook",
            generation=number,
            signals=frozenset(ALL_SIGNALS),
            dense_dim=self.encoder.spec.dense_dim,
            multi_dim=self.encoder.spec.multi_dim,
            fields={"year": FieldType.INTEGER},
            keeps_text=True,
            encoder_fingerprint=self.encoder.fingerprint,
        )
        sink = open_sink("qdrant-edge", StoreOptions("main", self.folder / "data/stores/main/handbook", schema))
        assert isinstance(sink, EmbeddedSink)
        sink.ensure(schema)
        vectors = stored_vectors(self.encoder.encode(list(texts)))
        rows = [Row(self._chunk(n, text), vectors[n], revision) for n, text in enumerate(texts)]
        assert not sink.write(rows).failures
        sink.publish()
        sink.close()
        self.promote(number)

    def promote(self, number: int) -> None:
        state = read_collection(self.paths)
        old = state.generations if state is not None else ()
        retired = tuple(
            replace(each, status="retired", retired="2026-01-02T00:00:00Z") for each in old if each.number != number
        )
        made = CollectionState(1, "handbook", number, 1, (*retired, self._generation(number)))
        if state is None or state.live != number:
            swap_collection(self.paths, state, made)

    def _generation(self, number: int) -> Generation:
        return Generation(
            number=number,
            collection_fingerprint="0" * 32,
            encoder_fingerprint=self.encoder.fingerprint,
            model="tiny",
            dense_dim=self.encoder.spec.dense_dim,
            multi_dim=self.encoder.spec.multi_dim,
            fields={"year": "integer"},
            stores=(StoreBinding("main", "qdrant-edge", ("dense", "lexical", "multi"), True),),
            status="live",
            created="2026-01-01T00:00:00Z",
        )

    @staticmethod
    def _chunk(number: int, text: str) -> Chunk:
        return Chunk(
            id=str(UUID(int=number + 1)),
            tenant="default",
            doc_id=f"doc-{number}",
            ordinal=0,
            text=text,
            context="",
            span=(0, len(text)),
            token_count=10,
            metadata={"year": 2020 + number},
            acl=("everyone",),
        )


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path) -> Site:
    return Site(tmp_path, tiny_model)


def test_search_over_edge_equals_the_encoder_s_own_scores(site: Site) -> None:
    site.ingest(1, TEXTS)
    query = "night train travel"
    with SyncRouter.open(site.config, site.folder) as router:
        answer = router.search(SearchRequest(query, STAFF, explain=True))
        assert (answer.generation, answer.degraded, len(answer.hits)) == (1, False, 4)
        asked, encoded = site.encoder.encode_query(query), site.encoder.encode(TEXTS)
        assert asked.dense is not None
        assert encoded.dense is not None
        for hit in answer.hits:
            number = UUID(hit.id).int - 1
            assert hit.text == TEXTS[number]
            dense = next(part for signal, part in hit.signals.items() if signal == "dense")
            assert dense.raw == pytest.approx(float(asked.dense @ encoded.dense[number]), abs=2e-3)
            assert sum(part.contribution for part in hit.signals.values()) == pytest.approx(hit.score, abs=1e-6)
            assert hit.explanation is not None
            lexical = next(part for signal, part in hit.signals.items() if signal == "lexical")
            shared = sum(token.product for token in hit.explanation.tokens)
            assert lexical.raw == pytest.approx(shared, abs=1e-3)
        filtered = router.search(SearchRequest(query, STAFF, filter="year >= 2022"))
        assert {hit.doc_id for hit in filtered.hits} == {"doc-2", "doc-3"}
        nothing = router.search(SearchRequest(query, STAFF, filter="year >= 2030"))
        assert nothing.empty is not None
        assert nothing.empty.reason == "no row passes year >= 2030; without it 4 do"


def test_long_lived_router_sees_a_new_snapshot(site: Site) -> None:
    site.ingest(1, TEXTS[:2])
    with SyncRouter.open(site.config, site.folder) as router:
        assert len(router.search(SearchRequest("key", STAFF)).hits) == 2
        site.ingest(1, TEXTS, revision=2)
        assert len(router.search(SearchRequest("key", STAFF)).hits) == 4


def test_new_generation_is_picked_up_and_what_is_pinned_stays_open(site: Site) -> None:
    site.ingest(1, TEXTS[:2])

    async def scene() -> None:
        stores = LiveGeneration(site.config, site.folder)
        async with stores.pin() as old:
            assert old.generation.number == 1
            await asyncio.to_thread(site.ingest, 2, TEXTS)
            async with stores.pin() as new:
                assert new.generation.number == 2
                assert new.searchers["main"] is not old.searchers["main"]
            assert await old.searchers["main"].count(Everything(), 5.0) == 2
        async with stores.pin() as again:
            assert again.searchers["main"] is new.searchers["main"]
        await stores.aclose()
        await stores.aclose()

    asyncio.run(scene())


def test_a_cursor_leafs_on_in_its_generation_until_that_is_dropped(site: Site) -> None:
    site.ingest(1, TEXTS)
    paged = SearchRequest("key", STAFF, limit=1, paged=True)
    with SyncRouter.open(site.config, site.folder) as router:
        order = [hit.doc_id for hit in router.search(replace(paged, limit=4)).hits]
        first = router.search(paged)
        site.ingest(2, TEXTS[:1])
        assert router.search(paged).generation == 2
        second = router.search(replace(paged, cursor=first.cursor))
        assert (second.generation, [hit.doc_id for hit in second.hits]) == (1, order[1:2])
        third = router.search(replace(paged, cursor=second.cursor, explain=True))
        assert [hit.doc_id for hit in third.hits] == order[2:3]
        assert third.hits[0].explanation is not None
        state = read_collection(site.paths)
        assert state is not None
        old, live = state.generations
        swap_collection(site.paths, state, replace(state, generations=(replace(old, status="dropped"), live)))
        with pytest.raises(CursorError, match="generation 1 of this cursor is gone"):
            router.search(replace(paged, cursor=second.cursor))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qdrant-edge")]


def test_stores_open_once_for_requests_side_by_side(site: Site) -> None:
    site.ingest(1, TEXTS)

    async def scene() -> None:
        router = Router.open(site.config, site.folder)
        answers = await asyncio.gather(*(router.search(SearchRequest(f"key {n}", STAFF)) for n in range(6)))
        assert all(len(answer.hits) == 4 for answer in answers)
        await router.aclose()

    asyncio.run(scene())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qdrant-edge")]


def test_clients_that_leave_do_not_begin_the_opening_again(site: Site) -> None:
    site.ingest(1, TEXTS)
    begun: list[str] = []

    def slowly(kind: str, options: StoreOptions) -> Searcher:
        begun.append(options.name)
        time.sleep(0.3)
        return open_searcher(kind, options)

    async def scene() -> None:
        stores = LiveGeneration(site.config, site.folder, slowly)

        async def count(seconds: float) -> int:
            async with asyncio.timeout(seconds), stores.pin() as pinned:
                return await pinned.searchers["main"].count(Everything(), 5.0)

        hasty = await asyncio.gather(*(count(0.05) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(each, TimeoutError) for each in hasty)
        assert await count(10.0) == 4
        assert begun == ["main"]
        await stores.aclose()

    asyncio.run(scene())


def test_requests_side_by_side_open_another_generations_model_once(site: Site, tiny_model: Path) -> None:
    site.ingest(1, TEXTS[:1])
    state = read_collection(site.paths)
    assert state is not None
    named = replace(state.generations[0], model=str(tiny_model))

    async def scene() -> None:
        others = OtherModels(ModelSection(name="m3-small"), site.folder)
        found = await asyncio.gather(*(others.find(named) for _ in range(8)))
        assert found[0] is not None
        assert all(each is found[0] for each in found)
        assert await others.find(replace(named, encoder_fingerprint="float-other")) is None
        await others.aclose()

    asyncio.run(scene())


def test_nothing_ingested_yet(site: Site) -> None:
    with SyncRouter.open(site.config, site.folder) as router, pytest.raises(UsageError) as caught:
        router.search(SearchRequest("key", STAFF))
    assert (caught.value.message, caught.value.remedy) == (
        "collection 'handbook' has nothing to search yet: no run was finished",
        "m3 ingest",
    )


def test_damaged_state_is_named(site: Site) -> None:
    site.ingest(1, TEXTS[:1])
    site.paths.collection_file.write_text("{}")
    with SyncRouter.open(site.config, site.folder) as router, pytest.raises(StateError, match=r"collection\.json"):
        router.search(SearchRequest("key", STAFF))


def test_another_model_is_refused_before_its_weights_are_loaded(site: Site, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_model

    site.ingest(1, TEXTS[:1])
    other = make_tiny_model(tmp_path / "other", seed=1)
    config = site.config.model_copy(update={"model": ModelSection(name=str(other))})
    with SyncRouter.open(config, site.folder) as router:
        with pytest.raises(ModelError, match="their vectors do not meet"):
            router.search(SearchRequest("key", STAFF))
        assert "_encoder" not in vars(router.router.encoder)

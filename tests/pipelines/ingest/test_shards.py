"""The join by shards gives every document the class that DuckDB's join of everything gives it."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from pathlib import Path
from random import Random

import pytest

from pipelines.ingest import diff
from pipelines.ingest.listing import Listing, Place, write_places
from pipelines.ingest.shards import Buckets, Counts, Joined, gather_later, join_shard, waiting_in_shard, write_later
from pipelines.ingest.stores import Standing
from pipelines.state.documents import DocumentRecord
from pipelines.state.manifest import Manifest
from tests.pipelines.ingest.parts import paths_in, record_of

STORES = ("main", "words")
CLASSES = ("read", "pending", "waiting", "unchanged", "gone", "kept", "owed", "removed", "duplicate")


def some_record(doc_id: str, chance: Random) -> DocumentRecord:
    status = {store: chance.choice(["done", "done", "pending"]) for store in STORES}
    removed = chance.random() < 0.15
    if removed:  # such a row stays only while a store has still to delete
        status[chance.choice(STORES)] = "pending"
    return record_of(
        doc_id,
        [] if removed else [f"{doc_id}#0"],
        status=status,
        source=chance.choice(["docs", "rows"]),
        stamp=chance.choice(["s", "t"]),
        removed=removed,
        obsolete_chunk_ids=("old",) if chance.random() < 0.1 else (),
    )


def some_place(doc_id: str, chance: Random, number: int) -> Place:
    source, stamp = chance.choice(["docs", "rows"]), chance.choice(["s", "s", "t"])
    return Place(
        "default", doc_id, source, f"{doc_id}@{number}", stamp, chance.randrange(100), number // 20, number % 20
    )


@pytest.mark.parametrize("seed", range(12))
def test_both_joins_agree(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    names = [f"d{number:03}" for number in range(150)]
    manifest = Manifest(paths_in(tmp_path), 1)
    manifest.append(1, 1, [some_record(name, chance) for name in names if chance.random() < 0.7])
    if chance.random() < 0.5:
        manifest.compact()
    places = [
        some_place(name, chance, number)
        for number, name in enumerate(chance.choices(names, k=130 if chance.random() < 0.8 else 0))
    ]
    standing = Standing(
        STORES,
        frozenset(name for name in STORES if chance.random() < 0.2),
        {name: None for name in STORES if chance.random() < 0.3},
    )
    incomplete = frozenset(name for name in ("docs", "rows") if chance.random() < 0.3)
    work_folder, later = tmp_path / "work", tmp_path / "later"
    work_folder.mkdir()
    later.mkdir()
    write_places(places, work_folder / "listing.parquet")
    listing = Listing(work_folder / "listing.parquet", len(places), 0, (), {}, incomplete)
    whole = diff.join(listing, manifest, work_folder, standing)

    buckets = Buckets.of(manifest.shards, 0, chance.choice([1, 3, 200]))
    parts = buckets.sort(places)
    joined = [
        join_shard(parts.get(bucket, ()), manifest.within(*buckets.bounds(bucket)), standing, incomplete)
        for bucket in range(buckets.count)
    ]
    for bucket, one in enumerate(joined):
        write_later(one.later, later / f"{bucket}.parquet")
    counts = reduce(Counts.plus, (one.counts for one in joined), Counts())
    assert counts.classes == {name: count for name, count in whole.counts.items() if count}
    assert (counts.listed_bytes, counts.known) == (whole.listed_bytes, whole.known)
    gathered = gather_later(later, tmp_path / "later.parquet")
    work = diff.Work(gathered, counts.classes, counts.listed_bytes, counts.known, whole.wanted)
    for records in (diff.gone_records, diff.removed_records):
        assert sorted_keys(records(work, manifest)) == sorted_keys(records(whole, manifest))
    assert sorted(diff.duplicates(work)) == sorted(diff.duplicates(whole))
    assert keys(diff.pending_records(whole, manifest)) == keys(record for one in joined for record in one.waiting)
    assert wanted_by(joined) == {(p.split, p.number) for p in places if whole.wanted.has(p.source, p.locator)}


def test_what_waits_is_found_without_a_listing_as_duckdb_finds_it(tmp_path: Path) -> None:
    chance = Random(5)
    manifest = Manifest(paths_in(tmp_path), 1)
    manifest.append(1, 1, [some_record(f"d{number}", chance) for number in range(100)])
    standing = Standing(STORES, absent={"words": None})
    whole = diff.find_waiting(manifest, tmp_path, standing)
    buckets = Buckets(manifest.shards, 4)
    joined = [waiting_in_shard(manifest.within(*buckets.bounds(bucket)), standing) for bucket in range(4)]
    counts = reduce(Counts.plus, (one.counts for one in joined), Counts())
    assert Counter(counts.classes) == Counter(whole.counts)
    assert counts.classes["pending"] > 10
    assert keys(diff.pending_records(whole, manifest)) == keys(record for one in joined for record in one.waiting)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 255, 256])
def test_buckets_have_every_shard_once(count: int) -> None:
    buckets = Buckets(256, count)
    bounds = [buckets.bounds(bucket) for bucket in range(count)]
    assert [shard for first, last in bounds for shard in range(first, last + 1)] == list(range(256))


def wanted_by(joined: list[Joined]) -> set[tuple[int, int]]:
    return {(split, number) for one in joined for split, numbers in one.wanted.items() for number in numbers}


def sorted_keys(batches: object) -> list[tuple[str, str]]:
    return keys(record for batch in batches for record in batch)  # type: ignore[attr-defined]


def keys(records: object) -> list[tuple[str, str]]:
    return sorted(record.key for record in records)  # type: ignore[attr-defined]

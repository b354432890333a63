"""A collection of any size for the load test, from the vectors that a smaller one has in its lake.

python -m tests.bench.serve_rows --like m3.toml --rows 40000 --out FOLDER

Reads the chunks and the lake of the collection that m3.toml names, changes nothing there, and writes FOLDER/m3.toml, a
collection of --rows rows in one embedded store: every chunk again and again, as a document of its own, its dense
vector turned a little so that no two are equal. What a search costs is that of real rows; what it finds means nothing.
"""

from __future__ import annotations

import argparse
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np

from connectors.registry import open_sink
from m3core.config.load import LoadedConfig, load_config
from m3core.types import ChunkVectors, Row
from pipelines.state.chunks import ChunkFiles, read_keys
from pipelines.state.collection import CollectionState, Generation, StoreBinding, read_collection, swap_collection
from pipelines.state.lake import Lake
from pipelines.state.paths import StatePaths
from pipelines.state.stores import store_options
from tests.conformance.store import publish

BATCH = 256
NOISE = 0.02
ALL = ("dense", "lexical", "multi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="configuration of a collection with a lake")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    source = load_config(options.like, os.environ)
    paths = StatePaths.of((source.base / source.config.storage.path).absolute(), source.config.collection.name)
    state = read_collection(paths)
    if state is None or state.current_generation is None:
        parser.error(f"{options.like}: nothing was ingested there")
    generation = state.current_generation
    options.out.mkdir(parents=True)
    made = replace(
        generation, number=1, stores=(StoreBinding("main", "qdrant-edge", ALL, True),), status="live", retired=""
    )
    target = describe(source, options.out)
    write(made, target, islice(repeated(paths, generation), options.rows), options.rows)


def describe(source: LoadedConfig, out: Path) -> LoadedConfig:
    """The new collection's m3.toml, with the model of the old one."""
    model, name = source.config.model.name, source.config.collection.name
    text = (
        f'[collection]\nname = "{name}"\n[model]\nname = "{model}"\n'
        '[sources.none]\nkind = "folder"\npath = "none"\n[stores.main]\nkind = "qdrant-edge"\n'
    )
    (out / "m3.toml").write_text(text, encoding="utf-8")
    return load_config(out / "m3.toml", os.environ)


def write(generation: Generation, target: LoadedConfig, rows: Iterator[Row], total: int) -> None:
    """The rows into the store, the generation live."""
    storage = (target.base / target.config.storage.path).absolute()
    options = store_options(generation, generation.stores[0], target.config, base=target.base, storage=storage)
    sink = open_sink("qdrant-edge", options)
    sink.ensure(options.schema)
    written = 0
    while batch := list(islice(rows, BATCH)):
        result = sink.write(batch)
        assert not result.failures, result.failures[:1]
        written += len(batch)
        print(f"{written:,} of {total:,} rows", flush=True)
    publish(sink)
    sink.close()
    name = target.config.collection.name
    swap_collection(StatePaths.of(storage, name), None, CollectionState(1, name, 1, 1, (generation,)))


def repeated(paths: StatePaths, generation: Generation) -> Iterator[Row]:
    """The collection's rows, again and again, each time as others."""
    rows = list(stored(paths, generation))
    for turn, row in ((turn, row) for turn in count() for row in rows):
        chunk = row.chunk
        new_id = uuid.uuid5(uuid.UUID(chunk.id), str(turn))
        vectors = turned(row.vectors, np.random.default_rng(new_id.int % (1 << 63)))
        yield replace(row, chunk=replace(chunk, id=str(new_id), doc_id=f"{chunk.doc_id}-{turn}"), vectors=vectors)


def stored(paths: StatePaths, generation: Generation) -> Iterator[Row]:
    """Every chunk whose vectors are in the lake."""
    files, lake = ChunkFiles(paths, generation.number), Lake(paths, generation.encoder_fingerprint, read_only=True)
    for _, file in files.files():
        ids = read_keys(file).column("id").to_pylist()
        for first in range(0, len(ids), BATCH):
            found = list(files.read(ids[first : first + BATCH]))
            refs = lake.find([each.lake_key for each in found])
            there = [each for each in found if each.lake_key in refs]
            for each, vectors in zip(there, lake.read([refs[each.lake_key] for each in there]), strict=True):
                yield Row(each.chunk, vectors, each.run)


def turned(vectors: ChunkVectors, rng: np.random.Generator) -> ChunkVectors:
    """Vectors near these: the dense one another, the lexical weights a little smaller, the multi-vectors the same."""
    moved = vectors.dense.astype(np.float32) + rng.normal(scale=NOISE, size=vectors.dense.shape).astype(np.float32)
    weights = (vectors.lexical_weights * rng.uniform(0.95, 1.0)).astype(np.float32)
    return replace(vectors, dense=(moved / np.linalg.norm(moved)).astype(np.float16), lexical_weights=weights)


if __name__ == "__main__":
    main()

"""How the stores of a generation are opened: what collection.json says of them, where the configuration puts them."""

from __future__ import annotations

from pathlib import Path

from connectors.connection import connection_of
from connectors.protocol import CollectionSchema, Connection, FieldType, StoreOptions
from m3core.config.model import Config
from m3core.errors import StateError
from m3core.types import Signal
from pipelines.state.collection import Generation, StoreBinding


def store_folder(storage: Path, store: str, collection: str) -> Path:
    """Folder of an embedded store for one collection."""
    return storage / "stores" / store / collection


def store_options(
    generation: Generation, binding: StoreBinding, config: Config, *, base: Path, storage: Path
) -> StoreOptions:
    """How to open one store of the generation, for reading; `base` is the configuration's folder.

    The generation keeps no address: a server's is the configuration's, none if that no longer names the store.
    """
    section = config.stores.get(binding.name)
    return StoreOptions(
        name=binding.name,
        root=store_folder(storage, binding.name, config.collection.name),
        schema=schema_of(generation, binding, config.collection.name),
        connection=Connection() if section is None else connection_of(section, base),
    )


def schema_of(generation: Generation, binding: StoreBinding, collection: str) -> CollectionSchema:
    """What one store must know of the generation. Raises StateError for a field of an unknown type."""
    try:
        fields = {name: FieldType(kind) for name, kind in generation.fields.items()}
    except ValueError:
        raise StateError(
            f"generation {generation.number} declares a field of an unknown type", "use the version that wrote it"
        ) from None
    return CollectionSchema(
        collection=collection,
        generation=generation.number,
        signals=frozenset(Signal(name) for name in binding.signals),
        dense_dim=generation.dense_dim,
        multi_dim=generation.multi_dim,
        fields=fields,
        keeps_text=binding.text,
        encoder_fingerprint=generation.encoder_fingerprint,
    )

"""Runs FlagEmbedding over the reference texts and writes the goldens of one model. Only in the reference environment.

    .venv-reference/bin/python -m tests.reference.golden MODEL --m3-small FOLDER

MODEL is xlmr-2-layer, m3-small, bge-m3-random, or a model folder. `make reference-goldens` calls it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference.golden_file import (
    PAIR_WEIGHTS,
    SMALL_MODELS,
    Golden,
    Origin,
    check_telling,
    fixed_point,
    golden_path,
    model_digest,
    sampled_positions,
    text_digest,
    token_digest,
    write_golden,
)
from tests.reference.make_models import model_folder
from tests.reference.texts import FEW, ReferenceText, chosen_texts

_RECORDED = ("FlagEmbedding", "transformers", "tokenizers", "torch", "numpy")
_QUERY_LIMIT = 512
_PASSAGE_LIMIT = 8192
_PAIRS = [
    ("query english", "passage english"),
    ("query english", "passage german"),
    ("query english", "passage one token"),
    ("query japanese", "passage japanese"),
    ("query japanese", "passage arabic"),
    ("query empty", "passage empty"),
    ("query empty", "passage english"),
]


@dataclass(frozen=True)
class Settings:
    """What a model folder says that FlagEmbedding has to be told."""

    folder: Path
    pooling: str
    multi_dim: int
    limit: int
    prefixes: dict[str, str]

    def max_length(self, kind: str) -> int:
        """Tokens of a query or a passage: a text over the model's positions would stop the reference."""
        return min(_QUERY_LIMIT if kind == "query" else _PASSAGE_LIMIT, self.limit)

    def prefixed(self, text: ReferenceText) -> str:
        """The text as it is encoded: `encode()` itself adds no prefix."""
        return self.prefixes.get(text.kind, "") + text.text


def read_settings(folder: Path) -> Settings:
    """Read them from the files of the folder, apart from threefold's own reader."""
    import torch

    config = _json(folder / "config.json")
    pooling = _json(folder / "1_Pooling/config.json")
    heads = torch.load(folder / "colbert_linear.pt", map_location="cpu", weights_only=True)
    return Settings(
        folder=folder,
        pooling="mean" if pooling.get("pooling_mode_mean_tokens") else "cls",
        multi_dim=int(heads["weight"].shape[0]),
        # XLM-RoBERTa's first position is 2, BERT's 0.
        limit=int(config["max_position_embeddings"]) - (2 if config["model_type"] == "xlm-roberta" else 0),
        prefixes=_json(folder / "config_sentence_transformers.json").get("prompts", {}),
    )


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value


def make_golden(settings: Settings, texts: Sequence[ReferenceText]) -> Golden:
    """Encode with FlagEmbedding in float32, one text a batch, and score every query against every passage."""
    from FlagEmbedding import BGEM3FlagModel  # type: ignore[import-not-found]  # only in the reference environment

    model = BGEM3FlagModel(
        str(settings.folder),
        use_fp16=False,
        devices=["cpu"],
        pooling_method=settings.pooling,
        colbert_dim=settings.multi_dim,
    )
    queries, passages = (list(_encode(model, settings, texts, kind)) for kind in ("query", "passage"))
    in_order = {"query": iter(queries), "passage": iter(passages)}
    rows = [next(in_order[text.kind]) for text in texts]
    pairs = _pairs(texts)
    positions = [sampled_positions(len(row.multi)) for row in rows]
    return Golden(
        origin=Origin(
            model=settings.folder.name,
            digest=model_digest(settings.folder),
            versions={name: version(name) for name in _RECORDED},
            texts=[text.name for text in texts],
        ),
        text_digests=np.array([text_digest(text.text) for text in texts], dtype=np.uint32),
        token_counts=np.array([len(row.ids) for row in rows], dtype=np.int32),
        token_digests=np.array([token_digest(row.ids) for row in rows], dtype=np.uint32),
        dense=np.stack([row.dense for row in rows]),
        lexical_starts=_starts([len(row.lexical) for row in rows]),
        lexical_ids=np.array([key for row in rows for key in row.lexical], dtype=np.uint32),
        lexical_weights=np.array([weight for row in rows for weight in row.lexical.values()], dtype=np.float32),
        multi_starts=_starts([len(places) for places in positions]),
        multi_positions=np.concatenate(positions),
        multi_values=fixed_point(np.concatenate([row.multi[at] for row, at in zip(rows, positions, strict=True)])),
        multi_means=np.stack([row.multi.mean(axis=0, dtype=np.float64) for row in rows]).astype(np.float32),
        dense_scores=np.array([[q.dense @ p.dense for p in passages] for q in queries], dtype=np.float32),
        lexical_scores=np.array(
            model.compute_lexical_matching_score([q.lexical for q in queries], [p.lexical for p in passages]),
            dtype=np.float32,
        ),
        multi_scores=np.array(
            [[float(model.colbert_score(q.multi, p.multi)) for p in passages] for q in queries], dtype=np.float32
        ),
        pairs=np.array(pairs, dtype=np.int32).reshape(-1, 2),
        pair_scores=_pair_scores(model, settings, [(texts[q], texts[p]) for q, p in pairs]),
    )


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    dense: Any
    lexical: dict[int, float]
    multi: Any


def _encode(model: Any, settings: Settings, texts: Sequence[ReferenceText], kind: str) -> Iterator[_Row]:
    """The texts of one kind, in order, each in a batch of its own so that nothing is padded."""
    prefixed = [settings.prefixed(text) for text in texts if text.kind == kind]
    given = model.encode(
        prefixed,
        batch_size=1,
        max_length=settings.max_length(kind),
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )
    tokens = model.tokenizer(prefixed, truncation=True, max_length=settings.max_length(kind))["input_ids"]
    for ids, dense, weights, multi in zip(
        tokens, given["dense_vecs"], given["lexical_weights"], given["colbert_vecs"], strict=True
    ):
        lexical = dict(sorted((int(key), float(weight)) for key, weight in weights.items()))
        yield _Row(ids, dense, lexical, multi)


def _starts(sizes: Sequence[int]) -> Any:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def _pairs(texts: Sequence[ReferenceText]) -> list[tuple[int, int]]:
    places = {text.name: place for place, text in enumerate(texts)}
    return [(places[query], places[passage]) for query, passage in _PAIRS if query in places and passage in places]


def _pair_scores(model: Any, settings: Settings, pairs: Sequence[tuple[ReferenceText, ReferenceText]]) -> Any:
    given = model.compute_score(
        [(settings.prefixed(query), settings.prefixed(passage)) for query, passage in pairs],
        batch_size=1,
        max_query_length=settings.max_length("query"),
        max_passage_length=settings.max_length("passage"),
        weights_for_different_modes=list(PAIR_WEIGHTS),
    )
    names = ("dense", "sparse", "colbert", "sparse+dense", "colbert+sparse+dense")
    return np.array([given[name] for name in names], dtype=np.float32).T


def main() -> None:
    """Make the goldens of one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--m3-small", type=Path, required=True, help="folder of the pulled m3-small")
    chosen = parser.parse_args()
    settings = read_settings(model_folder(chosen.model, chosen.m3_small))
    names = None if chosen.model in SMALL_MODELS else FEW
    golden = make_golden(settings, chosen_texts(names, long=settings.limit >= _PASSAGE_LIMIT))
    check_telling(golden)
    path = golden_path(chosen.model)
    write_golden(golden, path)
    print(f"{path}: {len(golden.token_counts)} texts, {path.stat().st_size:,} bytes, model {golden.origin.model}")


if __name__ == "__main__":
    main()

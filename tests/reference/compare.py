"""How far our encoder is from a model's goldens, text by text and pair by pair. Runs in threefold's own environment.

.venv/bin/python -m tests.reference.compare MODEL --m3-small FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3core import Encoder, scoring
from m3core.fusion import Weights, weighted_sum
from m3core.types import QueryVectors, Signal, TextKind
from tests.reference.golden_file import PAIR_WEIGHTS, Golden, golden_path, read_golden, text_digest, token_digest
from tests.reference.make_models import model_folder
from tests.reference.texts import ReferenceText, chosen_texts

REMAKE = "make it again: make reference-goldens"
FloatArray = npt.NDArray[np.float64]
# Encodes texts of one kind, in their order.
EncodeTexts = Callable[[Sequence[str], TextKind], list[QueryVectors]]


@dataclass(frozen=True)
class Differences:
    """Largest absolute difference of each of N texts, `[N]`, and of each query and passage, `[Q, P]`.

    `lexical` counts a token that only one side has with its whole weight. `pairs` `[K, 5]` is against `compute_score`.
    """

    texts: tuple[str, ...]
    dense: FloatArray
    lexical: FloatArray
    multi: FloatArray
    scores: Mapping[Signal, FloatArray]
    pairs: FloatArray

    def largest(self) -> dict[str, float]:
        """The largest difference of each kind that was measured, by name."""
        found = {"dense": self.dense, "lexical weights": self.lexical, "multi-vectors": self.multi}
        found |= {f"{signal} score": values for signal, values in self.scores.items()}
        found["compute_score"] = self.pairs
        return {name: float(values.max()) for name, values in found.items() if values.size}


def texts_of(golden: Golden) -> list[ReferenceText]:
    """The texts that the goldens are of. Raises ValueError if one has been rewritten since."""
    texts = list(chosen_texts(tuple(golden.origin.texts), long=True))
    for text, digest in zip(texts, golden.text_digests.tolist(), strict=True):
        if text_digest(text.text) != digest:
            raise ValueError(f"{text.name!r} in tests/reference/texts.py is not the text of the golden; {REMAKE}")
    return texts


def load_exact(folder: Path) -> Encoder:
    """Our encoder as the goldens are compared with it: in float32 on the CPU, whatever would be faster."""
    return Encoder.load(folder, device="cpu", precision="float32")


def encode_with(encoder: Encoder, batch_tokens: int) -> EncodeTexts:
    """Encoding by one call of `encoder` with this token budget."""

    def encode(texts: Sequence[str], kind: TextKind) -> list[QueryVectors]:
        encoded = encoder.encode(texts, kind, batch_tokens)
        assert encoded.dense is not None
        assert encoded.lexical is not None
        assert encoded.multi is not None
        return [
            QueryVectors(encoded.dense[i], *encoded.lexical.row(i), encoded.multi.row(i)) for i in range(len(encoded))
        ]

    return encode


def differing_tokens(golden: Golden, encoder: Encoder, texts: Sequence[ReferenceText]) -> list[str]:
    """Names of the texts whose token ids are not the reference's: everything else would differ for that reason."""
    names = []
    for text, digest in zip(texts, golden.token_digests.tolist(), strict=True):
        spec = encoder.spec
        (ids,), _ = encoder.tokenizer.encode([text.text], spec.prefix(text.kind), spec.limit(text.kind))
        if token_digest(ids) != digest:
            names.append(text.name)
    return names


def compare(golden: Golden, texts: Sequence[ReferenceText], encode: EncodeTexts) -> Differences:
    """Encode texts of the golden, all or some, and measure how far each result is from it."""
    rows = _encode_all(texts, encode)
    places = {name: place for place, name in enumerate(golden.origin.texts)}
    queries, passages = ([text for text in texts if text.kind == kind] for kind in ("query", "passage"))
    of_scores = np.ix_(_ranks(golden, queries), _ranks(golden, passages))
    expected = {
        Signal.DENSE: golden.dense_scores,
        Signal.LEXICAL: golden.lexical_scores,
        Signal.MULTI: golden.multi_scores,
    }
    found = {
        signal: np.array([[score(rows[query.name], rows[passage.name]) for passage in passages] for query in queries])
        for signal, score in _SCORES.items()
    }
    names = golden.origin.texts
    return Differences(
        texts=tuple(rows),
        dense=np.array([np.abs(_dense(row) - golden.dense[places[name]]).max() for name, row in rows.items()]),
        lexical=np.array([_lexical_difference(row, golden.lexical(places[name])) for name, row in rows.items()]),
        multi=np.array([_multi_difference(row, golden, places[name]) for name, row in rows.items()]),
        scores={signal: np.abs(found[signal] - expected[signal][of_scores]) for signal in found},
        pairs=np.array(
            [
                np.abs(score_pair(rows[names[q]], rows[names[p]]) - given)
                for (q, p), given in zip(golden.pairs.tolist(), golden.pair_scores, strict=True)
                if names[q] in rows and names[p] in rows
            ]
        ),
    )


def _encode_all(texts: Sequence[ReferenceText], encode: EncodeTexts) -> dict[str, QueryVectors]:
    rows: dict[str, QueryVectors] = {}
    kinds: tuple[TextKind, ...] = ("query", "passage")
    for kind in kinds:
        of_kind = [text for text in texts if text.kind == kind]
        vectors = encode([text.text for text in of_kind], kind)
        rows |= {text.name: row for text, row in zip(of_kind, vectors, strict=True)}
    return {text.name: rows[text.name] for text in texts}


def _ranks(golden: Golden, texts: Sequence[ReferenceText]) -> list[int]:
    """The rows (or columns) of the scores that belong to texts of one kind."""
    kind = {text.kind for text in texts}
    names = [text.name for text in chosen_texts(tuple(golden.origin.texts), long=True) if text.kind in kind]
    return [names.index(text.name) for text in texts]


def _dense(row: QueryVectors) -> npt.NDArray[np.float32]:
    assert row.dense is not None
    return row.dense


def _multi(row: QueryVectors) -> npt.NDArray[np.float32]:
    assert row.multi is not None
    return row.multi


def _lexical(row: QueryVectors) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    assert row.lexical_ids is not None
    assert row.lexical_weights is not None
    return row.lexical_ids, row.lexical_weights


_SCORES: Mapping[Signal, Callable[[QueryVectors, QueryVectors], float]] = {
    Signal.DENSE: lambda query, passage: float(scoring.dense(_dense(query), _dense(passage)[None])[0]),
    Signal.LEXICAL: lambda query, passage: scoring.lexical(*_lexical(query), *_lexical(passage)),
    Signal.MULTI: lambda query, passage: scoring.max_sim(_multi(query), _multi(passage)),
}


def _lexical_difference(row: QueryVectors, expected: Mapping[int, float]) -> float:
    ids, weights = _lexical(row)
    found = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    keys = found.keys() | expected.keys()
    return max((abs(found.get(key, 0.0) - expected.get(key, 0.0)) for key in keys), default=0.0)


def _multi_difference(row: QueryVectors, golden: Golden, i: int) -> float:
    vectors = _multi(row)
    # One vector a token but for the first: another number of them is as far as two unit vectors can be.
    if len(vectors) != golden.token_counts[i] - 1:
        return 2.0
    positions, expected = golden.multi(i)
    mean = vectors.mean(axis=0, dtype=np.float64)
    return float(max(np.abs(vectors[positions] - expected).max(), np.abs(mean - golden.multi_means[i]).max()))


def score_pair(query: QueryVectors, passage: QueryVectors) -> FloatArray:
    """Our scores in the order of the reference's `pair_scores`: three raw ones and two weighted sums, (5,)."""
    raw = {signal: score(query, passage) for signal, score in _SCORES.items()}
    weights = Weights(*PAIR_WEIGHTS)
    two, three = weights.normalised((Signal.DENSE, Signal.LEXICAL)), weights.normalised()
    return np.array([*(raw[signal] for signal in Signal), weighted_sum(raw, two), weighted_sum(raw, three)])


def main() -> None:
    """Print the largest differences of one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--m3-small", type=Path, required=True, help="folder of the pulled m3-small")
    chosen = parser.parse_args()
    golden = read_golden(golden_path(chosen.model))
    encoder, texts = load_exact(model_folder(chosen.model, chosen.m3_small)), texts_of(golden)
    print(f"{golden.origin.model}: {len(texts)} texts, {int(golden.token_counts.sum()):,} tokens")
    print("texts with other tokens:", ", ".join(differing_tokens(golden, encoder, texts)) or "none")
    print("largest differences:")
    for name, value in compare(golden, texts, encode_with(encoder, batch_tokens=4096)).largest().items():
        print(f"  {name:16} {value:.1e}")


if __name__ == "__main__":
    main()

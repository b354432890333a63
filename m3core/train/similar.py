"""Batches whose passages resemble one another: wrong answers that are hard, without more text to read.

Random passages of one language teach little after some hundred steps: the right one is the only one on the question's
subject. Groups of passages with shared character trigrams (TF-IDF, Salton and Buckley 1988) put others on the subject
beside it, as topic-aware batches do (Hofstätter et al. 2021, arXiv:2104.06967), and cost no forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from m3core.types import Float32Array

# Width of the hashed trigrams; passages of some hundred characters fill a twentieth of it.
_WIDTH = 8192
_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint64)
# Passages more alike than this may answer the same question.
_TOO_ALIKE = 0.6
GROUP = 8
_CANDIDATES = 8 * GROUP


def similar_batches(
    passages: Sequence[str], groups: Sequence[str], size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """One epoch of index batches in random order, each of one group, made of sets of `GROUP` similar passages.

    No passage is twice in a batch: its questions are spread over rounds. A group's last batch has at least a third of
    `size`; fewer are left out, because locales of one page must not meet as wrong answers.
    """
    whole: list[list[int]] = []
    for members in _rounds(passages, groups):
        sets = similar_sets(trigram_vectors([passages[i] for i in members]), rng)
        order = [place for one in sets for place in one]
        cut = [[members[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
        whole += [part for part in cut if len(part) >= size // 3]
    for place in rng.permutation(len(whole)).tolist():
        yield whole[place]


def trigram_vectors(texts: Sequence[str]) -> Float32Array:
    """TF-IDF of hashed character trigrams (there or not), unit length, `[N, _WIDTH]`; zeros for a shorter text."""
    present = np.zeros((len(texts), _WIDTH), dtype=np.float32)
    for row, text in zip(present, texts, strict=True):
        row[_hashed_trigrams(text)] = 1.0
    rarity = np.log((1 + len(texts)) / (1 + present.sum(axis=0)))
    present *= rarity.astype(np.float32)
    lengths = np.linalg.norm(present, axis=1, keepdims=True)
    present /= np.where(lengths > 0, lengths, np.float32(1))
    return present


def _hashed_trigrams(text: str) -> npt.NDArray[np.uint64]:
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < len(_FACTORS):
        return codes[:0]
    windows = np.lib.stride_tricks.sliding_window_view(codes, len(_FACTORS))
    hashed: npt.NDArray[np.uint64] = ((windows * _FACTORS).sum(axis=1) >> np.uint64(16)) % np.uint64(_WIDTH)
    return hashed


def _rounds(passages: Sequence[str], groups: Sequence[str]) -> list[list[int]]:
    """Indices by group, each passage once a round."""
    rounds: dict[tuple[str, int], list[int]] = defaultdict(list)
    asked: dict[tuple[str, str], int] = defaultdict(int)
    for index, key in enumerate(zip(groups, passages, strict=True)):
        rounds[key[0], asked[key]].append(index)
        asked[key] += 1
    return list(rounds.values())


def similar_sets(vectors: Float32Array, rng: np.random.Generator) -> list[list[int]]:
    """All rows of `[N, D]` in sets of at most `GROUP`, each a random row and its nearest free ones, in random order.

    A set holds no two rows with a product over `_TOO_ALIKE`, and none that shares nothing with its first.
    """
    free = np.ones(len(vectors), dtype=bool)
    sets = []
    for seed in rng.permutation(len(vectors)).tolist():
        if not free[seed]:
            continue
        free[seed] = False
        alike = np.where(free, vectors @ vectors[seed], 0.0)
        chosen = [seed]
        for near in np.argsort(-alike, kind="stable")[:_CANDIDATES].tolist():
            if alike[near] <= 0 or len(chosen) == GROUP:
                break
            if (vectors[chosen] @ vectors[near]).max() <= _TOO_ALIKE:
                chosen.append(near)
        free[chosen] = False
        sets.append(chosen)
    return [sets[place] for place in rng.permutation(len(sets)).tolist()]

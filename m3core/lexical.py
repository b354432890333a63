"""Lexical weights from per-token weights: relu, maximum per token id, special tokens dropped. Vectorised, any batch."""

from __future__ import annotations

import numpy as np

from m3core.types import Float32Array, Int64Array, LexicalBatch, UInt32Array

# A row number and a token id share one sort key; XLM-R ids need 18 bits.
_ID_BITS = 32


def pool_token_weights(
    rows: Int64Array, token_ids: Int64Array, weights: Float32Array, dropped_ids: Int64Array, texts: int
) -> LexicalBatch:
    """Maximum weight of each (text, token id), weights > 0 only, `dropped_ids` left out.

    `rows`, `token_ids` and `weights` are `[P]`: position p belongs to text `rows[p]` in 0..texts-1. `weights` come
    after the relu of the head. (M3-Embedding, section 3.2; FlagEmbedding drops cls, eos, pad and unk.)
    """
    keep = (weights > 0) & ~np.isin(token_ids, dropped_ids)
    key = (rows[keep] << _ID_BITS) | token_ids[keep]
    order = np.argsort(key, kind="stable")
    key, kept = key[order], weights[keep][order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, dtype=np.int64)
    best: Float32Array = np.maximum.reduceat(kept, starts) if len(key) else np.zeros(0, dtype=np.float32)
    unique = key[starts]
    ids: UInt32Array = (unique & ((1 << _ID_BITS) - 1)).astype(np.uint32)
    indptr = np.searchsorted(unique >> _ID_BITS, np.arange(texts + 1)).astype(np.int64)
    return LexicalBatch(indptr, ids, best.astype(np.float32, copy=False))

"""Which tokens a passage shares with the query, and which passage token each query token met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from m3core import scoring
from m3core.types import Float32Array, QueryVectors, TextKind, UInt32Array
from pipelines.query.answer import Alignment, Explanation, MatchedToken

if TYPE_CHECKING:
    from m3core.encoder import Encoder

# Token ids, ascending, and their weights.
Lexical = tuple[UInt32Array, Float32Array]

# Texts of a page that are encoded again to explain them; hits beyond it come without an explanation.
MAX_EXPLAINED = 20


def explain_texts(encoder: Encoder, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
    """One explanation per encoded text (heading context and body), computed from vectors made anew.

    They equal the stored ones up to the stores' precision: same text, same encoder.
    """
    encoded = encoder.encode(list(texts), "passage")
    query_tokens = multi_tokens(encoder, query, "query")
    explanations = []
    for place, text in enumerate(texts):
        tokens: tuple[MatchedToken, ...] = ()
        alignments: tuple[Alignment, ...] = ()
        if encoded.lexical is not None and vectors.lexical_ids is not None and vectors.lexical_weights is not None:
            tokens = shared_tokens(encoder, (vectors.lexical_ids, vectors.lexical_weights), encoded.lexical.row(place))
        if encoded.multi is not None and vectors.multi is not None:
            passage_tokens = multi_tokens(encoder, text, "passage")
            alignments = align(vectors.multi, query_tokens, encoded.multi.row(place), passage_tokens)
        explanations.append(Explanation(tokens, alignments))
    return explanations


def shared_tokens(encoder: Encoder, query: Lexical, passage: Lexical) -> tuple[MatchedToken, ...]:
    """The tokens that query and passage share, each with its two weights, largest product first."""
    shared = scoring.token_contributions(*query, *passage)
    names = encoder.tokenizer.tokens([token for token, _ in shared])
    return tuple(
        MatchedToken(name, product, _weight(query, token), _weight(passage, token))
        for name, (token, product) in zip(names, shared, strict=True)
    )


def _weight(lexical: Lexical, token: int) -> float:
    ids, weights = lexical
    return float(weights[int(ids.searchsorted(token))])


def align(
    query: Float32Array, query_tokens: Sequence[str | None], passage: Float32Array, passage_tokens: Sequence[str | None]
) -> tuple[Alignment, ...]:
    """Per query token of the text the passage token that it met, highest dot product first.

    A token None (prefix or special) stands for no word of the text: as a query token it is left out, as a passage
    token it is shown empty.
    """
    if not len(query) or not len(passage):
        return ()
    places, values = scoring.alignments(query, passage)
    met = [
        Alignment(token, passage_tokens[int(place)] or "", float(value))
        for token, place, value in zip(query_tokens, places, values, strict=True)
        if token
    ]
    return tuple(sorted(met, key=lambda each: -each.value))


def multi_tokens(encoder: Encoder, text: str, kind: TextKind) -> list[str | None]:
    """The token string behind each multi-vector; None for the model's prefix and the closing eos."""
    prefix = encoder.spec.prefix(kind)
    ids = encoder.tokenizer.encode([text], prefix, encoder.spec.limit(kind))[0][0]
    # Multi-vectors begin after cls; the prefix's tokens come first. Its closing blank belongs to the word after it.
    with_prefix, alone = encoder.tokenizer.count([f"{prefix}a", "a"])
    skipped = with_prefix - alone
    names = encoder.tokenizer.tokens(ids[1:])
    return [None if place < skipped or place == len(names) - 1 else name for place, name in enumerate(names)]

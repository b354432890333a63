"""What the lexical head has learned: the tokens that weigh most and least in each language, and how many a text keeps.

    python tests/bench/vocabulary.py --corpus passages.parquet [--model m3-small] [--languages de en ja ...]

The corpus is a Parquet file with `text` and `language`. A token's figure is its mean weight over the texts that hold
it, among tokens that at least --least of the drawn texts hold: rarer ones would only show single texts. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from m3core.encoder import Encoder
from m3core.types import Signal

_LANGUAGES = ("ar", "de", "en", "fi", "ja", "ko", "ru", "sw", "th", "tr", "zh")


@dataclass(frozen=True)
class Vocabulary:
    """Of one language: mean counts per text, and (token, mean weight) of the heaviest and the lightest."""

    language: str
    texts: int
    distinct: float
    kept: float
    heaviest: tuple[tuple[str, float], ...]
    lightest: tuple[tuple[str, float], ...]


def vocabulary(encoder: Encoder, language: str, texts: Sequence[str], least: int, top: int) -> Vocabulary:
    """Encode the texts of a language and sum up its tokens."""
    ids, _ = encoder.tokenizer.encode(texts, encoder.spec.prefix("passage"), encoder.spec.max_length)
    weightless = set(encoder.tokenizer.special.weightless)
    distinct = np.mean([len({*text} - weightless) for text in ids])
    lexical = encoder.encode(texts, "passage").lexical
    assert lexical is not None, "asked for"
    weights = defaultdict[int, list[float]](list)
    for token, value in zip(lexical.ids.tolist(), lexical.weights.tolist(), strict=True):
        weights[token].append(value)
    means = sorted(((float(np.mean(found)), token) for token, found in weights.items() if len(found) >= least))
    names = encoder.tokenizer.tokens([token for _, token in means])
    ordered = [(name, mean) for name, (mean, _) in zip(names, means, strict=True)]
    kept = len(lexical.ids) / len(texts)
    heaviest, lightest = ordered[: -top - 1 : -1], ordered[:top]
    return Vocabulary(language, len(texts), float(distinct), kept, tuple(heaviest), tuple(lightest))


def row(found: Vocabulary) -> str:
    """A line of the table."""

    def said(tokens: Sequence[tuple[str, float]]) -> str:
        return " ".join(f"`{token}`" for token, _ in tokens)

    share = found.kept / found.distinct
    span = f"{found.heaviest[0][1]:.2f} to {found.lightest[0][1]:.2f}" if found.heaviest else "-"
    return (
        f"| {found.language} | {found.texts} | {found.distinct:.0f} | {found.kept:.0f} ({share:.0%}) | {span} "
        f"| {said(found.heaviest)} | {said(found.lightest)} |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="Parquet: text, language")
    parser.add_argument("--model", default="m3-small")
    parser.add_argument("--languages", nargs="+", default=list(_LANGUAGES))
    parser.add_argument("--texts", type=int, default=200, help="of a language, at most")
    parser.add_argument("--least", type=int, default=5, help="texts that must hold a token")
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoder = Encoder.load(options.model, signals=[Signal.LEXICAL])
    by_language = defaultdict[str, list[str]](list)
    for passage in pq.read_table(options.corpus, columns=["text", "language"]).to_pylist():
        by_language[passage["language"]].append(passage["text"])
    print("| language | texts | distinct tokens a text | of these above 0 | weights | heaviest | lightest |")
    print("|---|---:|---:|---:|---|---|---|")
    for language in options.languages:
        texts = by_language[language]
        some = np.random.default_rng(options.seed).permutation(len(texts))[: options.texts].tolist()
        if some:
            drawn = [texts[i] for i in some]
            print(row(vocabulary(encoder, language, drawn, options.least, options.top)), flush=True)
        else:
            print(f"no text of {language!r} in {options.corpus}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

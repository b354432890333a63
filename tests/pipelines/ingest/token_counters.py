"""Tokenizers of every kind that chunking must be exact with, made in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

_SAMPLE = (
    "The travel desk books the night train, and the ticket is refunded within thirty days of the journey. "
    "Der Nachtzug wird von der Reisestelle gebucht. 夜行列車は旅行係が予約します。 Ночной поезд бронирует отдел. "
)


class Tokens:
    """The chunker's protocol over a `tokenizers` tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).offsets)


@cache
def characters() -> Tokens:
    """One token per code point that is not white space; NFKC first, so that some code points are many tokens."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")]
    )
    return Tokens(tokenizer)


@cache
def words() -> Tokens:
    """One token per word and per mark of punctuation: quick on long texts."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokens(tokenizer)


@cache
def utf8_bytes() -> Tokens:
    """One token per byte of UTF-8, white space included: four for an emoji."""
    alphabet = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return Tokens(tokenizer)


@cache
def doublings() -> Tokens:
    """One token per eight equal letters `a`, as a real vocabulary has them; other characters are unknown words."""
    vocabulary = {"?": 0, "a": 1, "aa": 2, "aaaa": 3, "aaaaaaaa": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "a"), ("aa", "aa"), ("aaaa", "aaaa")], unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokens(tokenizer)


@cache
def word_pieces() -> Tokens:
    """A small Unigram model with word-start marks, as the XLM-R family has."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([_SAMPLE] * 5, trainer)
    return Tokens(tokenizer)


KINDS = {"characters": characters, "bytes": utf8_bytes, "word pieces": word_pieces}

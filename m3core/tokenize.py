"""The model's own tokenizer: ids for the encoder, counts and offsets for the chunker, token strings for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from m3core.checkpoint import ModelSpec

_OWN_TOKENIZER = "use the tokenizer.json that belongs to the model"
_SPECIALS = {"cls": ("<s>", "[CLS]"), "eos": ("</s>", "[SEP]"), "pad": ("<pad>", "[PAD]"), "unk": ("<unk>", "[UNK]")}


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the tokens that never carry lexical weight."""

    cls: int
    eos: int
    pad: int
    unk: int

    @property
    def weightless(self) -> tuple[int, ...]:
        """All of them. (`<mask>` is not dropped, as in the reference.)"""
        return self.cls, self.eos, self.pad, self.unk


@dataclass(frozen=True)
class TextTokenizer:
    """A `tokenizer.json`. Picklable; the file is read at first use."""

    folder: Path

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Open the tokenizer of a model folder. Raises ModelError if there is none."""
        if not (folder / "tokenizer.json").is_file():
            raise ModelError(f"{folder}: tokenizer.json is missing", "a model folder in BGE-M3's layout has one")
        return cls(folder)

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[Path]]:
        return type(self), (self.folder,)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - the Rust library raises bare Exception
            raise ModelError(
                f"{self.folder}: tokenizer.json cannot be read ({error})", "fetch the model again"
            ) from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def special(self) -> SpecialIds:
        """Ids of cls, eos, pad and unk. Raises ModelError if the vocabulary lacks one."""
        found: dict[str, int] = {}
        for role, spellings in _SPECIALS.items():
            ids = [token for token in map(self._tokenizer.token_to_id, spellings) if token is not None]
            if not ids:
                raise ModelError(f"{self.folder}: tokenizer has no {role} token", _OWN_TOKENIZER)
            found[role] = ids[0]
        return SpecialIds(**found)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(
        self, texts: Sequence[str], prefix: str, max_length: int, cls_stride: int | None = None
    ) -> tuple[list[list[int]], list[bool]]:
        """Token ids of prefix + text with cls and eos, at most `max_length` of them, and whether each was cut.

        Truncation keeps the closing eos. With `cls_stride` every `cls_stride`-th token is a cls put in between (MCLS).
        """
        encodings = self._tokenizer.encode_batch_fast([prefix + text for text in texts])
        rows: list[list[int]] = []
        truncated: list[bool] = []
        for encoding in encodings:
            ids = encoding.ids if cls_stride is None else _with_cls(encoding.ids, cls_stride)
            truncated.append(len(ids) > max_length)
            rows.append(ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]])
        return rows, truncated

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without specials and prefix."""
        return [
            len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Code-point span of each token of the text, without specials."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def special_overhead(self, prefix: str) -> int:
        """Tokens that specials and prefix add to a text: what a chunk must leave free below the model's limit."""
        return len(self._tokenizer.encode(prefix).ids)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Token strings as people read them: the word-start mark becomes nothing."""
        return [(self._tokenizer.id_to_token(int(token)) or "").replace("\u2581", "") for token in ids]


def load_tokenizer(spec: ModelSpec) -> TextTokenizer:
    """The tokenizer of a model. Raises ModelError if there is none, or if it is another model's.

    It may not have more ids than the backbone, and its special tokens must be those that config.json names.
    """
    tokenizer = TextTokenizer.load(spec.folder)
    if tokenizer.vocabulary_size > spec.architecture.vocabulary:
        raise ModelError(
            f"{spec.folder}: the tokenizer has {tokenizer.vocabulary_size} ids, the backbone only "
            f"{spec.architecture.vocabulary}",
            _OWN_TOKENIZER,
        )
    for role, wanted in spec.special_ids.items():
        found = getattr(tokenizer.special, role)
        if found != wanted:
            raise ModelError(
                f"{spec.folder}: the tokenizer's {role} token has id {found}, config.json says {wanted}", _OWN_TOKENIZER
            )
    return tokenizer


def _with_cls(ids: list[int], stride: int) -> list[int]:
    """`ids` begin with cls and end with eos; the text between them gets a cls in front of each `stride` - 1 tokens."""
    cls, *text, eos = ids
    parts = [text[start : start + stride - 1] for start in range(0, len(text), stride - 1)] or [[]]
    return [token for part in parts for token in (cls, *part)] + [eos]

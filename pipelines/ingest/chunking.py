"""Token-exact chunks: never over the limit, stable under edits elsewhere, with spans that point back into the text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from m3core.errors import ConfigError, DocumentError
from m3core.types import Chunk, Document, encoded_text
from pipelines.ingest.boundaries import Atoms, TokenOffsets, TokenStarts
from pipelines.ingest.ids import chunk_id, text_hash
from pipelines.ingest.outline import SEPARATOR, Section, sections
from pipelines.ingest.packing import SPAN, content_weights, divide, pack_evenly
from pipelines.ingest.sentences import grapheme_floor

# Part of the collection fingerprint: raise it when the same text would be cut otherwise.
CHUNKER_VERSION = "chunker-2"

MIN_TOKENS = 32
# Headings above a chunk take at most this share of its tokens.
_CONTEXT_SHARE = 4
# A section longer than this many code points per token is certainly no single chunk: it is not tried as one.
_LONG = 16
_COUNT_TEXTS = 256
_COUNT_CHARACTERS = 1 << 20

_WORD = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class ChunkingConfig:
    """`max_tokens` bounds context, newline and body together, without specials and the model's prefix: the caller has
    taken these off the model's limit. `overlap_tokens` of the text before a cut are repeated after it."""

    max_tokens: int
    overlap_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Planned:
    """A section of the document with that number, and the context of its first chunk."""

    number: int
    section: Section
    context: str


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk to be: its span, its context, and its tokens as the tokenizer counts the encoded text."""

    start: int
    end: int
    context: str
    tokens: int


class Chunker:
    """Cuts documents into chunks.

    Chunks begin anew at headings. A section that is too long is cut between paragraphs, else sentences, lines, words,
    tokens, at places that its content chooses, so that an edit changes only chunks nearby. `text[start:end]` of the
    document is the chunk's text, white space at its ends left out, and every other character lies in some chunk.
    """

    def __init__(self, tokenizer: TokenOffsets, config: ChunkingConfig) -> None:
        """Raises ConfigError if the limit is under 32 tokens or the overlap is over half of it."""
        if config.max_tokens < MIN_TOKENS:
            raise ConfigError(
                f"chunking.max_tokens leaves {config.max_tokens} tokens for text; {MIN_TOKENS} are needed",
                "raise it or take a model with a longer input",
            )
        if not 0 <= config.overlap_tokens <= config.max_tokens // 2:
            raise ConfigError(
                f"chunking.overlap_tokens = {config.overlap_tokens} is not in 0 to {config.max_tokens // 2}",
                "0 is advised",
            )
        self._tokenizer = tokenizer
        self._config = config

    def chunks(self, document: Document, collection: str) -> list[Chunk]:
        """The chunks of one document, in order.

        Raises:
            DocumentError: one character alone has more tokens than a chunk may have.
        """
        return self.chunks_many([document], collection)[0]

    def chunks_many(self, documents: Sequence[Document], collection: str) -> list[list[Chunk]]:
        """The chunks of each document; the same as one by one, but the tokenizer works on many texts at once.

        Raises:
            DocumentError: one character alone has more tokens than a chunk may have.
        """
        planned = [
            _Planned(number, section, self._context(section.opening))
            for number, document in enumerate(documents)
            for section in _trimmed(document)
        ]
        pieces: list[list[_Piece]] = [[] for _ in documents]
        for plan, whole in zip(planned, self._wholes(documents, planned), strict=True):
            document = documents[plan.number]
            pieces[plan.number].extend([whole] if whole else self._cut(document, plan.section, plan.context))
        return [list(_finished(*made, collection)) for made in zip(documents, pieces, strict=True)]

    def _wholes(self, documents: Sequence[Document], planned: Sequence[_Planned]) -> list[_Piece | None]:
        """For each section its one chunk, or None if it needs cutting."""
        tried = [n for n, plan in enumerate(planned) if plan.section.length <= _LONG * self._config.max_tokens]
        counts = self._count(
            encoded_text(planned[n].context, _text(documents[planned[n].number], planned[n].section)) for n in tried
        )
        wholes: list[_Piece | None] = [None] * len(planned)
        for n, tokens in zip(tried, counts, strict=True):
            if tokens <= self._config.max_tokens:
                section = planned[n].section
                wholes[n] = _Piece(section.start, section.end, planned[n].context, tokens)
        return wholes

    def _cut(self, document: Document, section: Section, opening: str) -> list[_Piece]:
        """Chunks of a section that is too long for one."""
        path = self._context(section.path)
        budget = self._config.max_tokens - self._config.overlap_tokens - max(self._count([f"{opening}\n", f"{path}\n"]))
        budget = max(budget - 1, MIN_TOKENS // 4)
        tokens = TokenStarts(self._tokenizer, document.text, section.start, section.end)
        atoms = Atoms(document, section, tokens, budget)
        spans: list[tuple[int, int]] = []
        for first, last in _packed(atoms, budget):
            start, end = _strip(document.text, atoms.starts[first], atoms.starts[last])
            if start < end:
                spans.append((self._overlapped(document.text, tokens, section.start, start), end))
        contexts = [opening if number == 0 else path for number in range(len(spans))]
        return self._verified(document.text, spans, contexts)

    def _overlapped(self, text: str, tokens: TokenStarts, section: int, start: int) -> int:
        """Where a chunk begins that repeats what stands before `start`: at a word if there is one."""
        if not self._config.overlap_tokens or start == section:
            return start
        earliest = tokens.places[max(0, tokens.before(start) - self._config.overlap_tokens)]
        earliest = max(section, earliest)
        word = _WORD.search(text, max(section, earliest - 1), start)
        begin = word.end() if word and word.end() < start else grapheme_floor(text, earliest)
        return _strip(text, max(section, begin), start)[0]

    def _verified(self, text: str, spans: list[tuple[int, int]], contexts: list[str]) -> list[_Piece]:
        """The spans as pieces. One whose text has more tokens than the parts that were counted is halved."""
        counts = self._count(encoded_text(c, text[start:end]) for c, (start, end) in zip(contexts, spans, strict=True))
        pieces: list[_Piece] = []
        for (start, end), context, tokens in zip(spans, contexts, counts, strict=True):
            if tokens <= self._config.max_tokens:
                pieces.append(_Piece(start, end, context, tokens))
            elif end - start > 1:
                halves = _halves(text, start, end)
                pieces.extend(self._verified(text, halves, [context] * len(halves)))
            elif context:
                pieces.extend(self._verified(text, [(start, end)], [""]))
            else:
                raise DocumentError(
                    f"the character at code point {start} has {tokens} tokens; chunks have {self._config.max_tokens}",
                    "remove the character or raise chunking.max_tokens",
                )
        return pieces

    def _context(self, titles: Sequence[str]) -> str:
        """The titles as one line of at most a quarter of the limit: inner ones go first, then the ends are cut."""
        share = self._config.max_tokens // _CONTEXT_SHARE
        kept = list(titles)
        while len(kept) > 2 and not self._fits(SEPARATOR.join(kept), share):
            del kept[1]
        context = SEPARATOR.join(kept)
        allowance = share // max(1, len(kept))
        while context and not self._fits(context, share):
            context = SEPARATOR.join(filter(None, (self._head(title, allowance) for title in kept)))
            allowance -= 1
        return context

    def _fits(self, context: str, share: int) -> bool:
        # Counting is only needed where one token a byte would be too many.
        return len(context.encode()) <= share or self._count([context])[0] <= share

    def _head(self, title: str, tokens: int) -> str:
        offsets = self._tokenizer.offsets(title)
        if len(offsets) <= tokens:
            return title
        return title[: grapheme_floor(title, offsets[max(0, tokens)][0])].rstrip()

    def _count(self, texts: Iterable[str]) -> list[int]:
        """Tokens of each text; the tokenizer gets them in batches of bounded size."""
        counts: list[int] = []
        batch: list[str] = []
        characters = 0
        for text in texts:
            if batch and (len(batch) >= _COUNT_TEXTS or characters + len(text) > _COUNT_CHARACTERS):
                counts.extend(self._tokenizer.count(batch))
                batch, characters = [], 0
            batch.append(text)
            characters += len(text)
        return [*counts, *self._tokenizer.count(batch)] if batch else counts


def _packed(atoms: Atoms, budget: int) -> list[tuple[int, int]]:
    """Ranges of atoms that share a chunk, in order."""
    last = len(atoms.kinds)
    if atoms.cumulative[last] - atoms.cumulative[0] <= SPAN * budget:
        return pack_evenly(atoms.cumulative, 0, last, budget)
    weights = content_weights(atoms.kinds, atoms.digests())
    parts = divide(atoms.cumulative, weights, budget)
    return [packed for first, end in parts for packed in pack_evenly(atoms.cumulative, first, end, budget)]


def _trimmed(document: Document) -> Iterator[Section]:
    for section in sections(document):
        start, end = _strip(document.text, section.start, section.end)
        if start < end:
            yield replace(section, start=start, end=end)


def _text(document: Document, section: Section) -> str:
    return document.text[section.start : section.end]


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; empty if there is nothing else."""
    led = text[start:end].lstrip()
    start = end - len(led)
    return start, start + len(led.rstrip())


def _halves(text: str, start: int, end: int) -> list[tuple[int, int]]:
    middle = (start + end) // 2
    word = max(text.rfind(" ", start, middle), text.rfind("\n", start, middle)) + 1
    cut = word if word > (start + middle) // 2 else grapheme_floor(text, middle)
    cut = cut if cut > start else middle
    return [span for span in (_strip(text, start, cut), _strip(text, cut, end)) if span[0] < span[1]]


def _finished(document: Document, pieces: Sequence[_Piece], collection: str) -> Iterator[Chunk]:
    """Chunks with their ids; equal texts of one document are told apart by their occurrence."""
    seen: Counter[str] = Counter()
    for ordinal, piece in enumerate(pieces):
        text = document.text[piece.start : piece.end]
        digest = text_hash(encoded_text(piece.context, text))
        yield Chunk(
            id=chunk_id(document.tenant, collection, document.doc_id, digest, seen[digest]),
            tenant=document.tenant,
            doc_id=document.doc_id,
            ordinal=ordinal,
            text=text,
            context=piece.context,
            span=(piece.start, piece.end),
            token_count=piece.tokens,
            title=document.title,
            language=document.language,
            metadata=document.metadata,
            acl=document.acl,
        )
        seen[digest] += 1

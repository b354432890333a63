"""Chunks: exact in tokens, whole in text, stable under edits, quick on hostile input."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m3core.checkpoint import read_spec
from m3core.errors import ConfigError, DocumentError
from m3core.tokenize import TextTokenizer
from m3core.types import Chunk, Document, Markup
from pipelines.ingest.boundaries import TokenOffsets
from pipelines.ingest.chunking import Chunker, ChunkingConfig
from pipelines.ingest.ids import chunk_id, text_hash
from tests.pipelines.ingest.token_counters import KINDS, Tokens, characters, doublings, utf8_bytes, word_pieces, words


def document(text: str, title: str = "", markup: Markup = "plain", language: str = "en") -> Document:
    return Document("acme", "d", text, title, language, {"year": 2024}, ("staff",), markup)


def check(chunks: list[Chunk], source: Document, tokens: TokenOffsets, config: ChunkingConfig) -> None:
    """Every promise that holds for any document."""
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    counts = tokens.count([chunk.encoded_text for chunk in chunks]) if chunks else []
    covered: set[int] = set()
    for chunk, count in zip(chunks, counts, strict=True):
        start, end = chunk.span
        assert source.text[start:end] == chunk.text
        assert chunk.text
        assert chunk.text == chunk.text.strip()
        assert chunk.token_count == count <= config.max_tokens
        covered.update(range(start, end))
    assert all(place in covered or char.isspace() for place, char in enumerate(source.text))
    spans = [chunk.span for chunk in chunks]
    assert spans == sorted(spans)
    if not config.overlap_tokens:
        assert all(first[1] <= second[0] for first, second in pairwise(spans))


any_character = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("aab .!?\n\n\t#-=`>。！؟।\u200b\u200d\u0301\ufdfa\U0001f469\U0001f3fd\U0001f1e9"),
)
any_text = st.one_of(
    st.text(any_character, max_size=400),
    st.lists(st.text(any_character, max_size=60), max_size=30).map("\n\n".join),
    st.builds(lambda part, times: part * times, st.text(any_character, min_size=1, max_size=12), st.integers(1, 300)),
)


@settings(max_examples=250)
@given(
    text=any_text,
    title=st.text(any_character, max_size=120),
    markup=st.sampled_from(["plain", "markdown"]),
    kind=st.sampled_from(sorted(KINDS)),
    limit=st.integers(32, 120),
    overlap=st.sampled_from([0, 0, 0, 5, 16]),
)
@example("\ufdfa" * 60, "", "plain", "characters", 32, 0)
@example("\U0001f469\U0001f3fd\u200d" * 40, "t", "plain", "bytes", 32, 0)
@example("a" + "\u0301" * 300, "", "plain", "bytes", 32, 16)
def test_any_text_of_any_plane_at_any_limit(
    text: str, title: str, markup: Markup, kind: str, limit: int, overlap: int
) -> None:
    tokens = KINDS[kind]()
    config = ChunkingConfig(limit, overlap)
    source = document(text, title, markup)
    check(Chunker(tokens, config).chunks(source, "c"), source, tokens, config)


def test_a_short_document_is_one_chunk_with_its_title_as_context() -> None:
    source = document("Nine o'clock at the front desk.", "Keys")
    (chunk,) = Chunker(word_pieces(), ChunkingConfig(64)).chunks(source, "handbook")
    assert (chunk.context, chunk.text, chunk.span) == ("Keys", source.text, (0, len(source.text)))
    assert chunk.encoded_text == "Keys\nNine o'clock at the front desk."
    assert (chunk.title, chunk.language, chunk.metadata, chunk.acl) == ("Keys", "en", {"year": 2024}, ("staff",))
    assert chunk.id == chunk_id("acme", "handbook", "d", text_hash(chunk.encoded_text), 0)


def test_many_documents_at_once_give_the_same_chunks_as_one_by_one() -> None:
    chunker = Chunker(word_pieces(), ChunkingConfig(40))
    documents = [document(f"# Day {n}\n\n" + "The night train. " * n, "Diary", "markdown") for n in range(1, 40)]
    documents.append(documents[3])
    assert chunker.chunks_many(documents, "c") == [chunker.chunks(one, "c") for one in documents]
    assert chunker.chunks_many([], "c") == []


def test_headings_begin_chunks_and_become_context() -> None:
    text = "Intro.\n\n# Travel\n\n## Trains\n\n" + "The night train is refunded. " * 24 + "\n\n## Planes\n\nNever."
    chunks = Chunker(word_pieces(), ChunkingConfig(160)).chunks(document(text, "Handbook", "markdown"), "c")
    assert [(chunk.text.partition("\n")[0], chunk.context) for chunk in chunks if chunk.ordinal in {0, 1}] == [
        ("Intro.", "Handbook"),
        ("# Travel", "Handbook"),
    ]
    assert chunks[1].text.startswith("# Travel\n\n## Trains\n\nThe night train")
    assert {chunk.context for chunk in chunks[2:-1]} == {"Handbook > Travel > Trains"}
    assert (chunks[-1].text, chunks[-1].context) == ("## Planes\n\nNever.", "Handbook > Travel")


def test_a_title_that_the_first_heading_says_is_not_said_twice() -> None:
    chunks = Chunker(word_pieces(), ChunkingConfig(64)).chunks(document("# Keys\n\nAt nine.", "Keys", "markdown"), "c")
    assert [(chunk.context, chunk.text) for chunk in chunks] == [("", "# Keys\n\nAt nine.")]


def test_plain_text_has_no_headings() -> None:
    chunks = Chunker(word_pieces(), ChunkingConfig(64)).chunks(document("# one\n\ntext\n\n# two\n\ntext"), "c")
    assert [chunk.context for chunk in chunks] == [""]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_headings_take_at_most_a_quarter_of_a_chunk(kind: str) -> None:
    tokens = KINDS[kind]()
    heads = "\n\n".join(f"{'#' * level} {'夜行列車 train ' * 12}{level}" for level in range(1, 7))
    source = document(f"{heads}\n\n" + "Words and words. " * 60, "The handbook " * 9, "markdown")
    chunks = Chunker(tokens, ChunkingConfig(64)).chunks(source, "c")
    contexts = tokens.count([chunk.context for chunk in chunks])
    assert max(contexts) <= 16
    assert contexts[-1] > 4
    check(chunks, source, tokens, ChunkingConfig(64))


def test_sentences_stay_whole_where_they_fit() -> None:
    sentence = "The ticket of Dr. Smith is refunded within 3.5 days."
    chunks = Chunker(characters(), ChunkingConfig(100)).chunks(document(" ".join([sentence] * 9)), "c")
    assert {chunk.text for chunk in chunks} == {f"{sentence} {sentence}", sentence}


def test_a_character_is_not_cut_though_its_tokens_could_be() -> None:
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    chunks = Chunker(utf8_bytes(), ChunkingConfig(50)).chunks(document(family * 20), "c")
    assert len(chunks) > 5
    assert all(chunk.text == family * (len(chunk.text) // len(family)) for chunk in chunks)


def test_equal_texts_in_one_document_are_told_apart() -> None:
    chunks = Chunker(characters(), ChunkingConfig(32)).chunks(document("\n\n".join(["a" * 30] * 3)), "c")
    digest = text_hash("a" * 30)
    assert [chunk.id for chunk in chunks] == [chunk_id("acme", "c", "d", digest, n) for n in range(3)]


def test_overlap_repeats_words_before_a_cut() -> None:
    words = " ".join(f"w{n:03d}" for n in range(100))
    plain = Chunker(characters(), ChunkingConfig(80)).chunks(document(words), "c")
    overlapping = Chunker(characters(), ChunkingConfig(80, 12)).chunks(document(words), "c")
    assert not any(first.span[1] > second.span[0] for first, second in pairwise(plain))
    for first, second in pairwise(overlapping):
        repeated = words[second.span[0] : first.span[1]].split()
        assert len(repeated) == 3
        assert second.text.split()[:3] == repeated


def _paragraphs(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(2, 7))) for _ in range(300)]
    return [" ".join(chance.choices(words, k=chance.randint(5, 25))) + "." for _ in range(count)]


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1 << 16),
    place=st.integers(0, 199),
    edit=st.sampled_from(["insert", "delete", "replace"]),
    limit=st.sampled_from([128, 256]),
)
def test_an_edit_moves_only_its_neighbours(seed: int, place: int, edit: str, limit: int) -> None:
    chunker = Chunker(characters(), ChunkingConfig(limit))
    paragraphs = _paragraphs(seed, 200)
    edited = paragraphs[:place] + {"insert": ["New."], "delete": [], "replace": ["Other."]}[edit]
    edited += paragraphs[place if edit == "insert" else place + 1 :]
    before = chunker.chunks(document("\n\n".join(paragraphs)), "c")
    after = chunker.chunks(document("\n\n".join(edited)), "c")
    new = Counter(chunk.id for chunk in after) - Counter(chunk.id for chunk in before)
    assert len(before) > 60
    assert new.total() <= 12
    changed = [chunk.ordinal for chunk in after if chunk.id in new]
    assert not changed or changed[-1] - changed[0] < 2 * 12


_PAGES, _PER_PAGE = 200, 5


@cache
def _book() -> tuple[list[str], frozenset[str]]:
    """The paragraphs of 200 pages and the ids of their chunks."""
    paragraphs = _pages(0, _PAGES)
    return paragraphs, frozenset(chunk.id for chunk in _book_chunks(paragraphs))


def _pages(seed: int, count: int) -> list[str]:
    """Five paragraphs of 40 to 110 words to the page, as in a report."""
    chance = random.Random(seed)
    words = [
        "train",
        "desk",
        "ticket",
        "refunded",
        "night",
        "journey",
        "thirty",
        "days",
        "books",
        "travel",
        "the",
        "of",
    ]
    numbered = [f"{word}{number}" for word in words for number in range(20)]
    return [" ".join(chance.choices(numbered, k=chance.randint(40, 110))) + "." for _ in range(count * _PER_PAGE)]


def _book_chunks(paragraphs: Sequence[str], page: Sequence[str] = ()) -> list[Chunk]:
    """The page comes first under the first heading."""
    chapters = [paragraphs[first : first + 50] for first in range(0, len(paragraphs), 50)]
    chapters[0] = [*page, *chapters[0]]
    text = "\n\n".join(f"# Chapter {number}\n\n" + "\n\n".join(chapter) for number, chapter in enumerate(chapters))
    return Chunker(words(), ChunkingConfig(512)).chunks(document(text, "Report", "markdown"), "c")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, _PAGES * _PER_PAGE - 1), st.floats(0.1, 1), st.integers(0, 12), st.integers(0, 12))
def test_an_edited_paragraph_of_200_pages_is_at_most_three_chunks(
    place: int, where: float, removed: int, added: int
) -> None:
    paragraphs, before = _book()
    old = paragraphs[place].split()
    at = int(where * (len(old) - 1))
    edited = [*old[:at], "edited", *["new"] * added, *old[at + removed :]]
    after = _book_chunks([*paragraphs[:place], " ".join(edited), *paragraphs[place + 1 :]])
    assert 1 <= len({chunk.id for chunk in after} - before) <= 3
    assert len(before) > 150


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 1 << 16))
def test_a_page_put_before_200_others_is_its_chunks_and_two(seed: int) -> None:
    paragraphs, before = _book()
    page = _pages(seed, 1)
    after = _book_chunks(paragraphs, page)
    own = [chunk for chunk in after if any(paragraph[:40] in chunk.text for paragraph in page)]
    assert 1 <= len({chunk.id for chunk in after} - before) <= len(own) + 2


def test_an_edit_under_one_heading_leaves_the_other_sections_alone() -> None:
    text = "".join(f"# Part {n}\n\n" + "The train of the night. " * 20 + "\n\n" for n in range(12))
    chunker = Chunker(word_pieces(), ChunkingConfig(64))
    before = {chunk.id for chunk in chunker.chunks(document(text, "T", "markdown"), "c")}
    after = chunker.chunks(document(text.replace("# Part 5\n\n", "# Part 5\n\nNew words here. "), "T", "markdown"), "c")
    changed = [chunk for chunk in after if chunk.id not in before]
    assert changed
    assert all(chunk.text.startswith("# Part 5") or chunk.context == "T > Part 5" for chunk in changed)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 10_000_000, id="10 MB of one word"),
        pytest.param("a" + "\u0301" * 300_000, id="an endless accent"),
        pytest.param("- a\n" * 100_000, id="a list"),
        pytest.param("(" * 200_000, id="brackets"),
        pytest.param("a" + " " * 1_000_000 + "b", id="blanks"),
        pytest.param("same.\n\n" * 50_000, id="equal paragraphs"),
    ],
)
def test_hostile_texts_take_seconds(text: str) -> None:
    started = time.process_time()
    chunks = Chunker(doublings(), ChunkingConfig(256)).chunks(document(text), "c")
    assert time.process_time() - started < 40
    assert chunks[0].span[0] == 0
    assert chunks[-1].span[1] == len(text.rstrip())


def test_equal_paragraphs_still_fill_chunks() -> None:
    chunks = Chunker(word_pieces(), ChunkingConfig(256)).chunks(document("same words.\n\n" * 5_000), "c")
    assert sum(chunk.token_count for chunk in chunks) / len(chunks) > 256 * 0.6


class _OneTooMany(Tokens):
    """Counts a text of several words as more than its words: as tokenizers may that merge across white space."""

    def count(self, texts: list[str]) -> list[int]:  # type: ignore[override]
        return [n + text.count(" ") // 2 for n, text in zip(super().count(texts), texts, strict=True)]


def test_a_chunk_that_counts_more_than_its_parts_is_cut_again() -> None:
    tokens = _OneTooMany(characters().tokenizer)
    source = document("ab cd ef gh ij. " * 60)
    config = ChunkingConfig(60)
    check(Chunker(tokens, config).chunks(source, "c"), source, tokens, config)


class _Hungry(Tokens):
    def count(self, texts: list[str]) -> list[int]:  # type: ignore[override]
        return [99 * ("x" in text) for text in texts]


def test_a_character_over_the_limit_is_refused_by_its_place() -> None:
    with pytest.raises(DocumentError, match=r"^the character at code point 3 has 99 tokens; chunks have 32\. Remedy: "):
        Chunker(_Hungry(characters().tokenizer), ChunkingConfig(32)).chunks(document("ab x"), "c")


@pytest.mark.parametrize(("limit", "overlap"), [(31, 0), (64, 33), (64, -1)])
def test_settings_out_of_range_are_refused(limit: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match=r"chunking\."):
        Chunker(characters(), ChunkingConfig(limit, overlap))


def test_metadata_does_not_change_chunk_ids() -> None:
    chunker = Chunker(characters(), ChunkingConfig(64))
    one = document("a b c")
    other = replace(one, metadata={}, acl=("else",), language="de")
    assert [c.id for c in chunker.chunks(one, "c")] == [c.id for c in chunker.chunks(other, "c")]


MIXED = (
    "# Nachtzug\n\nDer Nachtzug wird von der Reisestelle gebucht. Die Fahrkarte wird erstattet.\n\n"
    "## 夜行列車\n\n夜行列車は旅行係が予約します。切符は三十日以内に払い戻されます。\n\n"
    "रात की ट्रेन यात्रा कार्यालय बुक करता है। तीस दिन में पैसा वापस मिलता है।\n\n"
    "### รถไฟกลางคืน\n\nฝ่ายเดินทางเป็นผู้จองรถไฟกลางคืน คืนเงินภายในสามสิบวัน\n\n"
    "يحجز مكتب السفر القطار الليلي. تُرد قيمة التذكرة خلال ثلاثين يوماً. \U0001f682\ufdfa\n\n"
)


@pytest.mark.parametrize("model", ["tiny_model", "m3_small"])
def test_no_chunk_is_truncated_by_the_model(model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    spec = read_spec(folder)
    tokenizer = TextTokenizer.load(folder)
    config = ChunkingConfig(min(384, spec.max_length - tokenizer.special_overhead(spec.passage_prefix)))
    source = document(MIXED * 30 + "x" * 3000, "Reise", "markdown", "de")
    chunks = Chunker(tokenizer, config).chunks(source, "c")
    assert len(chunks) >= 90
    check(chunks, source, tokenizer, config)
    _, truncated = tokenizer.encode([chunk.encoded_text for chunk in chunks], spec.passage_prefix, spec.max_length)
    assert not any(truncated)

"""Real folders with everything that people and attackers leave in them."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest

from m3core.config.model import SourceSection
from m3core.errors import ConfigError, DocumentError, SourceError
from m3core.types import Document
from pipelines.ingest.sources import SkipKind, Skipped, Source, SourceItem, open_source
from pipelines.ingest.sources.files import open_below


def folder(path: Path, **settings: object) -> Source:
    section = SourceSection.model_validate({"kind": "folder", "path": path, "acl": ("staff",), **settings})
    return open_source("docs", section, Path("/"))


def listed(source: Source) -> tuple[list[SourceItem], dict[str, tuple[SkipKind, str]]]:
    entries = list(source.items())
    skipped = {entry.locator: (entry.kind, entry.reason) for entry in entries if isinstance(entry, Skipped)}
    return [entry for entry in entries if isinstance(entry, SourceItem)], skipped


def refused(source: Source, item: SourceItem) -> str:
    with pytest.raises(DocumentError) as caught:
        source.read(item)
    return caught.value.message


def test_files_become_documents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/travel-7.txt").write_bytes(b"# No heading.\r\nSecond line.\r\n")
    (tmp_path / "b.MD").write_text("\ufeffIntro\n\n# The **Title**\n\ntext", encoding="utf-8")
    (tmp_path / "a.text").write_text("ü", encoding="utf-16")
    source = folder(tmp_path, language="en", tenant="acme")
    items, skipped = listed(source)
    assert [source.read(item) for item in items] == [
        Document("acme", "a.text", "ü", "a", "en", {}, ("staff",), "plain"),
        Document("acme", "b/travel-7.txt", "# No heading.\nSecond line.\n", "travel-7", "en", {}, ("staff",), "plain"),
        Document("acme", "b.MD", "Intro\n\n# The **Title**\n\ntext", "The Title", "en", {}, ("staff",), "markdown"),
    ]
    assert (skipped, source.complete) == ({}, True)
    assert [source.identify(item) for item in items] == [("acme", item.locator) for item in items]


def test_what_is_not_read_is_counted_with_its_reason(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    root = tmp_path / "root"
    (root / "deep/.git").mkdir(parents=True)
    (root / "deep/.git/config.txt").write_text("x")
    (root / ".hidden.md").write_text("x")
    (root / "a.md").write_text("text")
    (root / "image.png").write_bytes(b"\0")
    (root / "Makefile").write_text("x")
    (root / "deep/up").symlink_to(root, target_is_directory=True)
    (root / "deep/self.md").symlink_to(root / "deep/self.md")
    (root / "gone.md").symlink_to(root / "nothing.md")
    (root / "out.md").symlink_to(outside / "secret.md")
    (root / "out").symlink_to(outside, target_is_directory=True)
    (root / "again.md").symlink_to("a.md")
    os.mkfifo(root / "pipe.md")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s.md"))
        source = folder(root)
        items, skipped = listed(source)
    assert [item.locator for item in items] == ["a.md"]
    unsupported = "its extension is not one of .txt, .text, .md, .markdown"
    assert skipped == {
        ".hidden.md": (SkipKind.HIDDEN, "its name begins with a dot"),
        "deep/.git": (SkipKind.HIDDEN, "its name begins with a dot"),
        "image.png": (SkipKind.UNSUPPORTED, unsupported),
        "Makefile": (SkipKind.UNSUPPORTED, unsupported),
        "deep/up": (SkipKind.LINK, "a link to a folder that it lies in"),
        "deep/self.md": (SkipKind.LINK, "a link that leads back to itself"),
        "gone.md": (SkipKind.LINK, "a link to nothing"),
        "out.md": (SkipKind.LINK, "a link out of the folder"),
        "out": (SkipKind.LINK, "a link out of the folder"),
        "again.md": (SkipKind.LINK, "a link; its target is read under its own path"),
        "pipe.md": (SkipKind.SPECIAL, "a pipe, not a regular file"),
        "s.md": (SkipKind.SPECIAL, "a socket, not a regular file"),
    }
    assert source.complete


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad.md: text is empty: 0 code points, all blank"),
        (b" \n\n", "bad.md: text is empty: 3 code points, all blank"),
        ("Schlüssel".encode("latin-1"), "bad.md: not UTF-8 at byte 4"),
        (b"ab\0", "bad.md: binary: a NUL at byte 2"),
        (b"x" * 1001, "bad.md: 1,001 bytes; max_document_bytes is 1,000"),
    ],
)
def test_a_bad_file_is_refused_and_the_others_are_read(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "bad.md").write_bytes(data)
    (tmp_path / "good.md").write_text("x" * 1000)
    source = folder(tmp_path, max_document_bytes=1000)
    (bad, good), _ = listed(source)
    assert refused(source, bad) == reason
    assert source.read(good).text == "x" * 1000


def test_a_file_that_vanishes_or_becomes_a_link_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for name in ("a.md", "b.md", "sub/c.md"):
        (root / name).write_text("text")
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "c.md").write_text("secret")
    source = folder(root)
    (first, second, third), _ = listed(source)
    (root / "a.md").unlink()
    (root / "b.md").unlink()
    (root / "b.md").symlink_to(tmp_path / "secret.md")
    (root / "sub/c.md").unlink()
    (root / "sub").rmdir()
    (root / "sub").symlink_to(tmp_path, target_is_directory=True)
    assert refused(source, first) == "a.md: gone since it was listed"
    assert refused(source, second).startswith("b.md: cannot be opened (")
    assert refused(source, third).startswith("sub/c.md: cannot be opened (")


def test_a_pipe_put_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    source = folder(tmp_path)
    (item,), _ = listed(source)
    (tmp_path / "a.md").unlink()
    os.mkfifo(tmp_path / "a.md")
    assert refused(source, item) == "a.md: no longer a regular file"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("text")

    def read_slowly() -> None:
        with open_below(tmp_path, "a.md") as opened:
            opened.read()
            file.write_text("other text")

    with pytest.raises(DocumentError, match=r"^changed while it was read\. Remedy: run again"):
        read_slowly()


def test_names_that_no_id_can_hold_are_faults(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("text")
    (tmp_path / "a\nb.md").write_text("text")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.md", os.O_CREAT | os.O_WRONLY))
    source = folder(tmp_path)
    entries = list(source.items())
    faults = [entry for entry in entries if isinstance(entry, Skipped)]
    assert {entry.locator for entry in faults} == {"a\\x0ab.md", "\\xdcff.md"}
    assert all(entry.failed and entry.kind is SkipKind.NAME for entry in faults)
    assert len(entries) == 3


def test_a_folder_that_cannot_be_listed_makes_the_listing_incomplete(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    parent = os.open(tmp_path, os.O_RDONLY)
    for _ in range(17):  # deeper than a path may be long
        os.mkdir("d" * 250, dir_fd=parent)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = inner
    os.close(parent)
    source = folder(tmp_path)
    items, skipped = listed(source)
    assert [item.locator for item in items] == ["a.md"]
    ((kind, reason),) = skipped.values()
    assert kind is SkipKind.UNREADABLE
    assert reason.endswith("(File name too long)")
    assert not source.complete


def test_stamps_change_with_the_file_and_with_the_settings(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    (before,), _ = listed(folder(tmp_path))
    assert listed(folder(tmp_path))[0] == [before]
    (other,), _ = listed(folder(tmp_path, acl=("board",)))
    os.utime(tmp_path / "a.md", ns=(1, 1))
    (touched,), _ = listed(folder(tmp_path))
    assert len({before.stamp, other.stamp, touched.stamp}) == 3


def test_order_is_the_same_however_the_files_came(tmp_path: Path) -> None:
    names = ["b/z.md", "b/a.md", "a.md", "Ä.md", "b.md", "c/d/e.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    expected = ["a.md", "b/a.md", "b/z.md", "b.md", "c/d/e.md", "Ä.md"]
    assert [item.locator for item in listed(folder(tmp_path))[0]] == expected


def test_a_folder_with_nothing_to_read_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "b.PDF").write_bytes(b"x")
    (tmp_path / ".c.md").write_bytes(b"x")
    with pytest.raises(SourceError) as caught:
        listed(folder(tmp_path))
    assert caught.value.message == (
        f"{tmp_path}: no file with one of .txt, .text, .md, .markdown; found: 2 .pdf, 1 hidden"
    )


@pytest.mark.parametrize("name", ["missing", "file.md"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.md").write_text("text")
    with pytest.raises(SourceError, match=r": no such folder\. Remedy: correct path of the source"):
        listed(folder(tmp_path / name))


def test_more_bytes_than_allowed_stop_the_listing(tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("x" * 60)
    with pytest.raises(SourceError, match=r"more than 100 bytes of text \(max_total_bytes\)"):
        listed(folder(tmp_path, max_total_bytes=100))


def test_a_folder_needs_a_default_acl(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^sources\.docs\.acl is missing"):
        folder(tmp_path, acl=None)


def test_the_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("text")
    section = SourceSection(kind="folder", path=Path("docs"), acl=("staff",))
    source = open_source("docs", section, tmp_path)
    assert [item.locator for item in listed(source)[0]] == ["a.md"]


def test_sources_and_items_travel_between_processes(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    source = folder(tmp_path)
    (item,), _ = listed(source)
    far, its_item = pickle.loads(pickle.dumps((source, item)))
    assert far.read(its_item) == source.read(item)
    assert isinstance(far, Source)

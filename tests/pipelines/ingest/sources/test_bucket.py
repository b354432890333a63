"""Sources in a bucket, on a real S3 server (moto's): what a folder gives, a bucket gives."""

from __future__ import annotations

import gzip
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3core.config.model import SourceSection
from m3core.errors import ConfigError, DocumentError, ExitCode, SourceError
from m3core.types import Document
from pipelines.ingest.sources import SkipKind, Skipped, Source, SourceItem, Split, SplitLimits, open_source
from pipelines.ingest.sources.bucket import BucketTree
from tests.pipelines.s3 import S3
from tests.servers.process import free_ports

FIELDS = {"source": "string", "year": "integer"}
KINDS = ["folder", "jsonl", "parquet"]


def source_of(kind: str, place: str | Path, **settings: object) -> Source:
    key = "path" if isinstance(place, Path) else "url"
    section = SourceSection.model_validate({"kind": kind, key: place, "acl": ("staff",), **settings})
    return open_source("s", section, Path("/"), FIELDS)  # type: ignore[arg-type]


def outcome(source: Source, item: SourceItem) -> Document | str:
    try:
        return source.read(item)
    except DocumentError as error:
        return error.message


def outcomes(source: Source) -> dict[str, Document | str]:
    """For each item its document, or why it was refused; for each skipped file its reason."""
    return {
        entry.locator: f"{entry.kind}: {entry.reason}" if isinstance(entry, Skipped) else outcome(source, entry)
        for entry in source.items()
    }


def splits_of(source: Source, most: int = 4000) -> list[Split]:
    return [one for one in source.splits(SplitLimits(most, 3)) if isinstance(one, Split)]


def items_of(source: Source) -> list[SourceItem]:
    return [one for one in source.items() if isinstance(one, SourceItem)]


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"doc_id": f"d{number}", "text": f"Text {number}. " * 20, "year": number, "title": "T", "metadata": {"k": "v"}}
        for number in range(first, first + count)
    ]


def write_texts(folder: Path) -> None:
    (folder / "b/deep/.git").mkdir(parents=True)
    (folder / "b/deep/.git/config.txt").write_text("x")
    (folder / "b/deep/.git/head.txt").write_text("x")
    (folder / "b/travel-7.txt").write_bytes(b"# No heading.\r\nSecond line.\r\n")
    (folder / "b.MD").write_text("\ufeffIntro\n\n# The **Title**\n\ntext", encoding="utf-8")
    (folder / "ü #?%20.md").write_text("a name with signs that addresses give a meaning")
    (folder / "empty.md").write_text("")
    (folder / "latin.md").write_bytes("Schlüssel".encode("latin-1"))
    (folder / "long.md").write_text("x" * 2001)
    (folder / "separator\u2028.md").write_text("x")
    (folder / ".hidden.md").write_text("x")
    (folder / "image.png").write_bytes(b"\0")
    (folder / "Makefile").write_text("x")


def write_lines(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(*rows(30)) + b"{broken\n\n[1]\n" + lines(*rows(3, 30)))
    (folder / "sub/b.jsonl.gz").write_bytes(gzip.compress(lines(*rows(5, 40))))
    (folder / "sub/c.jsonl.zst").write_bytes(pa.compress(lines(*rows(5, 50)), "zstd", asbytes=True))
    (folder / "sub/cut.jsonl.gz").write_bytes(gzip.compress(lines(*rows(5, 60)))[:-40])
    (folder / "sub/cut.jsonl.zst").write_bytes(pa.compress(lines(*rows(5, 70)), "zstd", asbytes=True)[:-9])
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "other.csv").write_bytes(b"x")


def write_tables(folder: Path) -> None:
    (folder / "sub").mkdir()
    pq.write_table(pa.Table.from_pylist(rows(40)), folder / "a.parquet", row_group_size=7)
    pq.write_table(pa.Table.from_pylist(rows(3, 50)), folder / "sub/b.parquet")
    (folder / "bad.parquet").write_bytes(b"PAR1 no more")
    (folder / "empty.parquet").write_bytes(b"")


WRITE: dict[str, Callable[[Path], None]] = {"folder": write_texts, "jsonl": write_lines, "parquet": write_tables}
FIRST = {"folder": "a.md", "jsonl": "a.jsonl", "parquet": "a.parquet"}


def one_file(kind: str, folder: Path, first: int = 0) -> bytes:
    """A file of the kind with some documents."""
    if kind == "folder":
        return f"# Note {first}\n\ntext".encode()
    if kind == "jsonl":
        return lines(*rows(20, first))
    pq.write_table(pa.Table.from_pylist(rows(20, first)), folder / "scratch", row_group_size=5)
    return (folder / "scratch").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_gives_what_a_folder_gives(kind: str, tmp_path: Path, s3: S3) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    WRITE[kind](folder)
    s3.copy(folder, "pre/fix")
    s3.put("pre/fixed/no.md", b"beside the prefix")
    local, far = (source_of(kind, place, max_document_bytes=2000) for place in (folder, f"{s3.url}/pre/fix"))
    assert outcomes(far) == outcomes(local)
    assert far.complete == local.complete == (kind == "folder")
    assert [item.locator for item in items_of(far)] != []


@pytest.mark.parametrize("name", ["a.jsonl", "sub/b.jsonl.gz", "sub/c.jsonl.zst", "a.parquet"])
def test_one_object_is_a_source_like_one_file(name: str, tmp_path: Path, s3: S3) -> None:
    kind = "parquet" if name.endswith(".parquet") else "jsonl"
    WRITE[kind](tmp_path)
    s3.copy(tmp_path, "all")
    local, far = source_of(kind, tmp_path / name), source_of(kind, f"{s3.url}/all/{name}")
    assert outcomes(far) == outcomes(local)
    assert far.complete
    found = [item for split in splits_of(far) for item in far.split_items(split)]
    assert found == [item for split in splits_of(local) for item in local.split_items(split)]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_have_together_what_the_listing_has(kind: str, tmp_path: Path, s3: S3) -> None:
    WRITE[kind](tmp_path)
    (tmp_path / "bad.parquet").unlink(missing_ok=True)
    (tmp_path / "empty.parquet").unlink(missing_ok=True)
    s3.copy(tmp_path, "all")
    source = source_of(kind, f"{s3.url}/all/")
    splits = splits_of(source)
    assert len(splits) > 1
    far = pickle.loads(pickle.dumps(source))
    found = [one for split in splits for one in far.split_items(split) if isinstance(one, SourceItem)]
    assert [(one.stamp, one.payload) for one in found] == [(one.stamp, one.payload) for one in items_of(source)]


def test_the_listing_is_a_stream_of_pages(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    keys = ["B.md", "a b.md", "a!.md", "a/x.md", "a/y/z.md", "a.md", "é.md", "\uffee.md", "\U0001f600.md"]
    for key in keys:
        s3.put(key, b"text")
    assert [item.locator for item in items_of(source_of("folder", s3.url))] == sorted(keys)


def test_markers_of_folders_are_no_objects(s3: S3) -> None:
    for key in ("p/", "p/a/", "p/a!.md", "p/a/b.md", "p/rows.md/", "p/rows.md/c.md", "p/z.md/"):
        s3.put(key, b"" if key.endswith("/") else b"text")
    source = source_of("folder", f"{s3.url}/p")
    assert [item.locator for item in items_of(source)] == ["a!.md", "a/b.md", "rows.md/c.md"]
    assert source.complete


@pytest.mark.parametrize("key", ["a//b.md", "a/../b.md", "a/./b.md", "a\x01b.md"])
def test_a_key_that_cannot_be_named_ends_the_listing(key: str, s3: S3) -> None:
    s3.put("p/a.md", b"text")
    s3.put(f"p/{key}", b"text")
    source = source_of("folder", f"{s3.url}/p")
    with pytest.raises(SourceError, match="invalid path") as caught:
        outcomes(source)
    assert key.replace("\x01", "\\x01") in caught.value.message
    assert not source.complete


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_changed_or_went_since_it_was_listed(kind: str, tmp_path: Path, s3: S3) -> None:
    """For each kind: a split that was cut before, and for folders an item that was listed before."""
    name = FIRST[kind]
    s3.put(f"p/{name}", one_file(kind, tmp_path))
    source = source_of(kind, f"{s3.url}/p")
    (split, *_), items = splits_of(source, 1000), items_of(source)

    def told() -> list[str]:
        if kind == "folder":
            return [str(outcome(source, items[0]))]
        return [entry.reason for entry in source.split_items(split) if isinstance(entry, Skipped)]

    prefix = f"{name}: " if kind == "folder" else ""
    s3.put(f"p/{name}", one_file(kind, tmp_path, 100))
    assert told() == [f"{prefix}changed since it was listed"]
    s3.delete(f"p/{name}")
    assert told() == [f"{prefix}gone since it was listed"]


def test_an_object_that_changes_while_it_is_read_is_refused(s3: S3) -> None:
    s3.put("a.jsonl", b"x" * (3 << 20))
    tree = BucketTree.at(s3.url, "sources.s.url")
    with tree.open("a.jsonl") as file:
        assert len(file.read(10)) == 10
        s3.put("a.jsonl", b"y" * (3 << 20))
        with pytest.raises(DocumentError, match=r"^changed while it was read\. Remedy: run again"):
            file.read()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_listing_meets_the_change_of_an_object(kind: str, tmp_path: Path, s3: S3) -> None:
    """It keeps what came before, as of a damaged file, and is not complete."""
    data = rows(60)
    for row in data:
        row["text"] *= 400
    file = tmp_path / "scratch"
    if kind == "jsonl":
        file.write_bytes(lines(*data))
    else:
        pq.write_table(pa.Table.from_pylist(data), file, row_group_size=1, compression="none", use_dictionary=False)
    assert file.stat().st_size > 3 << 20
    s3.put(f"p/{FIRST[kind]}", file.read_bytes())
    source = source_of(kind, f"{s3.url}/p")
    entries = source.items()
    next(entries)
    s3.put(f"p/{FIRST[kind]}", b"another")
    *_, last = entries
    assert isinstance(last, Skipped)
    assert (last.kind, last.reason) == (SkipKind.UNREADABLE, "changed while it was read")
    assert not source.complete


def test_an_object_that_comes_back_is_unchanged_and_one_that_does_not_is_no_more(s3: S3) -> None:
    s3.put("p/a.md", b"text")
    source = source_of("folder", f"{s3.url}/p")
    (before,) = items_of(source)
    s3.put("p/a.md", b"other text")
    (after,) = items_of(source)
    s3.put("p/a.md", b"text")
    assert items_of(source) == [before]
    assert after.stamp != before.stamp
    assert outcome(source, after) == "a.md: changed since it was listed"


def test_an_object_that_may_not_be_read_is_one_document(s3: S3) -> None:
    s3.put("p/a.md", b"text", StorageClass="GLACIER")
    s3.put("p/b.md", b"text")
    found = outcomes(source_of("folder", f"{s3.url}/p"))
    assert isinstance(found["b.md"], Document)
    assert str(found["a.md"]).startswith(f"a.md: cannot be opened ({s3.url}/p/a.md: ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_with_nothing_is_no_source(kind: str, s3: S3) -> None:
    s3.put("other/a.md", b"text")
    for source in (source_of(kind, f"{s3.url}/none"), source_of(kind, f"{s3.url}/none/")):
        with pytest.raises(SourceError, match=rf"{s3.url}/none/?: no (file|line|row)") as caught:
            outcomes(source)
        assert "correct url of the source" in caught.value.remedy
        assert not source.complete


@pytest.mark.parametrize(
    ("kind", "how"), [*((kind, "bucket") for kind in KINDS), ("folder", "server"), ("jsonl", "server")]
)
def test_a_bucket_that_cannot_be_reached(kind: str, how: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    url = f"{s3.url}{'-none' if how == 'bucket' else ''}/p"
    source = source_of(kind, url)
    for ask in (lambda: list(source.items()), lambda: list(source.splits(SplitLimits()))):
        with pytest.raises(SourceError, match=url) as caught:
            ask()
        assert "environment's credentials" in caught.value.remedy
        assert caught.value.exit_code is ExitCode.UNREACHABLE
        assert not source.complete


def test_a_bucket_that_goes_out_of_reach_is_not_a_fault_of_one_document(s3: S3) -> None:
    s3.put("p/a.md", b"text")
    source = source_of("folder", f"{s3.url}/p")
    (item,) = items_of(source)
    with Relay.to(s3.endpoint) as relay, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        source = source_of("folder", f"{s3.url}/p")
        assert isinstance(outcome(source, item), Document)
    with pytest.raises(SourceError, match=r"p/a\.md"):
        source.read(item)


@pytest.mark.parametrize("kind", KINDS)
def test_more_bytes_than_allowed_stop_the_listing(kind: str, tmp_path: Path, s3: S3) -> None:
    data = b"x" * 2001 if kind == "folder" else one_file(kind, tmp_path)
    s3.put(f"p/{FIRST[kind]}", data)
    source = source_of(kind, f"{s3.url}/p", max_total_bytes=2000)
    with pytest.raises(SourceError, match=rf"{s3.url}/p/?: .*more than 2,000 bytes.*\(max_total_bytes\)"):
        outcomes(source)
    assert not source.complete


def test_keys_that_do_not_ascend_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a directory bucket lists them; a server that says so itself."""
    rest = '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag><Size>1</Size>'
    entries = "".join(f"<Contents><Key>{key}</Key>{rest}</Contents>" for key in ("b.md", "a.md"))
    body = f"<ListBucketResult>{entries}</ListBucketResult>".encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "r"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        source = source_of("folder", "s3://bucket")
        with pytest.raises(SourceError, match=r"a\.md is listed behind b\.md; keys must ascend"):
            list(source.items())
        server.shutdown()
    assert not source.complete


@dataclass
class Relay:
    """A way to a server that counts what comes back."""

    endpoint: str
    received: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextmanager
    def to(cls, endpoint: str) -> Iterator[Relay]:
        """Open until left."""
        place = urlsplit(endpoint)

        class Connection(BaseRequestHandler):
            def handle(self) -> None:
                with closing(socket.create_connection((place.hostname or "", place.port or 0))) as far:
                    back = threading.Thread(target=relay.pump, args=(far, self.request, True))
                    back.start()
                    relay.pump(self.request, far, False)
                    back.join()

        class Server(ThreadingTCPServer):
            daemon_threads = True

        with Server(("127.0.0.1", 0), Connection) as server:
            relay = cls(f"http://127.0.0.1:{server.server_address[1]}")
            threading.Thread(target=server.serve_forever).start()
            yield relay
            server.shutdown()

    def pump(self, near: socket.socket, far: socket.socket, counted: bool) -> None:
        """Carry bytes one way until the end."""
        while data := near.recv(1 << 16):
            if counted:
                with self._lock:
                    self.received += len(data)
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_split_is_read_by_ranges(kind: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(200)
    for number, row in enumerate(data):
        row["text"] = f"{number} " * 20_000
    name = FIRST[kind]
    if kind == "jsonl":
        (tmp_path / name).write_bytes(lines(*data))
    else:
        plain = {"compression": "none", "use_dictionary": False}
        pq.write_table(pa.Table.from_pylist(data), tmp_path / name, row_group_size=10, **plain)
    size = (tmp_path / name).stat().st_size
    assert size > 12 << 20
    s3.put(name, (tmp_path / name).read_bytes())
    with Relay.to(s3.endpoint) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        source = source_of(kind, f"{s3.url}/{name}")
        splits = [one for one in source.splits(SplitLimits(1 << 20)) if isinstance(one, Split)]
        assert len(splits) > 10
        divided = relay.received
        assert divided < 2 << 20
        found = list(source.split_items(splits[-2]))
        assert 5 <= len(found) <= 20
        assert relay.received - divided < 5 << 20


def test_nothing_secret_travels_with_a_source(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert b"hunter2" not in pickle.dumps(source_of("folder", f"{s3.url}/p"))


def test_an_address_that_obstore_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^sources\.s\.url = 's3://bucket/a//b': "):
        source_of("jsonl", "s3://bucket/a//b")

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3core.errors import UsageError
from pipelines.cli.survey import survey

TEXT = "a text that is long enough to be taken for one"


def jsonl(path: Path, rows: int = 3) -> Path:
    lines = [json.dumps({"key": f"k{n}", "content": TEXT, "year": n}) for n in range(rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_folder_is_counted_as_the_source_would_read_it(tmp_path: Path) -> None:
    for name in ("a.md", "b.MD", "sub/c.txt", "sub/d.pdf", ".hidden/e.md", ".f.md", "sub/none"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "link.md").symlink_to(tmp_path / "a.md")
    (tmp_path / "loop").symlink_to(tmp_path)
    (found,) = survey(tmp_path)
    assert (found.kind, found.path, found.extensions, found.others) == ("folder", tmp_path, {".md": 2, ".txt": 1}, 2)


def test_files_of_records_in_a_folder_without_texts(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl")
    pq.write_table(pa.table({"doc_id": ["1", "2"], "text": [TEXT, TEXT], "n": [1, 2]}), tmp_path / "a.parquet")
    lines, rows = survey(tmp_path)
    assert (lines.kind, lines.path.name, rows.kind, rows.path.name) == ("jsonl", "b.jsonl", "parquet", "a.parquet")
    assert lines.columns is not None
    assert (lines.columns.id_field, lines.columns.text_field) == ("key", "content")
    assert rows.columns is not None
    assert rows.columns.fields == {"n": "integer"}


def test_several_files_of_one_kind_are_one_source(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl")
    jsonl(tmp_path / "b.jsonl")
    (found,) = survey(tmp_path)
    assert (found.kind, found.path, found.extensions) == ("jsonl", tmp_path, {".jsonl": 2})


def test_compressed_lines_are_read(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    (found,) = survey(tmp_path / "a.jsonl.gz")
    assert found.columns is not None
    assert found.columns.text_field == "content"


def test_broken_lines_do_not_hide_the_others(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl")
    file.write_bytes(b"{broken\n[1]\n\xff\xfe\n" + file.read_bytes())
    (found,) = survey(file)
    assert found.columns is not None
    assert found.columns.id_field == "key"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent", "absent: no such file or folder"),
        (lambda folder: folder, "has no files (hidden ones and links do not count)"),
        (lambda folder: written(folder / "a.pdf", b"x").parent, "nothing that can be ingested; its files: 1 .pdf"),
        (lambda folder: written(folder / "a.pdf", b"x"), "a.pdf: .pdf is no file of records"),
        (lambda folder: written(folder / "a.jsonl", b""), "a.jsonl: no rows in it"),
        (lambda folder: written(folder / "a.jsonl", b'{"x": 1, "y": 2}'), "or none with its text, among: x, y"),
        (lambda folder: written(folder / "a.parquet", b"PAR1 not really"), "a.parquet: no readable Parquet ("),
        (lambda folder: written(folder / "a.parquet", b""), "a.parquet: no readable Parquet ("),
    ],
)
def test_what_cannot_be_ingested_is_said(tmp_path: Path, make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(UsageError) as caught:
        survey(make(tmp_path))
    assert message in caught.value.message
    assert caught.value.remedy


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

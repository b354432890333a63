"""`m3 encode`: texts in, vectors out, in every form."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3core import Encoder
from m3core.types import Encoded
from m3core.windows import WINDOW_TEXTS
from tests.pipelines.cli.conftest import M3, Ended

TEXTS = ["The key is at the front desk.", "", "ключ хранится у дежурного", "the key " * 500]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model)


@pytest.fixture
def encode(m3: M3, tiny_model: Path, here: Path) -> M3:
    """`m3 encode` with the tiny model, in an empty folder."""

    def run(*arguments: str | Path) -> Ended:
        return m3("encode", "--model", tiny_model, *arguments)

    return run


@pytest.fixture
def records(here: Path) -> Path:
    """TEXTS as JSON lines."""
    rows = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(TEXTS)]
    (here / "t.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return here / "t.jsonl"


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def without_progress(err: str) -> list[str]:
    """The lines on stderr but those that a slow machine says while it works."""
    return [line for line in err.splitlines() if not line.startswith("encode   ")]


def same(rows: list[dict[str, Any]], encoded: Encoded) -> None:
    """Rows of JSON lines against the encoder's own answer to the same texts."""
    assert len(rows) == len(encoded)
    for i, row in enumerate(rows):
        assert encoded.dense is not None
        assert np.array(row["dense"], np.float32) == pytest.approx(encoded.dense[i], abs=1e-6)
        assert encoded.lexical is not None
        ids, weights = encoded.lexical.row(i)
        assert list(row["lexical"]) == [str(token) for token in ids.tolist()]
        assert list(row["lexical"].values()) == pytest.approx(weights.tolist(), abs=1e-6)
        assert encoded.multi is not None
        assert np.array(row["multi"], np.float32) == pytest.approx(encoded.multi.row(i), abs=1e-6)
        assert (row["tokens"], row["truncated"]) == (int(encoded.token_counts[i]), bool(encoded.truncated[i]))


def test_texts_on_the_command_line(encode: M3, encoder: Encoder) -> None:
    ended = encode(*(part for text in TEXTS for part in ("--text", text)))
    rows = lines(ended.out)
    assert ended.code == 0
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == ["id", "dense", "lexical", "multi", "tokens", "truncated"]
    same(rows, encoder.encode(TEXTS))
    tokens = sum(row["tokens"] for row in rows)
    told = without_progress(ended.err)
    assert told[0].startswith(f"encoded 4 texts, {tokens} tokens   ")
    assert told[1:] == ["truncated 1 text: longer than 256 tokens, cut there"]


def test_lines_of_stdin_are_queries_if_told(encode: M3, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ([], ["-"]):
        stdin(monkeypatch, "\n".join(TEXTS).encode())
        ended = encode(*source, "--kind", "query")
        assert ended.code == 0
        same(lines(ended.out), encoder.encode(TEXTS, "query"))


def test_every_format_holds_the_same(encode: M3, encoder: Encoder, records: Path) -> None:
    for output in ("v.jsonl", "v.parquet", "v.npz"):
        ended = encode(records, "--output", output)
        assert (ended.code, ended.out) == (0, "")
        assert f" tokens into {output}   " in ended.err
    rows = lines(Path("v.jsonl").read_text(encoding="ascii"))
    same(rows, encoder.encode(TEXTS))
    assert [row["id"] for row in rows] == ["d0", "d1", "d2", "d3"]
    table = pq.read_table("v.parquet")
    assert table.schema.metadata[b"fingerprint"].decode() == encoder.fingerprint
    parquet = table.to_pylist()
    with np.load("v.npz", allow_pickle=False) as archive:
        npz = dict(archive)
    assert str(npz["fingerprint"]) == encoder.fingerprint
    for i, row in enumerate(rows):
        assert parquet[i]["id"] == str(npz["ids"][i]) == row["id"]
        assert np.array(row["dense"], np.float32).tolist() == parquet[i]["dense"] == npz["dense"][i].tolist()
        part = slice(*npz["lexical_indptr"][i : i + 2])
        ids = npz["lexical_ids"][part].tolist()
        assert [int(token) for token in row["lexical"]] == parquet[i]["lexical_ids"] == ids
        assert parquet[i]["lexical_weights"] == npz["lexical_weights"][part].tolist()
        multi = npz["multi"][slice(*npz["multi_offsets"][i : i + 2])]
        assert np.array(row["multi"], np.float32).tolist() == multi.tolist()
        assert parquet[i]["multi"] == multi.ravel().tolist()
        assert row["truncated"] == parquet[i]["truncated"] == bool(npz["truncated"][i])
        assert row["tokens"] == parquet[i]["tokens"] == int(npz["tokens"][i])


def test_parquet_in_and_some_signals_out(encode: M3, encoder: Encoder, here: Path) -> None:
    pq.write_table(pa.table({"doc_id": [7, 8], "title": ["x", "y"], "text": TEXTS[:2]}), here / "t.parquet")
    ended = encode("t.parquet", "--signals", "multi,dense")
    rows = lines(ended.out)
    assert [list(row) for row in rows] == [["id", "dense", "multi", "tokens", "truncated"]] * 2
    assert [row["id"] for row in rows] == ["7", "8"]
    dense = encoder.encode(TEXTS[:2]).dense
    assert dense is not None
    assert np.array([row["dense"] for row in rows], np.float32) == pytest.approx(dense, abs=1e-6)


def test_the_format_wins_over_the_extension(encode: M3, records: Path) -> None:
    assert encode(records, "--output", "v.npz", "--format", "jsonl").code == 0
    assert len(lines(Path("v.npz").read_text(encoding="ascii"))) == 4
    assert encode(records, "--output", "-").out.count("\n") == 4


def test_no_text_gives_no_row(encode: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"")
    ended = encode()
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.startswith("encoded 0 texts, 0 tokens")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["t.jsonl", "--text", "a"],
            "m3: usage: INPUT t.jsonl and --text are both given. Remedy: give one of them",
        ),
        (
            ["absent.jsonl"],
            "m3: usage: absent.jsonl: no such file. Remedy: name a .jsonl or .parquet file, or give lines on stdin",
        ),
        (
            ["t.jsonl", "--format", "npz"],
            "m3: usage: --format npz is no text for stdout. Remedy: add --output vectors.npz",
        ),
        (
            ["t.jsonl", "--format", "csv"],
            "m3: usage: m3 encode: --format 'csv' is none of jsonl, parquet, npz. Remedy: m3 encode --help",
        ),
        (
            ["t.jsonl", "--kind", "document"],
            "m3: usage: m3 encode: --kind 'document' is none of passage, query. Remedy: m3 encode --help",
        ),
        (["t.jsonl", "--signals", "dens"], "m3: usage: --signals 'dens': no such signal; did you mean \"dense\"?"),
        (
            ["t.jsonl", "--output", "absent/v.npz"],
            "m3: usage: --output absent/v.npz: the folder absent is not there. Remedy: mkdir -p absent",
        ),
        (
            ["t.jsonl", "--output", "t.jsonl"],
            "m3: usage: --output t.jsonl is the INPUT itself. Remedy: name another file",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_before_any_work(
    m3: M3, records: Path, arguments: list[str], line: str
) -> None:
    ended = m3("encode", "--model", "not-even-looked-at", *arguments)
    assert (ended.code, ended.out, ended.err) == (2, "", line + "\n")
    assert [path.name for path in records.parent.iterdir()] == ["t.jsonl"]


def test_nothing_given_on_a_terminal_is_explained(encode: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    ended = encode()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("m3: usage: there is no INPUT and no --text. Remedy: m3 encode texts.jsonl, or")


def test_a_fault_in_the_last_line_is_told_before_the_model_is_loaded(m3: M3, records: Path) -> None:
    with records.open("a") as file:
        file.write('{"id": "x"}\n')
    Path("v.jsonl").write_text("before")
    ended = m3("encode", "t.jsonl", "--model", "not-even-looked-at", "--output", "v.jsonl")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "m3: usage: t.jsonl line 5: text is missing. Remedy: give every record a text, an empty one if need be\n"
    )
    assert Path("v.jsonl").read_text() == "before"


def test_a_fault_on_stdin_leaves_no_file(encode: M3, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"good\n" * 700 + b"\xff\n")
    ended = encode("--output", "v.jsonl")
    assert (ended.code, ended.out) == (2, "")
    assert without_progress(ended.err) == [
        "m3: usage: stdin line 701 is not UTF-8 at byte 0. Remedy: convert the input to UTF-8"
    ]
    assert list(here.iterdir()) == []


def test_results_on_a_terminal_come_without_progress(encode: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert encode("--text", "key").code == 0
    assert lines(screen.getvalue())[0]["id"] == "1"


@pytest.fixture
def running(tiny_model: Path, here: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that encodes lines of a stdin which stays open."""
    arguments = ["encode", "--model", str(tiny_model), "--output", "v.jsonl"]
    code = f"import sys; from pipelines.cli.main import main; sys.exit(main({arguments!r}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment) as process:
        yield process
        process.kill()


def test_sigterm_ends_with_143_and_leaves_nothing(running: subprocess.Popen[bytes], here: Path) -> None:
    assert running.stdin is not None
    running.stdin.write(b"key\n" * 2000)
    running.stdin.flush()
    until = time.monotonic() + 240
    while not list(here.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert [path.name.startswith(".tmp-v.jsonl-") for path in here.iterdir()] == [True]
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=240) == 143
    assert list(here.iterdir()) == []


def test_memory_does_not_grow_with_the_number_of_texts(encoder: Encoder) -> None:
    """The encoder's results are written and let go: of thousands of texts, two windows are alive at most."""
    import gc

    from pipelines.encode.jsonl import JsonLines
    from pipelines.encode.progress import Silent
    from pipelines.encode.reading import Text
    from pipelines.encode.run import encode_texts

    alive: list[int] = []

    class Watching(Silent):
        def encoded(self, texts: int, tokens: int, text_bytes: int) -> None:
            alive.append(sum(len(found) for found in gc.get_objects() if type(found) is Encoded))

    texts = (Text(str(i), "key") for i in range(6000))
    encode_texts(encoder, texts, "passage", JsonLines(len), Watching())
    assert len(alive) > 3
    assert 0 < max(alive) <= 2 * WINDOW_TEXTS

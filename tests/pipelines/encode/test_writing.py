"""What was written, read back: every format holds the very numbers that the encoder gave."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import DiskFullError, UsageError
from m3core.types import ALL_SIGNALS, Encoded, Signal
from pipelines.cli.encode import FORMATS
from pipelines.encode import npz, parquet, writing
from pipelines.encode.jsonl import JsonLines
from pipelines.encode.npz import Npz
from pipelines.encode.parquet import parquet_into
from pipelines.encode.writing import Format, check_file, open_writer
from tests.pipelines.encode.made import DENSE_DIM, MULTI_DIM, encodings, names, origin, row

SIGNALS = st.sampled_from([ALL_SIGNALS, (Signal.DENSE,), (Signal.LEXICAL,), (Signal.MULTI,), ALL_SIGNALS[:2]])
PARTS = SIGNALS.flatmap(lambda signals: st.tuples(st.just(signals), st.lists(encodings(signals), max_size=3)))
Parts = tuple[tuple[Signal, ...], list[Encoded]]


def expected(parts: Sequence[Encoded]) -> list[dict[str, object]]:
    """The rows of all parts, each with its id."""
    return [
        {"id": name, **row(part, i)}
        for number, part in enumerate(parts)
        for i, name in enumerate(names(part, 10 * number))
    ]


def add_all(writer: writing.Writer, parts: Sequence[Encoded]) -> None:
    for number, part in enumerate(parts):
        writer.add(names(part, 10 * number), part)


def float32(value: Any) -> Any:
    """Numbers of a JSON document as the float32 that they spell."""
    if isinstance(value, list):
        return [float32(part) for part in value]
    return float(np.float32(value))


@given(PARTS)
def test_json_lines(made: Parts) -> None:
    written: list[str] = []
    add_all(JsonLines(written.append), made[1])
    assert all(line.isascii() and line.endswith("\n") and line.count("\n") == 1 for line in written)
    found = []
    for line in written:
        value = json.loads(line, parse_constant=pytest.fail)
        for name in ("dense", "multi"):
            if name in value:
                value[name] = float32(value[name])
        if "lexical" in value:
            value["lexical"] = {int(token): float32(weight) for token, weight in value["lexical"].items()}
        found.append(value)
    assert found == expected(made[1])


@given(PARTS)
def test_parquet(made: Parts) -> None:
    signals, parts = made
    file = io.BytesIO()
    with parquet_into(file, origin(signals)) as writer:
        add_all(writer, parts)
    file.seek(0)
    table = pq.read_table(file, page_checksum_verification=True)
    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert metadata == {
        "threefold.kind": "threefold.vectors",
        "threefold.format": "1",
        "model": "made",
        "fingerprint": "float-00",
        "text_kind": "passage",
        "dense_dim": str(DENSE_DIM),
        "multi_dim": str(MULTI_DIM),
    }
    found = []
    for value in table.to_pylist():
        if "multi" in value:
            value["multi"] = np.array(value["multi"]).reshape(-1, MULTI_DIM).tolist()
        if "lexical_ids" in value:
            ids, weights = value.pop("lexical_ids"), value.pop("lexical_weights")
            value["lexical"] = dict(zip(ids, weights, strict=True))
        found.append(value)
    assert found == expected(parts)


@given(PARTS)
def test_npz(made: Parts) -> None:
    signals, parts = made
    file = io.BytesIO()
    writer = Npz(file, origin(signals))
    add_all(writer, parts)
    writer.finish()
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        arrays = dict(found)
    assert (str(arrays["model"]), str(arrays["fingerprint"]), str(arrays["text_kind"])) == (
        "made", "float-00", "passage",
    )  # fmt: skip
    assert ("dense" in arrays, "lexical_ids" in arrays, "multi" in arrays) == tuple(
        signal in signals for signal in ALL_SIGNALS
    )
    assert [npz_row(arrays, i) for i in range(len(arrays["ids"]))] == expected(parts)


def npz_row(arrays: dict[str, Any], i: int) -> dict[str, object]:
    values: dict[str, object] = {"id": str(arrays["ids"][i])}
    if "dense" in arrays:
        assert arrays["dense"].dtype == np.float32
        values["dense"] = arrays["dense"][i].tolist()
    if "lexical_ids" in arrays:
        part = slice(*arrays["lexical_indptr"][i : i + 2])
        weights = arrays["lexical_weights"][part].tolist()
        values["lexical"] = dict(zip(arrays["lexical_ids"][part].tolist(), weights, strict=True))
    if "multi" in arrays:
        values["multi"] = arrays["multi"][slice(*arrays["multi_offsets"][i : i + 2])].tolist()
    return {**values, "tokens": int(arrays["tokens"][i]), "truncated": bool(arrays["truncated"][i])}


def test_the_types_of_the_columns(tmp_path: Path) -> None:
    with open_writer("parquet", tmp_path / "v.parquet", origin()):
        pass
    schema = pq.read_schema(tmp_path / "v.parquet")
    assert {field.name: field.type for field in schema} == {
        "id": pa.string(),
        "dense": pa.list_(pa.float32(), DENSE_DIM),
        "lexical_ids": pa.list_(pa.uint32()),
        "lexical_weights": pa.list_(pa.float32()),
        "multi": pa.list_(pa.float32()),
        "tokens": pa.int32(),
        "truncated": pa.bool_(),
    }


def test_row_groups_stay_small_and_lose_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = 7
    dense = np.arange(texts * DENSE_DIM, dtype=np.float32).reshape(texts, DENSE_DIM)
    encoded = Encoded(dense, None, None, np.full(texts, 2, np.int32), np.zeros(texts, np.bool_))
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 3 * (8 + 4 * DENSE_DIM))
    with open_writer("parquet", tmp_path / "v.parquet", origin((Signal.DENSE,))) as writer:
        writer.add([str(i) for i in range(texts)], encoded)
    file = pq.ParquetFile(tmp_path / "v.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 1]
    assert file.read().column("id").to_pylist() == [str(i) for i in range(texts)]
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1)
    with open_writer("parquet", tmp_path / "v.parquet", origin((Signal.DENSE,))) as writer:
        writer.add([str(i) for i in range(texts)], encoded)
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups == texts


def test_npz_says_its_limit_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "NPZ_BYTES", 1 << 20)
    texts = 1000
    encoded = Encoded(
        np.zeros((texts, 512), np.float32), None, None, np.ones(texts, np.int32), np.zeros(texts, np.bool_)
    )
    with (
        pytest.raises(UsageError, match=r"gathered in memory, 1 MiB at most; 1,000 texts have more"),
        open_writer("npz", tmp_path / "v.npz", origin((Signal.DENSE,))) as writer,
    ):
        writer.add([str(i) for i in range(texts)], encoded)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_appears_when_it_is_whole_and_replaces_what_was_there(tmp_path: Path, form: Format) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"before")

    def broken() -> None:
        with open_writer(form, path, origin()):
            raise ValueError("while encoding")

    with pytest.raises(ValueError, match="while encoding"):
        broken()
    assert [found.name for found in tmp_path.iterdir()] == ["v"]
    assert path.read_bytes() == b"before"
    with open_writer(form, path, origin()):
        assert path.read_bytes() == b"before"
    assert path.read_bytes() != b"before"
    assert [found.name for found in tmp_path.iterdir()] == ["v"]


def test_a_full_disk_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFullError, match=r"v could not be written: no space left .* Remedy: free some"),
        open_writer("jsonl", tmp_path / "v", origin()),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        check_file("--output", tmp_path)
    with pytest.raises(UsageError, match=r"absent is not there. Remedy: mkdir -p"):
        check_file("--output", tmp_path / "absent" / "v.npz")
    check_file("--output", tmp_path / "v.npz")


def test_the_command_offers_every_format() -> None:
    assert get_args(Format) == FORMATS

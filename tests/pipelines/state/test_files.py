from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.errors import DiskFullError, ExitCode, StateError
from pipelines.state.files import (
    DamagedError,
    atomic_file,
    create_if_absent,
    decode_json,
    encode_json,
    make_folder,
    read_json,
    remove_files,
    remove_leftovers,
    temporary_below,
    write_atomic,
    write_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
BODIES = st.dictionaries(st.text().filter(lambda key: key not in {"kind", "format", "checksum"}), JSON, max_size=4)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_replaces_whole_files_and_leaves_nothing_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomic(file, b"one, and longer than two")
    write_atomic(file, b"two")
    assert file.read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomic(file, b"old")
    with pytest.raises(TypeError), atomic_file(file) as opened:
        opened.write("half, then no bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_create_if_absent_keeps_the_first(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert create_if_absent(file, b"first")
    assert not create_if_absent(file, b"second")
    assert file.read_bytes() == b"first"
    assert names(tmp_path) == ["a"]


@pytest.mark.usefixtures("umask_0")
def test_only_the_owner_may_read(tmp_path: Path, modes: Callable[[Path], set[tuple[str, str]]]) -> None:
    root = tmp_path / "state" / "deep"
    make_folder(root)
    write_atomic(root / "a", b"")
    create_if_absent(root / "b", b"")
    write_json(root / "c", "kind", 1, {})
    assert modes(tmp_path / "state") == {("folder", "0o700"), ("file", "0o600")}


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".tmp-a-1-ff").write_bytes(b"half")
    (tmp_path / "deep" / ".tmp-join-x").mkdir()
    (tmp_path / "deep" / ".tmp-join-x" / "spilled").write_bytes(b"half")
    (tmp_path / "deep" / "a").write_bytes(b"whole")
    for path in (tmp_path / "deep").iterdir():
        os.utime(path, (0, 0))
    (tmp_path / "deep" / ".tmp-join-y").mkdir()
    assert remove_leftovers(tmp_path) == 2
    assert names(tmp_path / "deep") == [".tmp-join-y", "a"], "what is young may be somebody's at work"


@settings(max_examples=40)
@given(BODIES)
def test_json_round_trip(body: dict[str, object]) -> None:
    assert decode_json(encode_json("kind", 1, body), "kind", 1, Path("f")) == body


@settings(max_examples=40)
@given(BODIES, st.data())
def test_json_with_any_byte_changed_is_refused_or_says_the_same(body: dict[str, object], data: st.DataObject) -> None:
    encoded = bytearray(encode_json("kind", 1, body))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        assert decode_json(bytes(encoded), "kind", 1, Path("f")) == body
    except StateError:
        return


def test_json_checksum_is_over_canonical_json_whatever_the_layout() -> None:
    import hashlib

    value = {"b": "ü", "a": [1, 2.5], "kind": "k", "format": 1}
    canonical = '{"a":[1,2.5],"b":"\\u00fc","format":1,"kind":"k"}'
    value["checksum"] = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    assert decode_json(json.dumps(value).encode(), "k", 1, Path("f")) == {"a": [1, 2.5], "b": "ü"}


def test_json_of_a_newer_format_is_refused_before_anything_else_of_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "collection.json"
    file.write_text('{"kind": "k", "format": 2, "checksum": {"of": "another shape"}}')
    with pytest.raises(StateError, match=r"has format 2; this version of threefold reads format 1") as caught:
        read_json(file, "k", 1)
    assert "install the version that wrote it" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"[1]", "no k file"),
        (b'{"kind": "other", "format": 1}', "no k file"),
        (b'{"kind": "k"}', "no format number"),
        (b'{"kind": "k", "format": true}', "no format number"),
        (b'{"kind": "k", "format": 1}', "checksum does not match"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"f\.json is damaged: .*{why}"):
        read_json(file, "k", 1)


@pytest.mark.parametrize("key", ["kind", "format", "checksum"])
def test_a_body_may_not_hide_the_envelope(key: str) -> None:
    with pytest.raises(ValueError, match="may not have the keys"):
        encode_json("k", 1, {key: 1})


def test_a_folder_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match=r"file/state cannot be written: Not a directory"):
        make_folder(tmp_path / "file" / "state")


def test_a_full_disk_is_an_error_that_names_the_path_and_leaves_the_old_file(small_disk: Path) -> None:
    file = small_disk / "a"
    write_atomic(file, b"old")
    with pytest.raises(DiskFullError, match=rf"{file} could not be written: no space left \([0-9,]+ bytes") as caught:
        write_atomic(file, bytes(1 << 20))
    assert str(small_disk) in caught.value.remedy
    assert caught.value.exit_code == ExitCode.UNREACHABLE
    assert names(small_disk) == ["a"]
    assert file.read_bytes() == b"old"


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 KiB, and the signal for it is ignored, as Python does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_may_not_grow_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="no space left"):
        write_atomic(tmp_path / "a", bytes(1 << 17))
    with pytest.raises(DiskFullError, match="no space left"):
        create_if_absent(tmp_path / "a", bytes(1 << 17))
    assert names(tmp_path) == []


@pytest.mark.usefixtures("small_files")
def test_parquet_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    import pyarrow as pa

    from pipelines.state.tables import TableKind, write_table

    table = pa.table({"x": pa.array([os.urandom(1 << 18)])})
    with pytest.raises(DiskFullError, match="no space left"):
        write_table(tmp_path / "a.parquet", TableKind("k", 1), table.schema, [table])
    assert names(tmp_path) == []


def test_a_sweep_meets_nested_leftovers_and_what_others_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "runs" / ".tmp-audit-a" / ".tmp-join-b"
    inner.mkdir(parents=True)
    (inner / "part").write_text("x")
    vanishing = tmp_path / ".tmp-vanishing"
    vanishing.write_text("x")
    lstat = Path.lstat

    def gone_meanwhile(path: Path) -> os.stat_result:
        vanishing.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone_meanwhile)
    assert temporary_below(tmp_path, -1.0) == [inner.parent]
    assert remove_leftovers(tmp_path, -1.0) == 1
    # Swept away with its folder by somebody else: no error.
    remove_files([inner / "part"])
    assert not (tmp_path / "runs" / ".tmp-audit-a").exists()

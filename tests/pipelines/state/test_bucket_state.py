"""State in a bucket, on a real S3 server (moto's): cells, lease, and two machines that share a collection.

Writers take turns here: moto compares and writes without a lock between, which S3 does as one.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from m3core.errors import ConfigError, ExitCode, LockedError
from pipelines.ingest.planning import plan
from pipelines.operate.collection import Place
from pipelines.operate.dropping import DropRequest, drop
from pipelines.operate.promoting import PromoteRequest, promote
from pipelines.operate.purge import Named, purge
from pipelines.state import bucket, mirror
from pipelines.state.bucket import Bucket, BucketError
from pipelines.state.cell import CellConflictError, ObjectCell, cell_at
from pipelines.state.collection import read_collection
from pipelines.state.files import create_if_absent, move_aside, remove_files, write_atomic
from pipelines.state.lease import acquire_lease
from pipelines.state.paths import StatePaths
from tests.pipelines import fake_encoder
from tests.pipelines.ingest.projects import EDGE, Project, document
from tests.pipelines.operate.traces import traces
from tests.tiny import HIDDEN, MULTI_DIM


def paths_at(folder: Path, state_url: str) -> StatePaths:
    """The state folder of one machine."""
    mirror.attach(folder, state_url)
    return StatePaths.of(folder, "notes")


def objects(state_url: str) -> dict[str, bytes]:
    """Everything in the bucket."""
    found = Bucket.open(state_url)
    return {key: (found.get(key) or (b"",))[0] for key, _, _ in found.list("")}


def downloaded(state_url: str, folder: Path) -> Path:
    """Everything in the bucket as files of a folder."""
    for key, data in objects(state_url).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


def test_a_cell_is_replaced_only_in_the_version_that_was_read(state_url: str) -> None:
    cell = ObjectCell(Bucket.open(state_url), "state/notes/collection.json")
    assert cell.read() is None
    with pytest.raises(CellConflictError):
        cell.replace(b"one", "an etag")
    first = cell.replace(b"one", None)
    with pytest.raises(CellConflictError):
        cell.replace(b"two", None)
    second = cell.replace(b"two", first)
    with pytest.raises(CellConflictError):
        cell.replace(b"three", first)
    with pytest.raises(CellConflictError):
        cell.replace(b"two", first)  # whose bytes those are is not known
    assert cell.read() == (b"two", second)


def test_one_machine_of_two_gets_the_lease(state_url: str, tmp_path: Path) -> None:
    here, there = paths_at(tmp_path / "a", state_url), paths_at(tmp_path / "b", state_url)
    with acquire_lease(here) as lease:
        lease.renew()
        lease.check()
        with pytest.raises(LockedError, match="is being written by pid"):
            acquire_lease(there)
    with acquire_lease(there):
        pass
    assert not here.lease_file.exists()


def test_a_renewal_whose_answer_was_lost_is_no_loss_of_the_lease(state_url: str, tmp_path: Path) -> None:
    paths = paths_at(tmp_path / "a", state_url)
    with acquire_lease(paths, ttl=600) as lease:
        value, version = cell_at(paths.lease_file).read() or (b"", "")
        cell_at(paths.lease_file).replace(value + b" ", version)
        lease.renew()
        Bucket.open(state_url).delete(["state/notes/lease.json"])
        with acquire_lease(paths_at(tmp_path / "b", state_url)), pytest.raises(LockedError, match="was lost to pid"):
            lease.renew()


def test_files_are_in_the_bucket_before_they_have_their_name(state_url: str, tmp_path: Path) -> None:
    paths = paths_at(tmp_path / "a", state_url)
    paths.root.mkdir(parents=True)
    assert create_if_absent(paths.root / "one", b"1")
    write_atomic(paths.root / "two", b"2")
    write_atomic(paths.root / "three", b"3")
    (paths.root / "runs" / "000001" / "work").mkdir(parents=True)
    write_atomic(paths.root / "runs" / "000001" / "work" / "keys", b"of this machine")
    other = paths_at(tmp_path / "b", state_url)
    mirror.pull(other.root)
    assert {path.name: path.read_bytes() for path in other.root.iterdir()} == {"one": b"1", "two": b"2", "three": b"3"}
    assert not create_if_absent(other.root / "one", b"another")
    (paths.root / "one").unlink()
    assert not create_if_absent(paths.root / "one", b"another")  # the bucket has it; the copy gets it
    assert (paths.root / "one").read_bytes() == b"1"
    write_atomic(paths.root / "two", b"22")
    remove_files([paths.root / "three"])
    move_aside(paths.root / "one")
    (other.root / "mine").write_bytes(b"never in the bucket")
    mirror.pull(other.root)
    assert {path.name for path in other.root.iterdir()} == {"one.damaged", "two", "mine"}
    assert (other.root / "two").read_bytes() == b"22"


def test_a_copy_that_was_cut_is_downloaded_again(state_url: str, tmp_path: Path) -> None:
    paths = paths_at(tmp_path, state_url)
    paths.root.mkdir(parents=True)
    write_atomic(paths.root / "one", b"whole")
    (paths.root / "one").write_bytes(b"wh")
    mirror.pull(paths.root)
    assert (paths.root / "one").read_bytes() == b"whole"


def test_a_bucket_that_is_not_there_is_told(state_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = paths_at(tmp_path, state_url.replace("m3-", "none-"))
    with pytest.raises(BucketError, match="none-") as caught:
        acquire_lease(paths)
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert bucket._REQUEST_SECONDS + bucket._RETRY_SECONDS < 120


@pytest.mark.parametrize("address", ["s3:/x", "ftp://x/y"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match="begins with s3:// or gs://"):
        Bucket.open(address)


class TestTwoMachines:
    """Two folders with the same sources and one bucket; each has memory stores of its own."""

    @pytest.fixture
    def machines(
        self, state_url: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> list[Project]:
        fake_encoder.install(monkeypatch, HIDDEN, MULTI_DIM)
        made = [Project(tmp_path / name, tiny_model, {"storage": {"path": "copy", "url": state_url}}) for name in "ab"]
        for project in made:
            project.write_many(6)
        return made

    def test_the_second_one_finds_everything_and_encodes_nothing(self, machines: list[Project]) -> None:
        first, second = machines
        assert first.ingest().documents.added == 6
        assert plan(second.config, second.base).as_json()["documents"]["added"] == 0
        report = second.ingest()
        assert (report.run, report.tokens_encoded, report.exit_code) == (2, 0, ExitCode.OK)
        second.check_agreement()
        assert first.records() == second.records()
        for project in machines:
            project.write("d001.md", document(99))
        assert second.ingest().documents.changed == 1
        report = first.ingest()
        assert (report.documents.changed, report.tokens_encoded) == (0, 0)

    def test_what_one_removes_goes_from_the_other(self, machines: list[Project]) -> None:
        first, second = machines
        first.ingest()
        first.settings["chunking"] = {"max_tokens": 96}
        first.ingest(build=True)
        place = Place.of(first.config, first.base)
        assert promote(PromoteRequest(place)).flipped
        Place.of(second.config, second.base)
        state = read_collection(second.paths)
        assert state is not None
        assert state.live == 2
        assert second.paths.chunks(1).exists()
        drop(DropRequest(place, 1, now=True))
        Place.of(second.config, second.base)
        assert not list(second.paths.chunks(1).rglob("*.parquet"))

    def test_a_purge_leaves_no_byte_of_it_in_the_bucket(self, machines: list[Project], tmp_path: Path) -> None:
        first, second = machines
        canary = "canary-4711"
        for project in machines:
            project.write("secret.md", f"The {canary} sings in the cellar.")
        first.ingest()
        assert traces(downloaded(first.config.storage.url, tmp_path / "before"), canary)
        second.ingest()
        assert purge(Place.of(first.config, first.base), Named("default", ("secret.md",))).exit_code is ExitCode.OK
        assert not traces(downloaded(first.config.storage.url, tmp_path / "after"), canary)
        Place.of(second.config, second.base)
        assert not traces(second.base / "copy", canary)
        assert second.ingest().documents.added == 0

    def test_embedded_stores_are_refused(self, machines: list[Project]) -> None:
        machines[0].settings["stores"] = EDGE
        with pytest.raises(ConfigError, match=r"stores.main.kind = 'qdrant-edge' keeps its rows in a folder"):
            machines[0].ingest()

    def test_two_runs_at_once(self, machines: list[Project]) -> None:
        outcomes: list[object] = []

        def run(project: Project) -> None:
            try:
                outcomes.append(project.ingest().documents.added)
            except LockedError as error:
                outcomes.append(error.exit_code)

        threads = [threading.Thread(target=run, args=(project,)) for project in machines]
        with acquire_lease(machines[0].paths):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert outcomes == [ExitCode.LOCKED] * 2

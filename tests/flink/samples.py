"""Collections of the Flink tests: what they hold, where they run, and what a run leaves."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from m3core.config.model import Config
from m3core.config.toml import toml_value
from pipelines.cli.demo_run import prepare
from pipelines.cli.runner import runner_of
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.report import IngestReport
from pipelines.ingest.run import ingest
from pipelines.ingest.session import IngestOptions
from pipelines.state.documents import DocumentRecord
from pipelines.state.lake import Lake
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths
from tests.servers.flink import FlinkCluster
from tests.servers.running import Servers, connection_of


@dataclass
class Collection:
    """One collection with words and texts in Elasticsearch, dense and multi-vectors in Milvus."""

    base: Path
    values: dict[str, Any]

    @classmethod
    def sample(cls, folder: Path, model: Path, servers: Servers, cluster: FlinkCluster | None) -> Collection:
        """The sample corpus, brought up by the cluster, or (None) locally. In float32: the engines batch otherwise."""
        values = prepare(folder, str(model)).config.model_dump(mode="json", exclude_none=True)
        values["model"] |= {"precision": "float32", "threads": 1}
        return cls(folder, {**values, "stores": stores_in(folder, servers), "runner": on(cluster)})

    @property
    def config(self) -> Config:
        """The configuration; it is also written to m3.toml."""
        lines = [f"{name} = {toml_value(section)}" for name, section in self.values.items()]
        (self.base / "m3.toml").write_text("\n".join(lines) + "\n")
        return Config.model_validate(self.values)

    def ingest(self, **options: Any) -> IngestReport:
        """One run, where the configuration says."""
        config = self.config
        asked = IngestOptions(runner=runner_of(config), **options)
        return ingest(config, self.base, NoProgress(), options=asked)

    @property
    def paths(self) -> StatePaths:
        config = Config.model_validate(self.values)
        return StatePaths.of(self.base / config.storage.path, config.collection.name)

    def records(self) -> dict[str, DocumentRecord]:
        """The manifest."""
        return {record.doc_id: record for record in Manifest(self.paths, 1).records()}

    def encoded(self) -> Counter[bytes]:
        """How many lake files have each text's vectors."""
        folders = list((self.paths.root / "lake").glob("*"))
        files = [path for folder in folders for path in Lake(self.paths, folder.name, read_only=True).files()]
        return Counter(key for path in files for key in pq.read_table(path, columns=["key"]).column(0).to_pylist())


def stores_in(folder: Path, servers: Servers) -> dict[str, Any]:
    """Two stores under prefixes of their own."""
    for kind in ("elasticsearch", "milvus"):
        servers.need(kind)
    words, vectors = connection_of("elasticsearch", folder), connection_of("milvus", folder)
    return {
        "words": {
            "kind": "elasticsearch",
            "signals": ["lexical"],
            "text": True,
            "url": words.url,
            "prefix": words.prefix,
        },
        "vectors": {
            "kind": "milvus",
            "signals": ["dense", "multi"],
            "text": False,
            "url": vectors.url,
            "prefix": vectors.prefix,
        },
    }


def on(cluster: FlinkCluster | None, **changed: Any) -> dict[str, Any]:
    """The runner section."""
    if cluster is None:
        return {"kind": "local"}
    return {
        "kind": "flink",
        "job_endpoint": cluster.job_endpoint,
        "flink_rest": cluster.rest,
        "worker": cluster.pool,
        "parallelism": cluster.slots,
        "first_sign": 240.0,  # two cores may be busy with other tests
        "split_bytes": 16384,
        **changed,
    }


@dataclass
class Going:
    """A run in a thread of its own, so that a test can break something meanwhile."""

    work: Callable[[], IngestReport]
    report: IngestReport | None = None
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="run")
        self.thread.start()

    def end(self, seconds: float = 300.0) -> None:
        """Wait for it."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the run has not ended"

    def _run(self) -> None:
        try:
            self.report = self.work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

"""A real Flink 1.19 cluster from published packages: JobManager, TaskManager, Beam's job server, a Python worker pool.

infra/flink/fetch.sh fetches the parts once per machine into the user's cache. All processes listen on loopback, on free
ports, and keep their files in the folder that they are given.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from tests.servers.jdk import find_jdk, major_version
from tests.servers.missing import MissingPartError
from tests.servers.process import ServerProcess, free_ports

SOURCES = Path(__file__).parents[2] / "infra" / "flink"
_JAVA = 17
_FETCH_SECONDS = 900.0
_START_SECONDS = 300.0  # alone it takes 10 s; beside a training on two cores, minutes
_OPENS = ("java.lang", "java.util", "java.nio", "java.lang.invoke", "java.util.concurrent", "java.net", "sun.nio.ch")
_MEMORY = {
    "taskmanager.cpu.cores": "2.0",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "64m",
    "taskmanager.memory.framework.heap.size": "96m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}


@dataclass
class FlinkCluster:
    """The processes of one cluster, each of which a test may kill and start again."""

    folder: Path
    slots: int
    env: Mapping[str, str] = field(default_factory=dict)
    jdk: Path = field(init=False)
    parts: Path = field(init=False)
    processes: dict[str, ServerProcess] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.jdk, self.parts = _jdk_17(), fetched()
        self.rest_port, self.rpc_port, self.job_port, self.artifact_port, self.expansion_port, self.pool_port = (
            free_ports(6)
        )
        (self.folder / "conf").mkdir(parents=True, exist_ok=True)
        self._write_conf()

    @property
    def rest(self) -> str:
        """Address of the JobManager's REST."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def job_endpoint(self) -> str:
        """Address of Beam's job server."""
        return f"127.0.0.1:{self.job_port}"

    @property
    def pool(self) -> str:
        """Address of the worker pool."""
        return f"127.0.0.1:{self.pool_port}"

    def start(self) -> None:
        """Start everything and wait for it."""
        self.start_job_manager()
        self.start_pool()
        self.start_task_manager()
        self.start_job_server()

    def start_job_manager(self) -> None:
        """The JobManager; its REST answers afterwards."""
        main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        command = [*self._java("256m"), "-cp", self._cluster_jars(), main, "--configDir", str(self.folder / "conf")]
        self._start("job-manager", command).wait_until(lambda: self.ask("/overview") is not None, _START_SECONDS)

    def start_task_manager(self) -> None:
        """The TaskManager; its slots are there afterwards."""
        options = [part for name, value in _MEMORY.items() for part in ("-D", f"{name}={value}")]
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        conf = ["--configDir", str(self.folder / "conf")]
        command = [*self._java("512m"), "-cp", self._cluster_jars(), main, *conf, *options]
        self._start("task-manager", command).wait_until(lambda: self.free_slots() >= self.slots, _START_SECONDS)

    def start_job_server(self, master: str = "") -> None:
        """Beam's job server; `master` is the address of another cluster, which it gives up after a few tries."""
        main = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        options: dict[str, Any] = {
            "flink-master": master or f"127.0.0.1:{self.rest_port}",
            "job-host": "127.0.0.1",
            "job-port": self.job_port,
            "artifact-port": self.artifact_port,
            "expansion-port": self.expansion_port,
            "artifacts-dir": self.folder / "artifacts",
        }
        if master:
            options["flink-conf-dir"] = self.folder / "impatient"
            options["flink-conf-dir"].mkdir(exist_ok=True)
            (options["flink-conf-dir"] / "flink-conf.yaml").write_text("rest.retry.max-attempts: 3\n")
        flags = [f"--{name}={value}" for name, value in options.items()]
        command = [*self._java("384m"), "-cp", self._jars("job-server"), main, *flags]
        self._start("job-server", command).wait_until(lambda: listens(self.job_port), _START_SECONDS)

    def start_pool(self, python: str = sys.executable, **env: str) -> None:
        """The worker pool: every process that the engine asks for is a child of it."""
        main = ["-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={self.pool_port}"]
        # The pool starts its workers as `python`, whatever it runs on itself.
        path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
        pool = self._start("pool", [python, *main], {**os.environ, "PATH": path, **self.env, **env})
        pool.wait_until(lambda: listens(self.pool_port), _START_SECONDS)

    def free_slots(self) -> int:
        """Slots that no job has."""
        found = self.ask("/overview")
        return int(found["slots-available"]) if found else 0

    def ask(self, path: str) -> Any:
        """What the REST answers; None if it does not."""
        try:
            with urllib.request.urlopen(self.rest + path, timeout=5) as answer:  # noqa: S310 - loopback
                return json.load(answer)
        except (urllib.error.URLError, OSError):
            return None

    def kill(self, name: str) -> None:
        """End one of the processes at once."""
        self.processes.pop(name).kill()

    def stop(self) -> None:
        """End all of them."""
        for name in ("job-server", "task-manager", "job-manager", "pool"):
            if name in self.processes:
                self.processes.pop(name).stop()

    def workers(self) -> list[int]:
        """Process ids of the workers that the pool has started."""
        parent = str(self.processes["pool"].process.pid)
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[1] == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    def _start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> ServerProcess:
        self.processes[name] = ServerProcess.start(command, self.folder / name, env)
        return self.processes[name]

    def _java(self, heap: str) -> list[str]:
        opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENS]
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        flags = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={temporary}"]
        return [str(self.jdk / "bin" / "java"), f"-Xmx{heap}", *flags, *opens]

    def _jars(self, folder: str) -> str:
        return str(self.parts / folder / "*")

    def _cluster_jars(self) -> str:
        """Flink's own jars, then Beam's. A class that Flink itself has loaded lets a worker live from one step to the
        next; as part of the job it would be stopped, with its model, after each of them."""
        own = ("flink-", "slf4j-", "log4j-")
        beam = sorted(str(jar) for jar in (self.parts / "job-server").glob("*.jar") if not jar.name.startswith(own))
        return os.pathsep.join([self._jars("flink/lib"), *beam])

    def _write_conf(self) -> None:
        values = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self.rpc_port,
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "700m",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self.rest_port,
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": self.slots,
            "taskmanager.network.sort-shuffle.min-buffers": 64,  # of 512: many steps, little memory
            # Longer than a dead worker is kept for the next step (flink.py).
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 3,
            "restart-strategy.fixed-delay.delay": "15 s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 10000,
            "blob.server.port": "0",
            "io.tmp.dirs": self.folder / "tmp",
            "classloader.resolve-order": "parent-first",
        }
        text = "".join(f"{name}: {value}\n" for name, value in values.items())
        (self.folder / "conf" / "flink-conf.yaml").write_text(text)


@contextmanager
def running_flink(folder: Path, slots: int = 2, **env: str) -> Iterator[FlinkCluster]:
    """A whole cluster, stopped at the end. Raises MissingPartError, RuntimeError."""
    cluster = FlinkCluster(folder, slots, env)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def fetched() -> Path:
    """The parts in the user's cache. Raises MissingPartError."""
    sources = b"".join((SOURCES / name).read_bytes() for name in ("pom.xml", "fetch.sh"))
    digest = hashlib.sha256(sources).hexdigest()[:12]
    place = platformdirs.user_cache_path("threefold") / "servers" / f"flink-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if shutil.which("mvn") is None and not place.exists():
        raise MissingPartError("Maven (mvn) is not here; it fetches the published parts of Flink")
    with FileLock(f"{place}.lock"):
        env = {**os.environ, "JAVA_HOME": str(_jdk_17()), "PYTHON": sys.executable}
        command = [str(SOURCES / "fetch.sh"), str(place)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False, env=env)
        if done.returncode:
            raise MissingPartError(f"fetch.sh failed: {(done.stdout + done.stderr).strip()[-600:]}")
    return place


def listens(port: int) -> bool:
    """Whether somebody does on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _jdk_17() -> Path:
    """Flink 1.19 knows Java 8 to 17."""
    for place in sorted(Path("/usr/lib/jvm").glob("*")):
        if major_version(place) == _JAVA:
            return place
    home = find_jdk(_JAVA)
    if major_version(home) != _JAVA:
        raise MissingPartError(f"a JDK {_JAVA} is not here; Flink 1.19 runs on no newer one")
    return home

"""A real Elasticsearch node from published packages: assembled once per machine, started on loopback per session.

Maven fetches the jars, the JDK's compiler builds the two small classes in infra/elasticsearch/java. The result is kept
in the user's cache under a name that changes with either; processes that want it at once wait for one another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from tests.servers.jdk import find_jdk
from tests.servers.missing import MissingPartError
from tests.servers.process import ServerProcess, free_ports

SOURCES = Path(__file__).parents[2] / "infra" / "elasticsearch"
VERSION = "9.5.3"
_JAVA = 21
_HEAP = "384m"
_FETCH_SECONDS = 900.0
_START_SECONDS = 300.0  # alone it takes 5 s; beside a training on two cores, minutes
# Jars of a module live in its own folder; the others are the server's class path.
_NETTY = ("netty-", "transport-netty4-", "elasticsearch-ssl-config-")
_SPARSE = ("x-pack-core-",)


@dataclass(frozen=True)
class ElasticsearchServer:
    """A node that answers at `url`."""

    url: str
    process: ServerProcess


@contextmanager
def running_elasticsearch(folder: Path) -> Iterator[ElasticsearchServer]:
    """A node with its data in `folder`, stopped at the end. Raises MissingPartError, RuntimeError."""
    server = start_elasticsearch(folder)
    try:
        yield server
    finally:
        server.process.stop()


def start_elasticsearch(folder: Path, http_port: int | None = None) -> ElasticsearchServer:
    """Start a node with its data in `folder`, which may hold an earlier one's; the caller stops it."""
    jdk = find_jdk(_JAVA)
    parts = assembled(jdk)
    free, transport = free_ports(2)
    port = http_port or free
    natives = folder / "natives"
    natives.mkdir(parents=True, exist_ok=True)
    command = [
        str(jdk / "bin" / "java"),
        f"-Xms{_HEAP}",
        f"-Xmx{_HEAP}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "--enable-native-access=ALL-UNNAMED",
        f"-Des.nativelibs.path={natives}",
        f"-Djava.io.tmpdir={natives}",
        "-cp",
        f"{parts / 'classes'}{os.pathsep}{parts / 'lib' / '*'}",
        "threefold.NodeMain",
        *(str(folder / "home"), str(parts / "modules"), str(port), str(transport)),
    ]
    server = ElasticsearchServer(f"http://127.0.0.1:{port}", ServerProcess.start(command, folder))
    server.process.wait_until(lambda: _answers(server.url), _START_SECONDS)
    return server


def assembled(jdk: Path) -> Path:
    """The node's parts in the user's cache, fetched and compiled if they are not there. Raises MissingPartError."""
    place = platformdirs.user_cache_path("threefold") / "servers" / f"elasticsearch-{VERSION}-{_digest()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent) as work:
                _assemble(Path(work) / "node", jdk)
                (Path(work) / "node").rename(place)
    return place


def _digest() -> str:
    sources = [SOURCES / "pom.xml", *sorted(SOURCES.rglob("*.java"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _assemble(place: Path, jdk: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPartError("Maven (mvn) is not here; it fetches the published parts of Elasticsearch")
    jars, lib = place / "jars", place / "lib"
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
    _run([maven, "--batch-mode", "--quiet", "--file", str(SOURCES / "pom.xml"), *goal], jdk)
    sources = [str(path) for path in sorted((SOURCES / "java").rglob("*.java"))]
    _run([str(jdk / "bin" / "javac"), "-d", str(place / "classes"), "-cp", str(jars / "*"), *sources], jdk)
    netty, sparse = place / "modules" / "transport-netty4", place / "modules" / "sparse"
    for folder in (lib, netty, sparse):
        folder.mkdir(parents=True)
    for jar in jars.iterdir():
        target = netty if jar.name.startswith(_NETTY) else sparse if jar.name.startswith(_SPARSE) else lib
        jar.rename(target / jar.name)
    jars.rmdir()
    _pack_plugin(place, sparse, jdk)
    _describe(netty, "transport-netty4", "org.elasticsearch.transport.netty4.Netty4Plugin")
    _describe(sparse, "sparse", "threefold.SparsePlugin")


def _pack_plugin(place: Path, module: Path, jdk: Path) -> None:
    """Our plugin's classes go into its module: the server must not see them, they need the module's class loader."""
    classes = place / "classes"
    names = [str(path.relative_to(classes)) for path in sorted(classes.rglob("SparsePlugin*.class"))]
    jar = [str(jdk / "bin" / "jar"), "--create", "--file", str(module / "threefold-sparse.jar"), "-C", str(classes)]
    for name in names:
        jar += [name, "-C", str(classes)]
    _run(jar[:-2], jdk)
    for name in names:
        (classes / name).unlink()


def _describe(module: Path, name: str, plugin: str) -> None:
    lines = {
        "description": name,
        "version": VERSION,
        "name": name,
        "classname": plugin,
        "java.version": str(_JAVA),
        "elasticsearch.version": VERSION,
    }
    (module / "plugin-descriptor.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))


def _run(command: list[str], jdk: Path) -> None:
    """Run one step of the assembly. What fails here is missing from this machine: a package or the way to it."""
    env = {**os.environ, "JAVA_HOME": str(jdk)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False, env=env)
    except subprocess.TimeoutExpired:
        raise MissingPartError(f"{Path(command[0]).name} took more than {_FETCH_SECONDS:g} s") from None
    if done.returncode:
        raise MissingPartError(f"{Path(command[0]).name} failed: {(done.stdout + done.stderr).strip()[-600:]}")


def _answers(url: str) -> bool:
    request = urllib.request.Request(f"{url}/_cluster/health", method="GET")  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=2) as response:  # noqa: S310 - loopback
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False

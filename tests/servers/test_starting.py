"""The starter of servers: what is missing is named, and where servers are required its absence is a failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.servers import jdk
from tests.servers.missing import MissingPartError, skip_or_fail
from tests.servers.process import ServerProcess, free_ports


def make_jdk(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "javac").touch()
    (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return home


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is installed but what the test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(jdk, "_PLACES", (str(tmp_path / "jvm"),))
    return tmp_path / "jvm"


def test_the_first_jdk_that_is_new_enough_is_taken(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_jdk(places / "jdk-17", "17.0.15")
    make_jdk(places / "jdk-8", "1.8.0_402")
    with pytest.raises(MissingPartError, match="a JDK 21 or newer is not here"):
        jdk.find_jdk(21)
    newer = make_jdk(places / "jdk-25", "25")
    assert jdk.find_jdk(21) == newer
    assert jdk.major_version(places / "jdk-8") == 8
    named = make_jdk(places.parent / "named", "21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(named))
    assert jdk.find_jdk(21) == named
    monkeypatch.setenv("JAVA_HOME", str(places / "jdk-17"))
    assert jdk.find_jdk(21) == newer


def test_a_runtime_without_a_compiler_is_no_jdk(places: Path) -> None:
    (make_jdk(places / "jre-25", "25") / "bin" / "javac").unlink()
    with pytest.raises(MissingPartError):
        jdk.find_jdk(21)


def test_what_is_missing_is_a_skip_that_names_it_or_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = MissingPartError("Maven (mvn) is not here")
    monkeypatch.delenv("REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Maven"):
        skip_or_fail(missing)
    monkeypatch.setenv("REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="Maven"):
        skip_or_fail(missing)


def test_ports_are_free_and_distinct() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_server_that_ends_shows_its_log(tmp_path: Path) -> None:
    ended = ServerProcess.start([sys.executable, "-c", "print('no such port'); raise SystemExit(3)"], tmp_path / "a")
    with pytest.raises(RuntimeError, match=r"ended with 3:\nno such port"):
        ended.wait_until(lambda: False, 60.0)
    ended.stop()


def test_a_server_that_does_not_answer_is_stopped(tmp_path: Path) -> None:
    silent = ServerProcess.start([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "a")
    with pytest.raises(RuntimeError, match=r"did not answer within 0\.2 s"):
        silent.wait_until(lambda: False, 0.2)
    assert silent.process.poll() is not None

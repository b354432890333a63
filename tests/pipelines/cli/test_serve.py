"""`m3 serve` and `m3 keys` as processes: a person's first minutes from the README, and how a service ends."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from m3core.config.load import load_config
from pipelines.cli.main import main
from tests.pipelines.cli.conftest import M3
from tests.pipelines.cli.test_ingest_search import corpus, use_tiny
from tests.servers.missing import MissingPartError, skip_or_fail

README = Path(__file__).parents[3] / "README.md"
M3_COMMAND = [sys.executable, "-c", "import sys; from pipelines.cli.main import main; sys.exit(main())"]
SECONDS = 240

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Running:
    """A service as a process."""

    process: subprocess.Popen[str]
    address: str
    lines: list[str]

    def get(self, path: str, **rest: object) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", timeout=30, **rest)  # type: ignore[arg-type]

    def search(self, query: str = "night train", **body: object) -> httpx.Response:
        return httpx.post(f"{self.address}/v1/collections/docs/search", json={"query": query, **body}, timeout=30)

    def wait_ready(self) -> None:
        end = time.monotonic() + SECONDS
        while self.get("/readyz").status_code != 200:
            assert time.monotonic() < end, self.lines
            time.sleep(0.1)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [*M3_COMMAND, "serve", "--port", "0", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r" at (http://\S+:\d+)/$", line.rstrip()):
                reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
                reader.start()
                yield Running(process, found[1], lines)
                reader.join(1)
                return
        pytest.fail("".join(lines))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def ingest(folder: Path) -> None:
    """In this process: a fresh one would spend most of its time on imports."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert main(["ingest", "-c", str(folder / "m3.toml")]) == 0


def prepare(folder: Path, tiny_model: Path) -> None:
    """Documents and the configuration that `m3 init ./docs` writes."""
    corpus(folder)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        assert main(["init", "./docs"]) == 0
    use_tiny(folder, tiny_model)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("served")
    prepare(folder, tiny_model)
    ingest(folder)
    return folder


def readme_blocks() -> dict[str, str]:
    """The code blocks of the README's section about the service, by language ("" for commands)."""
    section = README.read_text("utf-8").partition("## Serve it\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert [language for language, _ in found] == ["", "python", "toml"]
    return dict(found)


def readme_commands() -> list[list[str]]:
    """The lines of the README's section that call a command, as words."""
    lines = [shlex.split(line, comments=True) for line in readme_blocks()[""].splitlines()]
    assert [words[0] for words in lines] == [".venv/bin/m3", "curl", "curl", "curl", ".venv/bin/m3"]
    return lines


def test_every_line_of_the_readme_works(built: Path, tmp_path: Path, m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(built, folder)
    serve, *curls, keys = readme_commands()
    assert serve[1] == "serve"
    with serving(folder, *serve[2:]) as running:
        running.wait_ready()

        def asked(words: list[str], *more: str) -> dict[str, Any]:
            command = [word.replace("http://127.0.0.1:8080", running.address) for word in words]
            done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
            told: dict[str, Any] = json.loads(done.stdout)
            return told

        ready, collections, found = [asked(words) for words in curls]
        assert ready["status"] == "ready"
        assert [each["name"] for each in collections["collections"]] == ["docs"]
        assert found["hits"][0]["title"] == "Night trains"
        code = readme_blocks()["python"].replace("http://127.0.0.1:8080", running.address)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=README.parent
        )
        assert done.returncode == 0, done.stderr
        assert "Night trains" in done.stdout
        monkeypatch.chdir(folder)
        made = m3(*keys[1:])
        assert made.code == 0
        # From now on everybody needs a key; this one acts for others.
        assert asked(curls[-1])["code"] == "unauthorized"
        bearer = ("-H", f"authorization: Bearer {made.out.strip()}")
        assert asked(curls[-1], *bearer)["hits"] == found["hits"]
        guest = ("-H", "m3-act-as-tenant: default", "-H", "m3-act-as-principals: guests")
        assert asked(curls[-1], *bearer, *guest)["hits"] == []


def test_the_page_that_the_readme_names(built: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        skip_or_fail(MissingPartError("chromium is not installed; on Debian: apt-get install chromium"))
    from playwright.sync_api import sync_playwright

    with serving(built) as running, sync_playwright() as playwright:
        running.wait_ready()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{running.address}/")
        page.wait_for_selector("#welcome:not([hidden])")
        page.keyboard.type("how do I claim the night train?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit")
        assert "Night trains" in page.locator(".hit .title").all_inner_texts()
        browser.close()


def test_the_issuer_of_the_readme_is_a_configuration(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "m3.toml"
    file.write_text(f"{(built / 'm3.toml').read_text('utf-8')}\n{readme_blocks()['toml']}", encoding="utf-8")
    oidc = load_config(file, {}).config.serve.oidc
    assert oidc is not None
    assert (oidc.tenant_claim, oidc.principals) == ("tenant", {"groups": "", "sub": "user:"})


def test_it_ends_by_sigterm_after_the_running_request(built: Path) -> None:
    with serving(built, "--grace", "20") as running:
        running.wait_ready()
        body = json.dumps({"query": "night train", "limit": 3}).encode()
        head = "POST /v1/collections/docs/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        place = urlsplit(running.address)
        with socket.create_connection((place.hostname, place.port), timeout=60) as client:
            # Half a request is one that runs. What comes after it is answered, so the service has seen it.
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
            assert running.get("/healthz").status_code == 200
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            client.sendall(body[5:])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Night trains" in answer
        assert running.process.wait(60) == 143


def test_it_serves_while_an_ingest_runs_and_shows_what_it_brought(tmp_path: Path, tiny_model: Path) -> None:
    prepare(tmp_path, tiny_model)
    with serving(tmp_path) as running:
        # Nothing was ingested yet: live, not ready, and it says so.
        assert running.get("/healthz").status_code == 200
        assert running.get("/readyz").status_code == 503
        refused = running.search()
        assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
        ingest(tmp_path)
        running.wait_ready()
        assert len(running.search().json()["hits"]) == 3
        (tmp_path / "docs" / "new.md").write_text("# Night bus\n\nThe night bus leaves at nine.\n", encoding="utf-8")
        over, codes = threading.Event(), []
        asking = threading.Thread(target=lambda: _ask_until(over, running, codes))
        asking.start()
        try:
            ingest(tmp_path)
        finally:
            over.set()
            asking.join()
        assert len(codes) > 1
        assert set(codes) == {200}
        end = time.monotonic() + 30
        while len(hits := running.search("night bus").json()["hits"]) < 4:
            assert time.monotonic() < end
        assert "new.md" in {hit["doc_id"] for hit in hits}
        document = running.get("/v1/collections/docs/documents/new.md").json()
        assert "leaves at nine" in document["chunks"][0]["text"]


def test_it_serves_while_another_generation_is_built_and_promoted(tmp_path: Path, tiny_model: Path, m3: M3) -> None:
    prepare(tmp_path, tiny_model)
    ingest(tmp_path)
    following = tmp_path / "next.toml"
    following.write_text(
        f"{(tmp_path / 'm3.toml').read_text('utf-8')}\n[chunking]\nmax_tokens = 64\n", encoding="utf-8"
    )
    with serving(tmp_path) as running:
        running.wait_ready()
        assert running.search().json()["generation"] == 1
        over, codes = threading.Event(), []
        asking = threading.Thread(target=lambda: _ask_until(over, running, codes))
        asking.start()
        try:
            assert m3("generations", "build", "-c", following).code == 0
            promoted = m3("generations", "promote", "-c", following)
            assert promoted.code == 0, promoted.err
        finally:
            over.set()
            asking.join()
        assert len(codes) > 1
        assert set(codes) == {200}
        found = running.search().json()
        assert (found["generation"], len(found["hits"])) == (2, 3)


def _ask_until(over: threading.Event, running: Running, codes: list[int]) -> None:
    while not over.is_set():
        codes.append(running.search().status_code)


def test_metrics_have_a_port_of_their_own(built: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(built, "--metrics-port", str(port)) as running:
        running.wait_ready()
        running.search("my private question")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        assert 'm3_http_requests_total{route="/v1/collections/{name}/search",status="200"} 1.0' in text
        assert "m3_search_stage_seconds_bucket" in text
        assert "m3_generation 1.0" in text
        assert "private" not in text
        assert running.get("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("option", "reached"),
    [("--host", "0.0.0.0"), ("--allow-host", "search.example.org")],  # noqa: S104 - it is refused
)
def test_beyond_this_machine_it_needs_a_key(built: Path, m3: M3, option: str, reached: str) -> None:
    """Also behind a proxy, which asks from this machine for others."""
    done = m3("serve", "-c", built / "m3.toml", option, reached, "--port", "0")
    assert done.code == 5
    assert f"{reached} can be reached from other machines" in done.err
    assert "m3 keys create" in done.err


def test_a_port_that_is_taken_is_told(built: Path, here: Path, m3: M3) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = m3("serve", "-c", built / "m3.toml", "--port", str(taken.getsockname()[1]))
    assert ended.code == 2
    assert "cannot be listened on" in ended.err


def test_keys_by_command(built: Path, m3: M3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "m3.toml"
    file.write_text((built / "m3.toml").read_text("utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert m3("keys", "list").out == "no keys: m3 serve answers this machine only\n"
    made = json.loads(m3("keys", "create", "backend", "--as", "acme:staff,hr", "--scope", "act-as", "--json").out)
    assert made["principals"] == ["staff", "hr"]
    assert made["act_as_tenants"] == ["acme"]
    shown = m3("keys", "create", "second", "--days", "1")
    assert re.fullmatch(r"m3_[0-9a-f]{16}_[\w-]{43}\n", shown.out)
    assert "not shown again" in shown.err
    listed = m3("keys", "list")
    assert shown.out.strip() not in listed.out
    assert "valid    backend · acme:staff,hr · act-as" in listed.out
    assert m3("keys", "revoke", made["id"]).out == f"{made['id']} revoked: backend\n"
    told = json.loads(m3("keys", "list", "--json").out)
    assert [each["state"] for each in told["keys"]] == ["revoked", "valid"]
    assert "hash" not in told["keys"][0]
    assert m3("keys", "revoke", "nothing").code == 2
    assert m3("keys", "create", "x", "--scope", "serach").code == 2

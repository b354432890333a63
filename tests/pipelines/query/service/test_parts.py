"""Small parts by themselves: facets, addresses, problems, readiness, metrics."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.config.model import Config
from m3core.errors import FilterError, M3Error, ModelError, StateError, StoreError, UsageError
from pipelines.query.answer import Hit
from pipelines.query.errors import DegradedError, OverloadedError, TenantBusyError
from pipelines.query.service import readiness
from pipelines.query.service.audit import AuditLine, AuditLog
from pipelines.query.service.facets import MAX_VALUES, count_facets
from pipelines.query.service.metrics import Metrics
from pipelines.query.service.problems import of_error
from pipelines.query.service.readiness import is_ready
from pipelines.query.service.running import Listening, address, allowed_hosts, bind, is_loopback
from pipelines.query.service.service import cursor_key, leaving_room

VALUES = st.one_of(
    st.sampled_from(["a", "b", ""]), st.integers(0, 2), st.booleans(), st.lists(st.sampled_from("xyz")).map(tuple)
)


def hit(metadata: dict[str, Any]) -> Hit:
    return Hit("id", "doc", 0, "t", "", "text", "en", 1.0, {}, (0, 1), metadata)


@given(st.lists(st.fixed_dictionaries({}, optional={"field": VALUES}), max_size=30))
def test_facets_against_counting_by_hand(rows: list[dict[str, Any]]) -> None:
    told = count_facets([hit(row) for row in rows], ["field", "field"])
    expected: Counter[str] = Counter()
    for row in rows:
        value = row.get("field", ())
        distinct = set(value) if isinstance(value, tuple) else {value} - {""}
        expected.update(repr(each) for each in distinct)
    shown = told["fields"]["field"]
    assert told["documents"] == len(rows)
    assert {repr(each["value"]): each["count"] for each in shown}.items() <= expected.items()
    assert len(shown) == min(MAX_VALUES, len(expected))
    assert [each["count"] for each in shown] == sorted((each["count"] for each in shown), reverse=True)


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),  # noqa: S104
     ("::", False), ("192.168.1.4", False), ("example.org", False), ("localhost.evil.example", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_names_that_are_answered() -> None:
    assert allowed_hosts(Listening(), ["Search.Example.org"]) == {
        "127.0.0.1", "::1", "localhost", "search.example.org",
    }  # fmt: skip
    everywhere = allowed_hosts(Listening("0.0.0.0"), [])  # noqa: S104
    assert "0.0.0.0" not in everywhere  # noqa: S104
    assert "10.1.2.3" in allowed_hosts(Listening("10.1.2.3"), [])


def test_a_body_does_not_wait_until_its_head_is_acknowledged() -> None:
    with bind(Listening(port=0)) as opened, socket.create_connection(opened.getsockname()):
        accepted, _ = opened.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_taken_or_not_ours() -> None:
    with bind(Listening(port=0)) as opened:
        port = opened.getsockname()[1]
        assert address(opened) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UsageError, match=str(port)):
            bind(Listening(port=port))
    with pytest.raises(UsageError, match="cannot be listened on"):
        bind(Listening("203.0.113.7", 0))
    if socket.has_ipv6:
        try:
            six = bind(Listening("::1", 0))
        except UsageError:
            return  # a machine without IPv6
        assert address(six).startswith("http://[::1]:")
        six.close()


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UsageError("limit 0", "more"), 400, True),
        (FilterError("yeer", "year"), 400, True),
        (StoreError("http://10.0.0.1 secret"), 503, False),
        (DegradedError("words: secret"), 503, False),
        (OverloadedError("64 searches are running", "", 2.2), 503, True),
        (TenantBusyError("its share", "", 1.0), 429, True),
        (StateError("/data/secret is damaged"), 500, False),
        (ModelError("/models/secret"), 500, False),
        (M3Error("secret"), 500, False),
    ],
)
def test_what_callers_learn_of_an_error(error: M3Error, status: int, told: bool) -> None:
    problem = of_error(error)
    assert problem.status == status
    assert (problem.detail == error.message) is told
    assert "secret" not in json.dumps(problem.as_json("r"))
    assert (problem.retry_after is not None) is (status in (429, 503))
    if isinstance(error, OverloadedError):
        assert problem.retry_after is not None
        assert problem.retry_after >= error.retry_after


@pytest.mark.parametrize(
    ("checks", "ready"),
    [
        ({"model": "ok", "generation": "ok", "stores": "ok"}, True),
        ({"model": "ok", "generation": "ok", "stores": "degraded"}, True),
        ({"model": "ok", "generation": "ok", "stores": "failed"}, False),
        ({"model": "loading", "generation": "unknown", "stores": "unknown"}, False),
        ({"model": "ok", "generation": "none", "stores": "unknown"}, False),
    ],
)
def test_when_a_search_would_be_answered(checks: dict[str, str], ready: bool) -> None:
    assert is_ready(checks) is ready


def test_a_fault_of_a_library_is_told_and_tried_again(
    kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(readiness, "_RETRY_SECONDS", 0.01)
    world = kit.random_world(1)
    encoder, tries = kit.encoder(world.query), []

    async def ready() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise RuntimeError("a card is away")

    encoder.ready = ready
    warming = readiness.Readiness(replace(world.router(), encoder=encoder))

    async def scene() -> None:
        warming.start()
        await asyncio.wait_for(warming.warmed(), 10)
        await warming.stop()

    asyncio.run(scene())
    assert len(tries) >= 4
    # Once, with where it happened, not once a try; without its words, which may be a document's.
    (line,) = [record.message for record in caplog.records if "not ready yet" in record.message]
    assert line.startswith("not ready yet: RuntimeError in pipelines.query.service.readiness:")


def test_metrics_are_served_in_prometheus_form() -> None:
    from urllib.request import urlopen

    metrics = Metrics()
    metrics.begin()
    metrics.end("/v1/encode", 200, 0.02)
    port = metrics.serve("127.0.0.1", 0)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert 'm3_http_requests_total{route="/v1/encode",status="200"} 1.0' in text
    assert "m3_http_in_flight 0.0" in text


def test_audit_lines_go_into_a_file_a_day(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    log = AuditLog(tmp_path / "audit", lambda: now[0])
    line = AuditLine("r", "k", "acme", ("a",), False, "search", "ok")
    log.write(line)
    log.write(line)
    now[0] += 86_400
    log.write(line)
    assert [file.name for file in sorted((tmp_path / "audit").iterdir())] == ["2027-01-15.jsonl", "2027-01-16.jsonl"]
    first = (tmp_path / "audit" / "2027-01-15.jsonl").read_text().splitlines()
    assert len(first) == 2
    assert "query" not in json.loads(first[0])


@pytest.mark.parametrize(
    ("kind", "asked", "cores", "threads"),
    [("qdrant-edge", None, 8, 4), ("qdrant-edge", None, 1, 1), ("qdrant-edge", 3, 8, 3), ("qdrant", None, 8, None)],
)
def test_the_model_leaves_cores_to_stores_that_search_here(
    monkeypatch: pytest.MonkeyPatch, kind: str, asked: int | None, cores: int, threads: int | None
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    store = {"kind": kind} | ({"url": "http://127.0.0.1:6333"} if kind == "qdrant" else {})
    config = Config.model_validate(
        {
            "collection": {"name": "handbook"},
            "model": {"threads": asked},
            "sources": {"docs": {"kind": "folder", "path": "docs"}},
            "stores": {"main": store},
        }
    )
    assert leaving_room(config).model.threads == threads
    assert leaving_room(config).stores == config.stores


def test_every_process_has_the_same_key_of_cursors(tmp_path: Path) -> None:
    first = cursor_key(tmp_path / "service" / "cursor.key")
    assert len(first) == 32
    assert cursor_key(tmp_path / "service" / "cursor.key") == first
    assert stat.S_IMODE((tmp_path / "service" / "cursor.key").stat().st_mode) == 0o600
    assert cursor_key(tmp_path / "other" / "cursor.key") != first

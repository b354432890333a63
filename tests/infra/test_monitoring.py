"""Alerts and dashboard: every metric is one that the code emits, every alert has its place in the runbook; promtool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from pipelines.query.service.metrics import Metrics
from tests.infra.places import INFRA
from tests.infra.tools import check

FOLDER = INFRA / "monitoring"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
NAME = re.compile(r"\bm3_\w+")
LABELS = re.compile(r"(m3_\w+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def emitted() -> dict[str, set[str]]:
    """Series names with their labels, as a scrape of the service shows them."""
    metrics = Metrics()
    for collector in list(metrics.registry._collector_to_names):
        labels = collector._labelnames
        if labels:
            collector.labels(*["x"] * len(labels))
    found: dict[str, set[str]] = {}
    for line in generate_latest(metrics.registry).decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return found


def queries() -> Iterator[str]:
    """Every PromQL expression of ours."""
    yield from (rule["expr"] for rule in ALERTS)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query")


def test_every_metric_and_label_in_alerts_and_dashboard_is_emitted(emitted: dict[str, set[str]]) -> None:
    asked = {name for query in queries() for name in NAME.findall(query)}
    assert len(asked) >= 9
    assert asked <= emitted.keys(), asked - emitted.keys()
    for query in queries():
        for name, matchers in LABELS.findall(query):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers)) - {"instance"}
            assert labels <= emitted[name], (name, labels)


def test_every_metric_that_is_emitted_is_looked_at(emitted: dict[str, set[str]]) -> None:
    asked = {name for query in queries() for name in NAME.findall(query)}
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in emitted}
    assert families == {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked}


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    runbook = (INFRA / "RUNBOOK.md").read_text("utf-8")
    headings = {line.lstrip("# ").strip() for line in runbook.splitlines() if line.startswith("#")}
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook"] == f"infra/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings
    cases = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text("utf-8"))["tests"]
    fired = {one["alertname"] for case in cases for one in case["alert_rule_test"] if one.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in ALERTS}


def test_the_dashboard_is_one_that_grafana_lays_out() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(panel["description"] and panel["title"] for panel in DASHBOARD["panels"])


def test_promtool_accepts_the_rules_and_their_cases() -> None:
    check("promtool", "check", "rules", "--lint-fatal", str(FOLDER / "alerts.yaml"))
    check("promtool", "test", "rules", str(FOLDER / "alerts_test.yaml"))


def test_promtool_parses_every_query_of_the_dashboard() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            check("promtool", "--experimental", "promql", "format", query)

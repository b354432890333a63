"""Keys, and what they open: over the file alone and over HTTP."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import StateError, UsageError
from m3core.types import Identity
from pipelines.query.service.keys import KeyFile, KeyRing, KeyWish
from pipelines.query.service.limits import RateLimits
from pipelines.query.service.problems import ProblemError
from tests.pipelines.query.service.conftest import Serve, Served
from tests.pipelines.query.service.test_app import problem

STAFF = Identity("acme", ("staff",))


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_key_opens_until_it_is_revoked_in_every_process(tmp_path: Path) -> None:
    file, ring = KeyFile(tmp_path / "s" / "keys.json"), KeyRing(KeyFile(tmp_path / "s" / "keys.json"))
    assert not ring.any()
    text, record = file.create(KeyWish("backend", STAFF, ("search", "encode")))
    assert ring.opens(text) == record
    assert record.identity == STAFF
    file.revoke(record.id[:6])
    assert ring.opens(text) is None
    assert ring.any()
    assert KeyFile(file.path).records()[0].revoked


def test_the_file_holds_no_key_and_is_the_owners(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "s" / "keys.json")
    text, record = file.create(KeyWish("backend", STAFF))
    secret = text.removeprefix(f"m3_{record.id}_")
    assert len(secret) == 43
    assert secret not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_a_key_ends_when_it_was_said_to(tmp_path: Path) -> None:
    clock = Clock()
    file = KeyFile(tmp_path / "s" / "keys.json", clock)
    ring = KeyRing(file, clock)
    text, _ = file.create(KeyWish("short", STAFF, days=2))
    clock.now += 2 * 86_400 - 1
    assert ring.opens(text) is not None
    clock.now += 2
    assert ring.opens(text) is None


@given(st.text(max_size=90))
def test_nothing_else_opens(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = KeyFile(tmp_path_factory.getbasetemp() / "nothing" / "keys.json")
    key = next((record for record in file.records()), None) or file.create(KeyWish("one", STAFF))[1]
    ring = KeyRing(file)
    assert ring.opens(text) is None
    assert ring.opens(f"m3_{key.id}_{text}") is None


def test_a_changed_secret_opens_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "s" / "keys.json")
    text, _ = file.create(KeyWish("one", STAFF))
    last = "A" if text[-1] != "A" else "B"
    assert KeyRing(file).opens(text[:-1] + last) is None


def test_a_damaged_file_opens_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "s" / "keys.json")
    text, _ = file.create(KeyWish("one", STAFF))
    ring = KeyRing(file)
    assert ring.opens(text) is not None
    broken = file.path.read_text().replace('"acme"', '"evil"')
    file.path.write_text(broken)
    with pytest.raises(StateError, match="checksum"):
        ring.opens(text)


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "a\nb"},
        {"scopes": ("serach",)},
        {"scopes": ()},
        {"days": 0},
        {"per_minute": -1},
        {"act_as_tenants": ("*",)},
    ],
)
def test_wishes_that_break_a_rule(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        KeyWish(**{"name": "one", "identity": STAFF, **wish})


def test_revoking_needs_one_key(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "s" / "keys.json")
    for _ in range(2):
        file.create(KeyWish("twin", STAFF))
    for given_ in ("twin", "nobody", ""):
        with pytest.raises(UsageError):
            file.revoke(given_)


def test_the_first_key_closes_the_door(served: Served) -> None:
    assert served.search().status_code == 200
    headers = served.key()
    problem(served.search(), 401, "unauthorized")
    assert served.client.get("/v1/collections").headers["www-authenticate"] == "Bearer"
    assert served.search(headers=headers).status_code == 200
    served.keys.revoke("test")
    problem(served.search(headers=headers), 401, "unauthorized")
    problem(served.search(), 401, "unauthorized")


def test_beyond_loopback_there_is_no_access_without_a_key(kit: Any, serve: Serve) -> None:
    served = serve(kit.random_world(1), open_access=False)
    problem(served.search(), 401, "unauthorized")
    problem(served.search(headers={"authorization": "Basic YTpi"}), 401, "unauthorized")
    assert served.client.get("/healthz").status_code == 200
    assert served.client.get("/").status_code == 200


def test_a_key_sees_what_its_identity_sees(kit: Any, serve: Serve) -> None:
    served = serve(kit.random_world(1))
    guests = served.key(identity=Identity("acme", ("guests",)))
    told = served.search(headers=guests).json()
    assert told["hits"] == []
    assert told["empty"]["reason"] == "nothing in this collection is visible to you"


def test_a_scope_that_is_not_there(served: Served) -> None:
    only_encode = served.key(scopes=("encode",))
    problem(served.search(headers=only_encode), 403, "forbidden")
    assert served.client.post("/v1/encode", json={"texts": ["x"]}, headers=only_encode).status_code == 200
    only_search = served.key(name="other")
    problem(served.client.post("/v1/encode", json={"texts": ["x"]}, headers=only_search), 403, "forbidden")


def act_as(tenant: str, *principals: str) -> dict[str, str]:
    names = ",".join(quote(each, safe="") for each in principals)
    return {"m3-act-as-tenant": quote(tenant, safe=""), "m3-act-as-principals": names}


def test_acting_for_others(served: Served) -> None:
    plain, backend = (
        served.key(),
        served.key(name="backend", identity=Identity("acme", ()), scopes=("search", "act-as")),
    )
    assert served.search(headers=backend).json()["hits"] == []
    assert served.search(headers={**backend, **act_as("acme", "staff")}).json()["hits"]
    problem(served.search(headers={**plain, **act_as("acme", "boss")}), 403, "forbidden")
    problem(served.search(headers={**backend, **act_as("other", "staff")}), 403, "forbidden")
    anywhere = served.key(name="any", scopes=("search", "act-as"), act_as_tenants=("*",))
    assert served.search(headers={**anywhere, **act_as("other", "staff")}).json()["hits"] == []
    for broken in ({"m3-act-as-tenant": "acme"}, act_as("", "staff"), act_as("a\x00", "b"), act_as("acme", "x" * 300)):
        problem(served.search(headers={**anywhere, **broken}), 400, "act-as")


def test_without_a_key_nobody_acts_for_others(served: Served) -> None:
    problem(served.search(headers=act_as("acme", "boss")), 403, "forbidden")


def test_a_keys_requests_are_counted(served: Served) -> None:
    headers = served.key(per_minute=60)
    codes = [served.client.get("/v1/collections", headers=headers).status_code for _ in range(14)]
    assert codes[:10] == [200] * 10
    assert 429 in codes
    refused = served.client.get("/v1/collections", headers=headers)
    assert int(refused.headers["retry-after"]) >= 1


@given(st.lists(st.floats(0, 30), min_size=1, max_size=80), st.integers(1, 600))
def test_no_minute_has_more_requests_than_allowed_and_a_bucket(waits: list[float], per_minute: int) -> None:
    clock = Clock()
    limits = RateLimits(clock)
    taken: list[float] = []
    for wait in waits:
        clock.now += wait
        left = limits.left("key", per_minute)
        if left < 1:
            with pytest.raises(ProblemError) as refused:
                limits.take("key", per_minute)
            assert refused.value.problem.status == 429
            clock.now += refused.value.problem.retry_after or 0
        # After the wait that was asked for there is one again.
        limits.take("key", per_minute)
        taken.append(clock.now)
    for start in taken:
        within = sum(start <= each < start + 60 for each in taken)
        assert within <= per_minute + max(10, per_minute / 10) + 1


def test_the_audit_log_says_who_asked_when_and_not_what(kit: Any, serve: Serve) -> None:
    served = serve(kit.random_world(1))
    headers = served.key(scopes=("search", "act-as"))
    served.search("a private question", headers={**headers, **act_as("acme", "staff", "leitung:süd")}, limit=4)
    served.search("x", filter="nothing = 1", headers=headers)
    served.client.get("/v1/collections/handbook/documents/none", headers=headers)
    (file,) = (served.keys.path.parent / "audit").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["outcome"], line["hits"]) for line in lines] == [
        ("search", "ok", 4), ("search", "filter", 0), ("document", "not-found", 0),
    ]  # fmt: skip
    assert lines[0]["acted"] is True
    assert lines[0]["principals"] == ["staff", "leitung:süd"]
    assert lines[0]["key"] == served.keys.records()[0].id
    assert "private" not in file.read_text()
    assert "authorization" not in file.read_text()


def test_queries_are_audited_where_that_is_asked_for(kit: Any, serve: Serve) -> None:
    served = serve(kit.random_world(1), audit_queries=True)
    served.search("the question")
    (file,) = (served.keys.path.parent / "audit").iterdir()
    assert json.loads(file.read_text())["query"] == "the question"

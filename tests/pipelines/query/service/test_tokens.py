"""Bearer tokens of an issuer that really serves its keys: what lets a caller in, as whom, and every way to cheat."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from m3core.config.model import OidcSection
from m3core.errors import ConfigError
from m3core.types import Identity
from pipelines.query.service import issuer as module
from pipelines.query.service.issuer import IssuerError, IssuerKeys, fetcher, signing_keys
from pipelines.query.service.problems import ProblemError
from pipelines.query.service.tokens import MAX_TOKEN_CHARS, Tokens, identity_of
from tests.pipelines.query.service.conftest import Serve, Served
from tests.servers.issuer import Issuer, new_key, running_issuer

ASK = "/v1/collections/handbook/search"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


def section(issuer: Issuer, **changed: Any) -> OidcSection:
    usual = {"issuer": issuer.url, "audience": "threefold", "tenant_claim": "tenant"}
    return OidcSection.model_validate({**usual, **changed})


Guarded = Callable[..., Served]


@pytest.fixture
def guarded(kit: Any, serve: Serve, issuer: Issuer) -> Guarded:
    """The service, taking the issuer's tokens."""

    def start(**oidc: Any) -> Served:
        chosen = section(issuer, **oidc).model_dump(exclude_defaults=True)
        return serve(kit.random_world(1), config={"serve": {"oidc": chosen}})

    return start


def asked(served: Served, token: str, **headers: str) -> Any:
    return served.search(headers={"authorization": f"Bearer {token}", **headers})


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_token_searches_for_its_user_and_leaves_a_line_in_the_audit_log(guarded: Guarded, issuer: Issuer) -> None:
    served = guarded()
    response = asked(served, issuer.token())
    assert response.status_code == 200, response.text
    assert response.json()["hits"]
    nobody = asked(served, issuer.token(groups=["guests"], sub="u-18")).json()
    assert nobody["hits"] == []
    assert nobody["empty"]["visible"] == 0
    assert asked(served, issuer.token(tenant="other")).json()["hits"] == []
    folder = Path(served.service.config.storage.path) / "service" / "handbook" / "audit"
    lines = [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]
    assert [(each["subject"], each["tenant"], each["principals"]) for each in lines] == [
        ("u-17", "acme", ["staff"]),
        ("u-18", "acme", ["guests"]),
        ("u-17", "other", ["staff"]),
    ]
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_once_an_issuer_is_configured_nobody_comes_in_without_a_name(guarded: Guarded) -> None:
    served = guarded()
    assert served.search().status_code == 401
    assert served.search(headers=served.key()).status_code == 200
    assert served.search(headers={"authorization": "Basic eDp5"}).status_code == 401


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_every_kind_of_key(guarded: Guarded, issuer: Issuer, algorithm: str) -> None:
    issuer.rotate("k", algorithm)
    assert asked(guarded(algorithms=(algorithm,)), issuer.token()).status_code == 200


def signed_by_hand(issuer: Issuer, header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    signed = f"{segment(header)}.{segment(issuer.claims())}"
    return f"{signed}.{segment(sign(signed.encode()))}"


def forgeries(issuer: Issuer) -> Iterator[tuple[str, str]]:
    """What somebody without the private key, or with a token for something else, may try."""
    now = int(time.time())
    _, own = issuer.keys["first"]
    public = own.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    good = issuer.token()
    head, body, signature = good.split(".")
    stranger = new_key("ES256")
    yield "alg none", f"{segment({'alg': 'none', 'kid': 'first'})}.{body}."
    yield "alg None, signed", f"{segment({'alg': 'None', 'kid': 'first'})}.{body}.{signature}"
    yield (
        "HMAC with the public key as its secret",
        signed_by_hand(
            issuer, {"alg": "HS256", "kid": "first"}, lambda data: hmac.new(pem, data, hashlib.sha256).digest()
        ),
    )
    yield "another key under the known name", jwt.encode(issuer.claims(), stranger, "ES256", headers={"kid": "first"})
    yield (
        "a key that the token brings along",
        jwt.encode(
            issuer.claims(),
            stranger,
            "ES256",
            headers={"kid": "first", "jwk": jwt.get_algorithm_by_name("ES256").to_jwk(stranger.public_key(), True)},
        ),
    )
    yield (
        "a place of keys that the token names",
        jwt.encode(
            issuer.claims(), stranger, "ES256", headers={"kid": "first", "jku": f"{issuer.url}/evil", "x5u": "x"}
        ),
    )
    yield "an unknown key", issuer.token(headers={"kid": "second"})
    yield "a key that is no string", f"{segment({'alg': 'ES256', 'kid': ['first']})}.{body}.{signature}"
    yield "an algorithm that is not allowed", jwt.encode(issuer.claims(), new_key("RS256"), "RS512")
    yield "the algorithm of another kind of key", f"{segment({'alg': 'RS256', 'kid': 'first'})}.{body}.{signature}"
    yield "a critical extension", issuer.token(headers={"crit": ["exp"]})
    yield "another body", f"{head}.{segment(issuer.claims(tenant='other'))}.{signature}"
    yield "no signature", f"{head}.{body}."
    yield "an empty signature's neighbour", f"{head}.{body}.AA"
    yield "another issuer", issuer.token(iss="https://evil.example")
    yield "the issuer with a slash more", issuer.token(iss=issuer.url + "/")
    yield "another audience", issuer.token(aud="somebody-else")
    yield "other audiences", issuer.token(aud=["a", "b"])
    yield "expired beyond the leeway", issuer.token(exp=now - 60)
    yield "not yet valid", issuer.token(nbf=now + 120)
    yield "from the future", issuer.token(iat=now + 120)
    yield "an expiry that is no number", issuer.token(exp="soon")
    yield "no expiry at all", issuer.token(exp=None)
    yield "no subject", issuer.token(sub=None)
    yield "no audience", issuer.token(aud=None)
    yield "no issuer", issuer.token(iss=None)
    yield "a body that is no object", signed(issuer, [1])
    yield "an expiry beyond every number", signed(issuer, b'{"exp": 1e999, "iss": "x", "aud": "threefold", "sub": "a"}')
    yield "deep JSON", signed(issuer, b"[" * 5000)
    yield "not base64", "a!.b.c"
    yield "two dots", ".."
    yield "five parts, as an encrypted token has", "a.b.c.d.e"
    yield "long", issuer.token(padding="x" * (3 * MAX_TOKEN_CHARS // 4))


def signed(issuer: Issuer, body: object) -> str:
    """A token with a good signature over whatever `body` is."""
    _, key = issuer.keys["first"]
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return jwt.api_jws.encode(payload, key, "ES256", headers={"kid": "first"})


def test_no_forgery_opens_and_no_answer_says_what_was_wrong(guarded: Guarded, issuer: Issuer) -> None:
    served = guarded()
    answers = set()
    for name, token in forgeries(issuer):
        response = asked(served, token)
        assert response.status_code == 401, name
        body = response.json()
        del body["request_id"]
        answers.add(json.dumps(body))
    assert len(answers) == 1
    assert "/evil" not in issuer.asked
    # What is larger than a head may be is not even looked at.
    assert asked(served, issuer.token(padding="x" * 16_000)).status_code == 431
    assert asked(served, issuer.token()).status_code == 200


def test_small_differences_of_clocks_are_forgiven(guarded: Guarded, issuer: Issuer) -> None:
    served, now = guarded(), int(time.time())
    assert asked(served, issuer.token(exp=now - 10, iat=now - 400)).status_code == 200
    assert asked(served, issuer.token(iat=now + 10, nbf=now + 10)).status_code == 200


def test_an_rsa_key_that_is_too_short_signs_nothing(guarded: Guarded, issuer: Issuer) -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    issuer.keys = {"short": ("RS256", short)}
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token()
    assert asked(guarded(), token).status_code == 401


def test_a_key_that_is_meant_for_encryption_or_for_another_algorithm_signs_nothing(
    guarded: Guarded, issuer: Issuer
) -> None:
    own = issuer.jwks()["keys"][0]
    token = issuer.token()
    issuer.keys = {}
    for changed in ({"use": "enc"}, {"alg": "ES384"}, {"crv": "P-384"}, {"kty": "oct", "k": "AAAA"}):
        issuer.more = [{**own, **changed}]
        assert asked(guarded(), token).status_code == 401, changed


def test_a_token_without_a_key_name_needs_an_issuer_with_one_nameless_key(guarded: Guarded, issuer: Issuer) -> None:
    nameless = jwt.encode(issuer.claims(), issuer.keys["first"][1], "ES256")
    assert asked(guarded(), nameless).status_code == 401
    issuer.more, issuer.keys = [{k: v for k, v in issuer.jwks()["keys"][0].items() if k != "kid"}], {}
    assert asked(guarded(), nameless).status_code == 200


def test_act_as_is_for_keys_and_scopes_are_the_configured_ones(guarded: Guarded, issuer: Issuer) -> None:
    served = guarded()
    act_as = {"m3-act-as-tenant": "acme", "m3-act-as-principals": "staff"}
    assert asked(served, issuer.token(), **act_as).status_code == 403
    encode = {"authorization": f"Bearer {issuer.token()}"}
    assert served.client.post("/v1/encode", json={"texts": ["x"]}, headers=encode).status_code == 403
    wide = guarded(scopes=("search", "encode"))
    assert wide.client.post("/v1/encode", json={"texts": ["x"]}, headers=encode).status_code == 200


def test_a_scope_can_be_asked_for(guarded: Guarded, issuer: Issuer) -> None:
    served = guarded(required_scope="search:read")
    assert asked(served, issuer.token()).status_code == 403
    assert asked(served, issuer.token(scope="search:readwrite openid")).status_code == 403
    assert asked(served, issuer.token(scope="openid search:read")).status_code == 200
    assert asked(served, issuer.token(scp=["search:read", 7])).status_code == 200


def test_one_user_cannot_use_up_anothers_requests(guarded: Guarded, issuer: Issuer) -> None:
    served = guarded(per_minute=1)
    statuses = [asked(served, issuer.token()).status_code for _ in range(12)]
    assert statuses.count(200) == 10
    assert statuses[-1] == 429
    assert asked(served, issuer.token(sub="u-18")).status_code == 200


def test_the_users_name_is_in_no_log(guarded: Guarded, issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    served = guarded()
    token = issuer.token(sub="jane@example.org")
    assert asked(served, token).status_code == 200
    assert asked(served, token[:-8] + "AAAAAAAA").status_code == 401
    assert "oidc:" in caplog.text
    for secret in ("jane", token[:40], token.split(".")[1][:40]):
        assert secret not in caplog.text


CLAIMS = {"sub": "u", "tenant": "acme", "https://x.example/t": "dotted", "realm": {"roles": ["a", "b"], "t": "in"}}


@pytest.mark.parametrize(
    ("claims", "changed", "expected"),
    [
        ({"groups": ["a", "b"]}, {}, Identity("acme", ("a", "b"))),
        ({"groups": "a"}, {}, Identity("acme", ("a",))),
        ({}, {}, Identity("acme", ())),
        ({"groups": {"a": 1}}, {}, Identity("acme", ())),
        ({}, {"everyone": ("all",)}, Identity("acme", ("all",))),
        (
            {},
            {"principals": {"sub": "user:", "realm.roles": "role:"}},
            Identity("acme", ("user:u", "role:a", "role:b")),
        ),
        ({}, {"tenant_claim": "https://x.example/t"}, Identity("dotted", ())),
        ({}, {"tenant_claim": "realm.t"}, Identity("in", ())),
        ({}, {"tenant_claim": "", "tenant": "only"}, Identity("only", ())),
    ],
)
def test_claims_become_an_identity(claims: dict[str, Any], changed: dict[str, Any], expected: Identity) -> None:
    usual = {"issuer": "https://id.example", "audience": "a", "tenant_claim": "tenant"}
    assert identity_of({**CLAIMS, **claims}, OidcSection.model_validate({**usual, **changed})) == expected


@pytest.mark.parametrize(
    "claims",
    [
        {"tenant": ["acme"]}, {"tenant": ""}, {"tenant": 7}, {"tenant": "a\x00"}, {"tenant": "a" * 257},
        {"groups": ["a", 7]}, {"groups": [""]}, {"groups": ["a\nb"]}, {"groups": [f"g{n}" for n in range(1001)]},
    ],
)  # fmt: skip
def test_odd_claims_are_nobodys(claims: dict[str, Any]) -> None:
    chosen = OidcSection(issuer="https://id.example", audience="a", tenant_claim="tenant")
    with pytest.raises(ProblemError) as raised:
        identity_of({**CLAIMS, **claims}, chosen)
    assert raised.value.problem.status == 403


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def keys_of(issuer: Issuer, clock: Clock, **changed: Any) -> IssuerKeys:
    return IssuerKeys(fetcher(section(issuer, **changed)), clock)


def find(keys: IssuerKeys, kid: str) -> bool:
    return asyncio.run(keys.find(kid)) is not None


def test_keys_are_kept_and_follow_a_rotation(issuer: Issuer) -> None:
    clock = Clock()
    keys = keys_of(issuer, clock)
    assert all(find(keys, "first") for _ in range(5))
    assert issuer.asked.count("/keys") == 1
    issuer.rotate("second")
    clock.now += module.COOLDOWN_SECONDS + 1
    # The new key is found at once, and the old one is gone with it.
    assert find(keys, "second")
    assert not find(keys, "first")
    assert issuer.asked.count("/keys") == 2


def test_a_key_that_was_taken_back_is_gone_when_what_is_kept_is_old(issuer: Issuer) -> None:
    clock = Clock()
    keys = keys_of(issuer, clock)
    assert find(keys, "first")
    issuer.rotate("second")
    clock.now += module.FRESH_SECONDS + 1
    assert not find(keys, "first")


def test_made_up_names_do_not_reach_the_issuer_again_and_again(issuer: Issuer) -> None:
    clock = Clock()
    keys = keys_of(issuer, clock)
    assert not any(find(keys, f"made-up-{number}") for number in range(50))
    assert issuer.asked.count("/keys") == 1
    clock.now += module.COOLDOWN_SECONDS + 1
    assert not find(keys, "made-up")
    assert issuer.asked.count("/keys") == 2


def test_many_at_once_ask_once(issuer: Issuer) -> None:
    keys = keys_of(issuer, Clock())

    async def together() -> list[object]:
        return await asyncio.gather(*(keys.find("first") for _ in range(20)))

    assert all(asyncio.run(together()))
    assert issuer.asked.count("/keys") == 1


def test_while_the_issuer_is_away_what_is_kept_is_used_for_a_day(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = keys_of(issuer, clock)
    assert find(keys, "first")
    issuer.status = 503
    clock.now += module.FRESH_SECONDS + 1
    assert find(keys, "first")
    assert "answered 503" in caplog.text
    clock.now += module.STALE_SECONDS
    with pytest.raises(ProblemError) as raised:
        find(keys, "first")
    assert (raised.value.problem.status, raised.value.problem.retry_after) == (503, 5)
    issuer.status = 200
    clock.now += module.COOLDOWN_SECONDS + 1
    assert find(keys, "first")


def test_an_issuer_that_never_answered_is_an_error_of_ours_not_of_the_callers(guarded: Guarded, issuer: Issuer) -> None:
    issuer.status = 500
    response = asked(guarded(), issuer.token())
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["code"] == "issuer"
    assert issuer.url not in response.text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"status": 302}, "answered 302"),
        ({"body": b"<html>"}, "JSONDecodeError"),
        ({"body": b"[]"}, "no JSON object"),
        ({"body": b" " * ((256 << 10) + 1)}, "more than"),
        ({"body": b"[" * 100_000}, "RecursionError"),
        ({"said": {"issuer": "https://evil.example"}}, "another issuer"),
        ({"said": {"jwks_uri": "file:///etc/passwd"}}, "no https address"),
    ],
)
def test_an_issuer_that_says_nonsense(issuer: Issuer, changed: dict[str, Any], words: str) -> None:
    for name, value in changed.items():
        setattr(issuer, name, value)
    with pytest.raises(IssuerError, match=words):
        fetcher(section(issuer))()


def test_an_issuer_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as client:
                client.recv(4096)
                client.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(IssuerError, match="BadStatusLine"):
            fetcher(OidcSection(issuer=url, audience="threefold"))()
        thread.join(10)


def test_keys_without_use_are_left_out() -> None:
    ec_key = {"kty": "EC", "kid": "a"}
    assert signing_keys({"keys": [ec_key, {"kty": "oct", "kid": "b"}, {"kty": "RSA"}, 7]}) == {"a": ec_key}
    for nonsense in ({}, {"keys": {}}, {"keys": [ec_key] * 101}):
        with pytest.raises(IssuerError, match="no list"):
            signing_keys(nonsense)


def test_a_closed_port_and_a_missing_ca(issuer: Issuer) -> None:
    with pytest.raises(IssuerError, match="refused"):
        fetcher(section(issuer, jwks_url="http://127.0.0.1:1/keys"))()
    with pytest.raises(ConfigError, match=r"serve\.oidc\.ca"):
        fetcher(section(issuer, ca="/nowhere.pem"))


def test_tokens_are_checked_against_a_configured_address_of_keys(issuer: Issuer) -> None:
    tokens = Tokens.of(section(issuer, jwks_url=f"{issuer.url}/keys"))
    owner = asyncio.run(tokens.owner(issuer.token()))
    assert owner.identity == Identity("acme", ("staff",))
    assert issuer.asked == ["/keys"]


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "id.example"}, {"issuer": "https://u:p@id.example"}, {"algorithms": ("HS256",)},
        {"algorithms": ("none",)}, {"algorithms": ()}, {"leeway": 3600}, {"scopes": ("act-as",)},
    ],
)  # fmt: skip
def test_what_cannot_be_configured(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OidcSection.model_validate({"issuer": "https://id.example", "audience": "a", "tenant": "t", **changed})

"""The OpenAPI document is the contract: requests made from it never meet a 5xx or an answer it does not know."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipelines.query.service.schemas import ProblemTold
from tests.pipelines.query.service.conftest import Serve, Served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# A path, a method: what the document must have, so that a test over none of them cannot pass.
OPERATIONS = {
    ("GET", "/v1/collections"),
    ("GET", "/v1/collections/{name}"),
    ("GET", "/v1/collections/{name}/documents/{doc_id}"),
    ("GET", "/v1/collections/{name}/search"),
    ("POST", "/v1/collections/{name}/search"),
    ("POST", "/v1/encode"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
}


def test_the_document_is_complete(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    found = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert found == OPERATIONS
    assert document["components"]["schemas"]["ProblemTold"]["title"] == ProblemTold.__name__
    for path, item in document["paths"].items():
        for told in item.values():
            assert "422" in told["responses"]
            if path.startswith("/v1"):
                assert {"401", "403", "429", "503"} <= set(told["responses"])
                assert told["security"]
    search = document["components"]["schemas"]["SearchBody"]
    assert search["additionalProperties"] is False
    assert search["properties"]["query"]["maxLength"] == 8192


def fuzz(served: Served, examples: int) -> int:
    document = served.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.app = served.client.app
    sent = 0
    headers = served.key(scopes=("search", "encode", "act-as"), act_as_tenants=("*",), per_minute=0)
    for wrapped in schema.get_all_operations():
        operation = wrapped.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck)
        )
        def ask(case: Any) -> None:
            nonlocal sent
            # A name of ours often enough that something is searched.
            if case.path_parameters and "name" in case.path_parameters and sent % 3:
                case.path_parameters["name"] = "handbook"
            # Whoever gives a search less time than it takes is told 503: documented, and no fault.
            if isinstance(case.body, dict) and case.body.get("timeout_s") is not None:
                case.body["timeout_s"] = 10.0
            parts = case.as_transport_kwargs(base_url="http://testserver", headers=headers)
            response = served.client.request(
                **{name: part for name, part in parts.items() if part and name != "cookies"}
            )
            case.validate_response(response, checks=CHECKS)
            sent += 1

        ask()
    return sent


def test_no_request_of_the_document_meets_a_fault(served: Served) -> None:
    assert fuzz(served, 20) >= 100


@pytest.mark.nightly
def test_ten_thousand_requests_meet_no_fault(kit: Any, serve: Serve) -> None:
    # Six of the operations have something to vary.
    assert fuzz(serve(kit.random_world(2)), 1_700) >= 10_000

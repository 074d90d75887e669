"""The API does what its OpenAPI document says, whatever is asked: statuses, types of content and bodies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from parts.system import System, embedded_system

DOCUMENT = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
FEW = settings(max_examples=10, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("openapi"), CALLTAG_LOG__LEVEL="warning") as system:
        yield system


@DOCUMENT.parametrize()
@FEW
@pytest.mark.parametrize("user", ["alice", "switch"])
def test_users(case: schemathesis.Case[Any], served: System, user: str) -> None:
    case.call_and_validate(base_url=served.gateway_url, auth=(user, "demo"), checks=CHECKS)


@DOCUMENT.parametrize()
@FEW
def test_nobody(case: schemathesis.Case[Any], served: System) -> None:
    case.call_and_validate(base_url=served.gateway_url, headers={"Cookie": "JSESSIONID=x"}, checks=CHECKS)

"""The whole OpenAPI document against the running application: whatever is sent, the answer is one that it promises."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from boxkeep_server.model.errors import Invalid
from boxkeep_server.web.app import described
from boxkeep_server.web.json_bodies import parse_object
from tests.api.stage import Stage
from tests.guests import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = 12


@pytest_asyncio.fixture
async def address(stage: Stage) -> AsyncIterator[str]:
    """The address of a real server of the stage."""
    port = free_port()
    config = uvicorn.Config(stage.app, host="127.0.0.1", port=port, access_log=False, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


async def test_every_operation_answers_as_promised(address: str, key: str, box: str) -> None:
    await asyncio.to_thread(_exercise, address, key, box)


def _exercise(address: str, key: str, box: str) -> None:
    schema = schemathesis.openapi.from_dict(described())
    headers = {"Authorization": f"Bearer {key}"}
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            body = case.body if isinstance(case.body, dict) else {}
            if case.path.endswith(("/exec", "/code")) and body.get("id") == box:
                return
            response = case.call(base_url=address, headers=headers, timeout=30)
            assert response.status_code != 500
            case.validate_response(
                response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
            )

        send()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_body_is_an_object_or_a_400(body: bytes) -> None:
    try:
        parsed: object = parse_object(body)
    except Invalid:
        return
    assert isinstance(parsed, dict)


def test_the_committed_document_is_the_one_of_the_code() -> None:
    checked = subprocess.run([sys.executable, "scripts/openapi.py", "--check"], cwd=ROOT, check=False)
    assert checked.returncode == 0

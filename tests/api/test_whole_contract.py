"""The whole OpenAPI document against the running application: whatever is sent, the answer is one that it promises."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from boxkeep_server.model.errors import Invalid
from boxkeep_server.web.app import described
from boxkeep_server.web.json_bodies import parse_object
from tests.api.stage import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = {GenerationMode.POSITIVE: 8, GenerationMode.NEGATIVE: 4}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance, response_headers_conformance]
MOST_MS = 20
CHANGING = {
    *("exec", "code", "endSandbox", "watchEvents", "uploadFile"),
    *(f"{verb}File" for verb in ("write", "mkdir", "move", "remove", "chmod")),
}
"""What would run, last, or change files in the stage's real guest; those get one that is over."""


@pytest.mark.parametrize("mode", EXAMPLES, ids=lambda mode: mode.value)
async def test_every_operation_answers_as_promised(
    served: str, stage: Stage, key: str, box: str, mode: GenerationMode
) -> None:
    over = (await stage.sandbox(key)).id
    await stage.fail(over, "no_capacity")
    foreign = (await stage.sandbox(await stage.key("evil"))).id
    await asyncio.to_thread(_exercise, f"http://{served}", key, box, (over, foreign), mode)


def _exercise(address: str, key: str, box: str, others: tuple[str, str], mode: GenerationMode) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    with requests.Session() as session:
        for result in schemathesis.openapi.from_dict(described()).get_all_operations():
            operation = result.ok()  # type: ignore[union-attr]
            changing = operation.definition.raw["operationId"] in CHANGING
            names = st.sampled_from(others if changing else (box, *others))

            @settings(
                max_examples=EXAMPLES[mode],
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode), name=st.none() | names)
            def send(case: Any, name: str | None) -> None:
                _name_sandbox(case, name)
                _wait_briefly(case)
                response = case.call(base_url=address, headers=headers, timeout=30, session=session)
                assert response.status_code != 500
                assert "x-request-id" in response.headers
                case.validate_response(response, checks=CHECKS)

            if mode is GenerationMode.POSITIVE or operation.query or operation.body:
                send()  # nothing that an operation takes nothing of can be wrong


def _name_sandbox(case: Any, name: str | None) -> None:
    """Let a case be about a sandbox that is there: ids that are drawn never are."""
    for part in (case.query, case.body):
        if name is not None and isinstance(part, dict) and isinstance(part.get("id"), str):
            part["id"] = name


def _wait_briefly(case: Any) -> None:
    """Nothing comes of waiting here: no sandbox is ever placed."""
    asked = case.query if isinstance(case.query, dict) else {}
    given_ms = asked.get("timeoutMs", MOST_MS + 1)
    if asked.get("wait") == "ready" and isinstance(given_ms, int) and given_ms > MOST_MS:
        asked["timeoutMs"] = MOST_MS


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300)
def test_any_body_is_an_object_or_a_400(body: bytes) -> None:
    try:
        parsed: object = parse_object(body)
    except Invalid:
        return
    assert isinstance(parsed, dict)


def test_the_committed_document_is_the_one_of_the_code() -> None:
    checked = subprocess.run([sys.executable, "scripts/openapi.py", "--check"], cwd=ROOT, check=False)
    assert checked.returncode == 0

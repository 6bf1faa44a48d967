"""The node API over a real Unix socket, the machine layer in memory."""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import Claim, ClaimHint, Claims, Leaks, NodeFacts, Refusal, Release
from boxkeep_server.node.api import Api, serve
from boxkeep_server.node.service import Service
from tests.node_hosts import Host
from tests.node_layers import Layer, NeverStarts
from tests.node_worlds import adopted, until, wish


class Socket:
    """A service on a socket, and a session that speaks to it."""

    def __init__(self, service: Service, host: Host, path: Path, session: aiohttp.ClientSession) -> None:
        self.service, self.host, self.path, self.session = service, host, path, session

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        data = io.BytesIO(raw)
        async with self.session.request(method, f"http://node{path}", data=data) as response:
            return response.status, await response.read()

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str, str]:
        status, raw = await self.ask(method, path, body)
        refusal = Refusal.model_validate_json(raw)
        return status, refusal.code, refusal.error


async def opened(layer: Layer, directory: Path, uids: frozenset[int]) -> AsyncIterator[Socket]:
    service = await adopted(layer, slots=3)
    path = directory / "run" / "node.sock"
    runner = await serve(Api(service, uids).application(), path, os.getgid())
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path))) as session:
            yield Socket(service, layer.host, path, session)
    finally:
        await runner.cleanup()
        await service.crew.dismiss()


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Socket]:
    async for one in opened(Layer(Host(tmp_path)), tmp_path, frozenset({os.getuid()})):
        yield one


def body(**fields: object) -> dict[str, object]:
    return wish(**fields).model_dump(mode="json", by_alias=True)  # type: ignore[arg-type]


def path_of(wanted: dict[str, object]) -> str:
    return f"/v1/claims/{wanted['sandbox']}/{wanted['epoch']}/{wanted['role']}"


async def test_a_claim_goes_through_its_life(node: Socket) -> None:
    wanted = body()
    status, raw = await node.ask("POST", "/v1/claims", wanted)
    assert status == 200
    claim = Claim.model_validate_json(raw)
    assert claim.state == "running"
    _, raw = await node.ask("GET", "/v1/claims")
    assert [one.machine for one in Claims.model_validate_json(raw).claims] == [claim.machine]
    _, raw = await node.ask("PATCH", path_of(wanted), {"notAfter": 7_000_000})
    assert Claim.model_validate_json(raw).not_after == 7_000_000
    _, raw = await node.ask("GET", path_of(wanted))
    assert Claim.model_validate_json(raw).not_after == 7_000_000
    status, raw = await node.ask("DELETE", path_of(wanted))
    assert Release.model_validate_json(raw).tails["p" * 32].stderr == "ZXJy"
    assert (await node.ask("DELETE", path_of(wanted)))[0] == 200
    assert (await node.refused("POST", "/v1/claims", wanted))[:2] == (410, "released")
    assert (await node.refused("GET", path_of(wanted)))[:2] == (404, "not_found")


async def test_facts_leaks_and_metrics_are_told(node: Socket) -> None:
    await node.ask("POST", "/v1/claims", body())
    facts = NodeFacts.model_validate_json((await node.ask("GET", "/v1/node"))[1])
    assert (facts.slots, facts.slots_used, facts.default_isolation) == (3, 1, "runsc")
    assert Leaks.model_validate_json((await node.ask("GET", "/v1/leaks"))[1]).total == 0
    metrics = (await node.ask("GET", "/metrics"))[1].decode()
    assert 'boxkeep_node_machines{state="running"} 1.0' in metrics


async def test_the_socket_is_for_its_group_and_nobody_else(node: Socket) -> None:
    assert node.path.stat().st_mode & 0o777 == 0o660


async def test_a_peer_of_another_account_is_refused(tmp_path: Path) -> None:
    async for node in opened(Layer(Host(tmp_path)), tmp_path, frozenset({os.getuid() + 1})):
        assert (await node.refused("GET", "/v1/node"))[:2] == (403, "forbidden")
        assert (await node.refused("POST", "/v1/claims", body()))[:2] == (403, "forbidden")
        assert node.host.bodies == {}


@pytest.mark.parametrize(
    "change",
    [
        {"sandbox": "../../../etc"},
        {"sandbox": "A" * 32},
        {"epoch": 0},
        {"epoch": "x"},
        {"epoch": 1 << 60},
        {"role": "other"},
        {"image": "../base"},
        {"isolation": "none"},
        {"hostname": "a b"},
        {"hostname": "-" * 3},
        {"env": {"A": 5}},
        {"env": {"A": "\x00"}},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x" * 140_000}},
        {"network": {"allow": ["1.2.3.4/33"]}},
        {"network": {"allow": ["1.2.3.4"] * 65}},
        {"notAfter": 1},
        {"notAfter": 1 << 63},
        {"command": "rm"},
    ],
)
async def test_a_malformed_claim_is_refused_in_a_sentence(node: Socket, change: dict[str, object]) -> None:
    status, code, sentence = await node.refused("POST", "/v1/claims", {**body(), **change})
    assert (status, code) == (400, "bad_request")
    assert sentence
    assert node.host.bodies == {}


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000])
async def test_what_is_no_message_is_refused(node: Socket, raw: bytes) -> None:
    assert (await node.refused("POST", "/v1/claims", raw))[:2] == (400, "bad_request")


async def test_a_body_over_the_bound_is_refused(node: Socket) -> None:
    assert (await node.refused("POST", "/v1/claims", b" " * ((1 << 20) + 1)))[:2] == (400, "bad_request")


async def test_a_refusal_does_not_repeat_a_secret(node: Socket) -> None:
    raw = (await node.ask("POST", "/v1/claims", {**body(), "env": {"A": ["hunter2"]}}))[1]
    assert b"hunter2" not in raw


@pytest.mark.parametrize(
    "path",
    [
        "/v1/claims/short/1/main",
        f"/v1/claims/{'a' * 32}/0/main",
        f"/v1/claims/{'a' * 32}/-1/main",
        f"/v1/claims/{'a' * 32}/{'9' * 5000}/main",
        f"/v1/claims/{'a' * 32}/%D9%A1/main",
        f"/v1/claims/{'a' * 32}/1/other",
        f"/v1/claims/..%2F..%2F{'a' * 26}/1/main",
    ],
)
async def test_a_malformed_key_is_refused(node: Socket, path: str) -> None:
    for method, message in (("GET", None), ("PATCH", {"notAfter": 5}), ("DELETE", None)):
        assert (await node.refused(method, path, message))[:2] == (400, "bad_request")


async def test_routes_that_are_not_there_say_so(node: Socket) -> None:
    assert (await node.refused("GET", "/v1/other"))[:2] == (404, "not_found")
    assert (await node.refused("PUT", "/v1/claims"))[:2] == (404, "not_found")


async def test_what_a_node_cannot_do_or_has_no_room_for_has_its_code(node: Socket) -> None:
    assert (await node.refused("POST", "/v1/claims", body(image="other")))[:2] == (501, "unsupported")
    sandbox = new_id()
    for _ in range(2):
        await node.ask("POST", "/v1/claims", body())
    await node.ask("POST", "/v1/claims", body(sandbox=sandbox, epoch=4))
    assert (await node.refused("POST", "/v1/claims", body()))[:2] == (503, "no_room")
    assert (await node.refused("POST", "/v1/claims", body(sandbox=sandbox, epoch=3)))[:2] == (409, "conflict")


async def test_a_machine_that_does_not_come_up_is_an_internal_error(tmp_path: Path) -> None:
    async for node in opened(NeverStarts(Host(tmp_path)), tmp_path, frozenset({os.getuid()})):
        status, code, sentence = await node.refused("POST", "/v1/claims", body())
        assert (status, code) == (500, "internal")
        assert "did not come up" in sentence


async def test_watch_tells_changes_as_lines(node: Socket) -> None:
    async with node.session.get("http://node/v1/watch") as response:
        assert ClaimHint.model_validate_json(await response.content.readline()) == ClaimHint()
        wanted = body()
        await node.ask("POST", "/v1/claims", wanted)
        hints = [ClaimHint.model_validate_json(await response.content.readline()) for _ in range(2)]
    assert [hint.state for hint in hints] == ["starting", "running"]
    assert hints[0].sandbox == wanted["sandbox"]


async def test_a_claim_whose_caller_hangs_up_is_made_all_the_same(tmp_path: Path) -> None:
    layer = Layer(Host(tmp_path))
    layer.start_gate = asyncio.Event()
    async for node in opened(layer, tmp_path, frozenset({os.getuid()})):
        wanted = body()
        calling = asyncio.ensure_future(node.ask("POST", "/v1/claims", wanted))
        await until(lambda: bool(layer.starting))
        calling.cancel()
        layer.start_gate.set()
        status, raw = await node.ask("POST", "/v1/claims", wanted)
        assert status == 200
        assert Claim.model_validate_json(raw).machine == layer.started[0]
        assert len(layer.started) == 1


async def test_a_new_process_takes_the_socket_over(node: Socket, tmp_path: Path) -> None:
    service = await adopted(Layer(node.host))
    runner = await serve(Api(service, frozenset({os.getuid()})).application(), node.path, os.getgid())
    try:
        connector = aiohttp.UnixConnector(path=str(node.path))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://node/v1/node") as answer:
            assert answer.status == 200
    finally:
        await runner.cleanup()

"""Who may look at a preview, and what they see where nothing is to be seen: by a real gateway and a real guest."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from boxkeep_server.gateway.room import Room
from boxkeep_server.model.ids import new_id
from boxkeep_server.model.previews import PreviewUrls
from boxkeep_server.model.sandboxes import Lifecycle, NewSandbox
from boxkeep_server.model.scopes import Scope
from boxkeep_server.model.statuses import Status
from boxkeep_server.web.tokens import Purpose
from tests.api.stage import Stage
from tests.guests import GuestProgram, eventually
from tests.instances import free_port
from tests.previews import Answer, Inside, ask, client_of, listening, opened_gateway, saying

PORTS = "/v1/sandboxes/ports"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
PAGE = {"Accept": "text/html,*/*"}


async def port_of(api: httpx.AsyncClient, box: str, port: int) -> dict[str, Any]:
    (found,) = (await api.get(PORTS, params={"id": box, "port": port})).json()["ports"]
    return dict(found)


async def token_of(api: httpx.AsyncClient, box: str, port: int) -> str:
    return str((await port_of(api, box, port))["token"])


async def publish(api: httpx.AsyncClient, box: str, port: int, public: bool = True) -> httpx.Response:
    return await api.post(PORTS, json={"id": box, "port": port, "public": public})


def host_of(box: str, port: int) -> str:
    return f"{port}-{box}.localhost:7072"


async def silent(inside: Inside) -> None:
    """Take a request, begin an answer, and go on for ever."""
    await inside.read_head()
    await inside.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
    await inside.reader.read()


async def test_a_token_in_a_header_opens_the_port_that_it_is_for(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    async with listening(saying(OK)) as program:
        token = await token_of(api, box, program.port)
        async with client_of(gateway) as client:
            got = await client.ask(host_of(box, program.port), X_Boxkeep_Token=token)
            assert (got.status, got.body) == (200, b"hello")
            assert token.encode() not in program.heads[0]
            assert (await client.ask(host_of(box, program.port))).status == 401
        other = await ask(gateway, host_of(box, program.port + 1), X_Boxkeep_Token=token)
        assert other.status == 401


async def test_a_browser_gets_a_cookie_for_the_token_and_an_address_without_it(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    async with listening(saying(OK)) as program:
        token, host = await token_of(api, box, program.port), host_of(box, program.port)
        got = await ask(gateway, host, f"//evil.example/a?q=%20&boxkeep_token={token}&z", **PAGE)
        assert got.status == 302
        assert got.one("location") == f"http://{host}//evil.example/a?q=%20&z"
        cookie = got.one("set-cookie")
        assert re.fullmatch(r"boxkeep_preview=[\w.-]+; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax", cookie)
        assert (got.one("referrer-policy"), got.one("cache-control")) == ("no-referrer", "no-store")
        assert program.connections == 0
        sent = f"a=1; {cookie.partition(';')[0]}; b=2"
        assert (await ask(gateway, host, Cookie=sent)).body == b"hello"
        assert b"a=1; b=2\r\n" in program.heads[0]
        assert b"boxkeep" not in program.heads[0]
        assert (await ask(gateway, host_of(box, program.port + 1), Cookie=sent)).status == 401


async def test_a_program_is_served_at_once_by_the_token_in_its_url(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    async with listening(saying(OK)) as program:
        target = f"/x?boxkeep_token={await token_of(api, box, program.port)}"
        assert (await ask(gateway, host_of(box, program.port), target)).body == b"hello"
        assert program.heads[0].startswith(b"GET /x HTTP/1.1\r\n")


async def test_in_a_frame_of_another_site_the_cookie_is_of_that_frame_alone(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    target = f"/?boxkeep_token={await token_of(api, box, 3000)}"
    framed = {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site", **PAGE}
    got = await ask(gateway, host_of(box, 3000), target, **framed)
    assert got.one("set-cookie").endswith("; HttpOnly; SameSite=None; Partitioned; Secure")


async def test_by_tls_the_cookie_is_bound_to_its_host(api: httpx.AsyncClient, stage: Stage, box: str) -> None:
    stage.parts = replace(stage.parts, preview_urls=PreviewUrls.below("https://preview.example"))
    token = await token_of(api, box, 3000)
    async with opened_gateway(stage) as gateway:
        got = await ask(gateway, f"3000-{box}.preview.example", f"/?boxkeep_token={token}", **PAGE)
    assert got.one("location") == f"https://3000-{box}.preview.example/"
    assert got.one("set-cookie").startswith("__Host-boxkeep_preview=")
    assert got.one("set-cookie").endswith("; SameSite=Lax; Secure")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "SELF"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Referer": "OWN/x"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Origin": "OWN"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Referer": "OTHER/"}, 401),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 401),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Origin": "OTHER"}, 401),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket", "Origin": "https://evil.example"}, 401),
        ({"Origin": "null"}, 401),
        ({"Origin": "http://["}, 401),
    ],
)
async def test_a_cookie_counts_for_pages_of_the_same_sandbox_alone(
    api: httpx.AsyncClient, gateway: int, box: str, headers: dict[str, str], status: int
) -> None:
    async with listening(saying(OK)) as program:
        host = host_of(box, program.port)
        got = await ask(gateway, host, f"/?boxkeep_token={await token_of(api, box, program.port)}", **PAGE)
        names = {
            "SELF": f"http://{host}",
            "OWN": f"http://{host_of(box, 8000)}",
            "OTHER": f"http://{host_of('b' * 32, 1)}",
        }
        sent = {name: re.sub("^(SELF|OWN|OTHER)", lambda m: names[m[1]], value) for name, value in headers.items()}
        cookie = got.one("set-cookie").partition(";")[0]
        assert (await ask(gateway, host, Cookie=cookie, **sent)).status == status


async def test_a_token_is_for_one_purpose_key_and_time(
    api: httpx.AsyncClient, gateway: int, box: str, stage: Stage, key: str
) -> None:
    async with listening(saying(OK)) as program:
        host = host_of(box, program.port)
        terminal = (await api.get("/v1/sandboxes/terminal", params={"id": box})).json()["token"]
        token = await token_of(api, box, program.port)
        got = await ask(gateway, host, f"/?boxkeep_token={token}", **PAGE)
        cookie = got.one("set-cookie").partition(";")[0]
        session = cookie.partition("=")[2]
        for wrong in (terminal, token[:-2], token + "A", "", "x" * 10_000, key):
            assert (await ask(gateway, host, X_Boxkeep_Token=wrong)).status == 401
        assert (await ask(gateway, host, f"/?boxkeep_token={session}")).status == 401
        assert (await ask(gateway, host, Cookie=f"boxkeep_preview={token}")).status == 401
        assert (await ask(gateway, host, Authorization=f"Bearer {key}")).status == 401
        stage.clock.ahead_ms = 5 * 60_000 + 1
        assert (await ask(gateway, host, X_Boxkeep_Token=token)).status == 401
        assert (await ask(gateway, host, Cookie=cookie)).status == 200
        stage.clock.ahead_ms = 12 * 3_600_000 + 1
        assert (await ask(gateway, host, Cookie=cookie)).status == 401


async def test_a_revoked_key_closes_what_is_open_within_a_second_and_opens_nothing(
    api: httpx.AsyncClient, gateway: int, box: str, stage: Stage, key: str
) -> None:
    async with listening(silent) as program:
        token = await token_of(api, box, program.port)
        async with client_of(gateway) as client:
            head = f"GET / HTTP/1.1\r\nHost: {host_of(box, program.port)}\r\nX-Boxkeep-Token: {token}\r\n\r\n"
            client.writer.write(head.encode())
            await client.reader.readuntil(b"data: 1\n\n")
            await stage.keys.revoke((await stage.keys.authenticate(key)).key_id)
            async with asyncio.timeout(2):
                assert b"0\r\n\r\n" not in await client.reader.read()
        assert (await ask(gateway, host_of(box, program.port), X_Boxkeep_Token=token)).status == 401


async def test_a_public_port_is_open_to_everybody_until_it_is_private_again(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    async with listening(silent) as program, client_of(gateway) as client:
        assert (await publish(api, box, program.port)).json()["public"] is True
        assert (await publish(api, box, program.port)).status_code == 200
        assert (await port_of(api, box, program.port))["public"] is True
        client.writer.write(f"GET / HTTP/1.1\r\nHost: {host_of(box, program.port)}\r\n\r\n".encode())
        await client.reader.readuntil(b"data: 1\n\n")
        assert (await publish(api, box, program.port, public=False)).json()["public"] is False
        async with asyncio.timeout(2):
            assert b"0\r\n\r\n" not in await client.reader.read()
        assert (await ask(gateway, host_of(box, program.port))).status == 401
    told = (await api.get("/v1/sandboxes/timeline", params={"id": box})).json()["items"]
    changes = [(one["type"], one["data"]) for one in told if ".port." in one["type"]]
    ports = {"port": program.port}
    assert changes == [("sandbox.port.published", ports), ("sandbox.port.withdrawn", ports)]


async def test_public_ports_go_with_their_sandbox_and_are_bounded(
    api: httpx.AsyncClient, box: str, stage: Stage, key: str
) -> None:
    other = (await stage.sandbox(key)).id
    answers = [await publish(api, other, port) for port in range(1, 102)]
    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    await api.delete("/v1/sandboxes", params={"id": other})
    sandbox = await stage.sandboxes.wait(await stage.keys.authenticate(key), other, 0)
    assert sandbox.status in (Status.ENDING, Status.ENDED)
    assert (await publish(api, other, 1)).status_code == 409
    async with asyncio.timeout(10):
        while await stage.parts.previews.public(other):
            await asyncio.sleep(0.05)
    assert (await publish(api, other, 1)).status_code == 409
    assert not await stage.parts.previews.public(other)


async def test_a_key_without_the_scope_is_shown_ports_without_tokens(
    stage: Stage, box: str, api: httpx.AsyncClient
) -> None:
    async with (
        listening(saying(OK)) as program,
        stage.client(await stage.key("acme", "unlimited", Scope.READ)) as reader,
    ):
        shown = await port_of(reader, box, program.port)
        assert (shown["signedUrl"], shown["token"], shown["expiresAt"]) == (None, None, None)
        assert shown["listening"] is True
        assert shown["addresses"] == ["127.0.0.1"]
        assert (await publish(reader, box, program.port)).status_code == 403
        listed = (await reader.get(PORTS, params={"id": box})).json()["ports"]
        assert program.port in [one["port"] for one in listed]


async def test_a_sandbox_says_where_its_ports_are_while_it_runs(
    api: httpx.AsyncClient, box: str, stage: Stage, key: str
) -> None:
    shown = (await api.get("/v1/sandboxes", params={"id": box})).json()
    assert shown["previewBaseUrl"] == f"http://{{port}}-{box}.localhost:7072"
    waiting = (await stage.sandbox(key)).id
    assert (await api.get("/v1/sandboxes", params={"id": waiting})).json()["previewBaseUrl"] is None
    assert (await api.get(PORTS, params={"id": waiting})).status_code == 409


async def test_what_is_unknown_foreign_or_private_looks_the_same(
    api: httpx.AsyncClient, stranger: httpx.AsyncClient, gateway: int, box: str, stage: Stage
) -> None:
    own = await stage.ready_sandbox(stranger.headers["authorization"].split()[1], stage.reacher.guests[box])
    token = await token_of(stranger, own, 3000)
    seen = set()
    for host in (host_of(box, 3000), host_of(new_id(), 3000)):
        for headers in ({}, {"X-Boxkeep-Token": token}):
            got = await ask(gateway, host, **headers)
            seen.add((got.status, got.body, tuple(name for name, _ in got.headers)))
    assert len(seen) == 1
    assert next(iter(seen))[0] == 401
    await stage.fail(own, "machine_died")


async def test_where_nothing_listens_a_page_says_so_and_asks_again(
    api: httpx.AsyncClient, gateway: int, box: str
) -> None:
    port = free_port()
    token = await token_of(api, box, port)
    for path in ("/", f"/?boxkeep_token={token}"):
        page = await ask(gateway, host_of(box, port), path, X_Boxkeep_Token=token, Accept="text/html")
        if page.status == 302:
            continue
        assert (page.status, page.one("content-type")) == (502, "text/html; charset=utf-8")
        assert b'http-equiv="refresh"' in page.body
        assert f"Nothing listens on port {port}".encode() in page.body
    plain = await ask(gateway, host_of(box, port), X_Boxkeep_Token=token, Accept="*/*")
    assert (plain.status, plain.one("content-type"), plain.one("retry-after")) == (502, "application/json", "2")
    assert b'{"error":"The sandbox runs, but' in plain.body


async def test_the_guests_own_port_is_not_to_be_had(
    api: httpx.AsyncClient, gateway: int, box: str, stage: Stage
) -> None:
    own = stage.reacher.guests[box].port
    assert own not in [one["port"] for one in (await api.get(PORTS, params={"id": box})).json()["ports"]]
    await publish(api, box, own)
    assert (await ask(gateway, host_of(box, own))).status == 502


@pytest.mark.parametrize(
    ("status", "answer", "again"),
    [
        (Status.QUEUED, 503, True),
        (Status.PAUSED, 503, True),
        (Status.ENDING, 410, False),
    ],
)
async def test_a_sandbox_that_is_not_running_says_what_it_is(
    api: httpx.AsyncClient, gateway: int, stage: Stage, key: str, box: str, status: Status, answer: int, again: bool
) -> None:
    stage.hold()
    token = await token_of(api, box, 3000)
    sandbox = await stage.sandboxes.state(box)
    assert sandbox is not None
    if status is Status.QUEUED:
        box = (await stage.sandbox(key)).id
        caller = await stage.keys.authenticate(key)
        token, _ = stage.parts.tokens.sign(caller.organisation, box, Purpose.PREVIEW, caller.key_id, "3000")
    elif status is Status.PAUSED:
        pausing = await stage.steps.step(sandbox, Status.PAUSING)
        assert pausing is not None
        assert await stage.steps.step(pausing, Status.PAUSED, kept_epoch=1, kept_bytes=1, paused_at=1)
    else:
        assert await stage.steps.step(sandbox, Status.ENDING, reason="user_request")
    got = await ask(gateway, host_of(box, 3000), X_Boxkeep_Token=token, Accept="text/html")
    assert got.status == answer
    assert (b'http-equiv="refresh"' in got.body) is again
    stage.let_go()


async def test_a_call_wakes_a_paused_sandbox_that_resumes_by_itself(
    api: httpx.AsyncClient, gateway: int, stage: Stage, key: str, own_guest: Callable[..., GuestProgram]
) -> None:
    address = own_guest().address
    wish = NewSandbox(runtime="base", lifecycle=Lifecycle(auto_resume=True))
    box = (await stage.sandboxes.create(await stage.keys.authenticate(key), wish)).id
    ready = await stage.sandboxes.state(await stage.make_ready(box, address))
    assert ready is not None
    async with listening(saying(OK)) as program:
        token = await token_of(api, box, program.port)
        pausing = await stage.steps.step(ready, Status.PAUSING)
        assert pausing is not None
        assert await stage.steps.step(pausing, Status.PAUSED, kept_epoch=1, kept_bytes=1, paused_at=1)
        call = asyncio.create_task(ask(gateway, host_of(box, program.port), X_Boxkeep_Token=token))
        async with asyncio.timeout(10):
            while (queued := await stage.sandboxes.state(box)) is None or queued.status is not Status.QUEUED:
                await asyncio.sleep(0.02)
        assigning = await stage.steps.step(queued, Status.ASSIGNING, epoch=2)
        assert assigning is not None
        stage.node.bind(assigning, address)
        now = stage.clock()
        times = {"ready_at": now, "expires_at": now + 600_000}
        assert await stage.steps.step(assigning, Status.READY, node=new_id(), **times)
        assert (await call).body == b"hello"


async def test_a_visitor_keeps_a_sandbox_active(api: httpx.AsyncClient, gateway: int, box: str, stage: Stage) -> None:
    async def status() -> str:
        return str((await api.get("/v1/sandboxes", params={"id": box})).json()["status"])

    async with listening(silent) as program:
        token = await token_of(api, box, program.port)
        async with client_of(gateway) as client:
            head = f"GET / HTTP/1.1\r\nHost: {host_of(box, program.port)}\r\nX-Boxkeep-Token: {token}\r\n\r\n"
            client.writer.write(head.encode())
            await client.reader.readuntil(b"data: 1\n\n")
            await eventually(lambda: stage.attendance.has(box))
            assert await status() == "active"
        await eventually(lambda: not stage.attendance.has(box))
        assert await status() == "ready"
        assert stage.attendance.seen_at(box) > 0


async def test_requests_at_once_are_bounded_for_each_sandbox(api: httpx.AsyncClient, box: str, stage: Stage) -> None:
    async with listening(silent) as program, opened_gateway(stage, room=Room(in_sandbox=2)) as gateway:
        token = await token_of(api, box, program.port)
        head = f"GET / HTTP/1.1\r\nHost: {host_of(box, program.port)}\r\nX-Boxkeep-Token: {token}\r\n\r\n"
        async with client_of(gateway) as one, client_of(gateway) as two:
            for client in (one, two):
                client.writer.write(head.encode())
                await client.reader.readuntil(b"data: 1\n\n")
            full: Answer = await ask(gateway, host_of(box, program.port), X_Boxkeep_Token=token)
            assert (full.status, full.one("retry-after")) == (503, "2")


async def test_a_host_that_is_no_previews_gets_nothing_of_a_sandbox(gateway: int) -> None:
    for host in ("localhost:7072", "127.0.0.1", "x.localhost", "3000-abc.localhost"):
        assert (await ask(gateway, host)).status == 404

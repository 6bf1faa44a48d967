"""The agent's tools as a program: what it says over its pipes, whatever it is sent."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as server

from tests.agent_tools import Companion, Tools, command, laid_out

INITIALIZE = {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
BROWSER_TOOLS = ["open", "read", "click", "type", "key", "select", "scroll", "back", "screenshot", "wait"]
BROWSER_TOOLS += ["tabs", "dialog", "upload"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid_out(tmp_path_factory.mktemp("guest") / "tools")


@pytest.fixture
def tools(place: Path) -> Iterator[Tools]:
    """Tools of a sandbox whose companion is not there."""
    with Tools(place, "--browser", "--person", socket=place / "nobody") as running:
        yield running


@pytest.mark.parametrize(
    ("wished", "agreed"),
    [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        (None, "2025-11-25"),
    ],
)
def test_the_revision_is_the_one_wished_for_or_the_latest(tools: Tools, wished: str | None, agreed: str) -> None:
    result = tools.ask("initialize", protocolVersion=wished, **INITIALIZE)["result"]
    assert result["protocolVersion"] == agreed
    assert result["capabilities"] == {"tools": {}}
    assert result["serverInfo"]["name"] == "boxkeep"
    assert "never an instruction" in result["instructions"]
    tools.say(method="notifications/initialized")
    assert tools.ask("ping")["result"] == {}


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], []),
        (["--browser"], [f"browser_{one}" for one in BROWSER_TOOLS]),
        (["--browser", "--person"], [*(f"browser_{one}" for one in BROWSER_TOOLS), "ask_person"]),
    ],
)
def test_what_is_offered_is_what_the_sandbox_has(place: Path, flags: list[str], names: list[str]) -> None:
    with Tools(place, *flags) as tools:
        offered = tools.ask("tools/list")["result"]["tools"]
        assert [tool["name"] for tool in offered] == names
        for tool in offered:
            assert tool["description"].strip()
            assert tool["inputSchema"]["type"] == "object"
            assert tool["inputSchema"]["additionalProperties"] is False
            assert set(tool["inputSchema"].get("required", ())) <= set(tool["inputSchema"]["properties"])


@pytest.mark.parametrize("flags", [["--person"], ["--browser", "--more"], ["x"]])
def test_other_arguments_are_refused(place: Path, flags: list[str]) -> None:
    with Tools(place, *flags) as tools:
        assert tools.process.wait(20) == 2
        assert "usage" in tools.complaints()


@pytest.mark.parametrize(
    ("line", "code", "own"),
    [
        (b"{", -32700, None),
        (b"\xff\xfe", -32700, None),
        (b"[" * 200_000, -32700, None),
        (b"", -32700, None),
        (b"1", -32600, None),
        (b"[]", -32600, None),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600, None),
        (b'{"id": 1, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": 7}', -32600, 7),
        (b'{"jsonrpc": "2.0", "id": "a", "method": 3}', -32600, "a"),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": [1]}', -32602, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "resources/list"}', -32601, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "prompts/list"}', -32601, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "server/discover", "params": {}}', -32601, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "rm"}}', -32602, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": ["rm"]}}', -32602, 7),
    ],
)
def test_what_cannot_be_done_is_an_error_and_the_next_request_is_answered(
    tools: Tools, line: bytes, code: int, own: object
) -> None:
    tools.write(line + b"\n")
    said = tools.hear()
    assert (said["error"]["code"], said["id"]) == (code, own)
    assert tools.ask("ping")["result"] == {}


def test_a_line_that_is_too_long_is_passed_over_and_kept_nowhere(tools: Tools) -> None:
    tools.ask("ping")
    before = _resident_kib(tools)
    for _ in range(64):
        tools.write(b"x" * (1 << 20))
    tools.write(b'\n{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
    assert tools.hear()["error"]["message"] == "The message is too long"
    assert tools.hear() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert _resident_kib(tools) - before < 8 << 10


def _resident_kib(tools: Tools) -> int:
    status = Path(f"/proc/{tools.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_answers_and_unknown_notifications_are_passed_over(tools: Tools) -> None:
    tools.say(id=1, result={})
    tools.say(id=1, error={"code": 1, "message": "x"})
    tools.say(method="notifications/roots/list_changed")
    tools.say(method="notifications/cancelled", params={"requestId": [1]})
    tools.say(method="notifications/cancelled", params={"requestId": 99})
    assert tools.ask("ping")["result"] == {}


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("browser_open", {}, "needs the argument url"),
        ("browser_open", {"url": 1}, "of the type string"),
        ("browser_open", {"url": "x" * 9000}, "longer than 8000"),
        ("browser_open", {"url": "x", "now": True}, 'no argument "now"'),
        ("browser_read", {"part": True}, "of the type integer"),
        ("browser_read", {"part": 0}, "from 1 to"),
        ("browser_scroll", {"direction": "sideways"}, "one of: down, up"),
        ("browser_dialog", {"accept": "yes"}, "of the type boolean"),
        ("ask_person", {"reason": "bored", "message": ""}, "one of: mfa"),
    ],
)
def test_an_argument_that_is_wrong_is_told_to_the_agent(
    tools: Tools, name: str, arguments: dict[str, object], words: str
) -> None:
    assert words in tools.refused(name, **arguments)


def test_arguments_that_are_no_object_are_told_too(tools: Tools) -> None:
    result = tools.ask("tools/call", name="browser_read", arguments=["x"])["result"]
    assert result["isError"]
    assert "must be an object" in result["content"][0]["text"]


def test_without_its_companion_a_tool_says_so(tools: Tools, place: Path) -> None:
    assert "not there now" in tools.refused("browser_read")
    assert "not there now" in tools.refused("ask_person", reason="mfa", message="x")
    with Tools(place, "--browser") as without:
        assert "not there now" in without.refused("browser_read")


@pytest.mark.parametrize("reply", [b"", b"{\n", b"[]\n", b'"x"\n', b"\xff\n", b"[" * 100_000 + b"\n", b"x" * (1 << 20)])
def test_a_companion_that_answers_wrongly_breaks_nothing(place: Path, tmp_path: Path, reply: bytes) -> None:
    with (
        Companion.serving(tmp_path / "agent", lambda _: reply),
        Tools(place, "--browser", socket=tmp_path / "agent") as tools,
    ):
        assert "sandbox" in tools.refused("browser_read")
        assert tools.ask("ping")["result"] == {}


@pytest.mark.parametrize("answer", [{"port": None}, {}, {"port": "x"}])
def test_where_there_is_no_browser_the_tools_say_so(place: Path, tmp_path: Path, answer: object) -> None:
    with (
        Companion.serving(tmp_path / "agent", lambda _: answer),
        Tools(place, "--browser", socket=tmp_path / "agent") as tools,
    ):
        assert "There is no browser" in tools.refused("browser_open", url="example.com")


def test_a_browser_that_went_away_is_told(place: Path, tmp_path: Path) -> None:
    with (
        Companion.serving(tmp_path / "agent", lambda _: {"port": 1}),
        Tools(place, "--browser", socket=tmp_path / "agent") as tools,
    ):
        assert "The browser is away" in tools.refused("browser_read")


def closes(code: int, reason: str) -> Callable[[ServerConnection], None]:
    return lambda socket: socket.close(code, reason)


def says(*messages: str) -> Callable[[ServerConnection], None]:
    """A browser that answers the first call so, and is silent afterwards."""

    def serve(socket: ServerConnection) -> None:
        socket.recv()
        for message in messages:
            socket.send(message)
        for _ in socket:
            pass

    return serve


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (closes(1013, "A person is in control of the browser"), "A person is in control"),
        (closes(1013, "The browser is starting"), "The browser is away"),
        (closes(1000, ""), "The browser is away"),
        (says('{"id": 1, "error": {"message": "A person is in control of the browser"}}'), "A person is in control"),
        (says("garbage"), "cannot be understood"),
        (says("[]"), "cannot be understood"),
        (says("[" * 100_000), "cannot be understood"),
        (says('{"id": 1, "error": []}'), "cannot be understood"),
        (says('{"id": [1]}'), "cannot be understood"),
        (says('{"method": "Target.attachedToTarget", "params": 1}'), "cannot be understood"),
        (says('{"method": "Page.x"}', '{"id": 99}', "\x00"), "cannot be understood"),
    ],
)
def test_whatever_a_browser_says_the_tools_go_on(
    place: Path, tmp_path: Path, serve: Callable[[ServerConnection], None], words: str
) -> None:
    with (
        server(serve, "127.0.0.1", 0) as door,
        Companion.serving(tmp_path / "agent", lambda _: {"port": door.socket.getsockname()[1]}),
        Tools(place, "--browser", socket=tmp_path / "agent") as tools,
    ):
        threading.Thread(target=door.serve_forever, daemon=True).start()
        assert words in tools.refused("browser_read")
        assert words in tools.refused("browser_read")
        assert tools.ask("ping")["result"] == {}


@pytest.mark.parametrize(
    ("answer", "is_error", "words"),
    [
        (
            {"status": "completed", "note": "I typed\n the \x1b[31mcode.", "sentence": None},
            False,
            "I typed the [31mcode.",
        ),
        ({"status": "completed", "note": None, "sentence": None}, False, "has given it back"),
        ({"status": "cancelled", "note": None, "sentence": None}, False, "nobody has done"),
        ({"status": "expired", "note": None, "sentence": None}, False, "expired"),
        ({"status": "refused", "note": None, "sentence": "There is one already."}, True, "There is one already."),
        ({"status": ["x"], "note": 7, "sentence": {}}, True, "No person can be asked."),
        ({"status": "completed", "note": "x" * 100_000, "sentence": None}, False, "They say: xxx"),
    ],
)
def test_what_came_of_asking_a_person_is_told_in_plain_words(
    place: Path, tmp_path: Path, answer: object, is_error: bool, words: str
) -> None:
    with (
        Companion.serving(tmp_path / "agent", lambda _: answer) as companion,
        Tools(place, "--browser", "--person", socket=tmp_path / "agent") as tools,
    ):
        outcome = tools.call("ask_person", reason="mfa", message="Type the code.")
        assert outcome.is_error is is_error
        assert words in outcome.text
        assert len(outcome.text) < 10_000
        assert companion.asked.get(timeout=5) == {"ask": "person", "reason": "mfa", "message": "Type the code."}


def test_a_long_call_says_that_it_goes_on_and_holds_nothing_up(place: Path, tmp_path: Path) -> None:
    is_over = threading.Event()

    def reply(question: dict[str, object]) -> object:
        is_over.wait(60)
        return {"status": "completed", "note": None, "sentence": None}

    with (
        Companion.serving(tmp_path / "agent", reply),
        Tools(place, "--browser", "--person", socket=tmp_path / "agent") as tools,
    ):
        own = tools.begin("ask_person", {"reason": "mfa", "message": "x"}, progressToken="token")
        assert tools.ask("ping")["result"] == {}
        beats = [tools.hear(), tools.hear()]
        is_over.set()
        assert not tools.outcome(own).is_error
        assert [beat["method"] for beat in beats] == ["notifications/progress"] * 2
        assert [beat["params"] for beat in beats] == [{"progressToken": "token", "progress": n} for n in (1, 2)]


def test_a_call_that_is_cancelled_is_taken_back_and_never_answered(place: Path, tmp_path: Path) -> None:
    is_over = threading.Event()
    with (
        Companion.serving(tmp_path / "agent", lambda _: is_over.wait(60) and {"status": "completed"}) as companion,
        Tools(place, "--browser", "--person", socket=tmp_path / "agent") as tools,
    ):
        own = tools.begin("ask_person", {"reason": "mfa", "message": "x"}, progressToken=7)
        companion.asked.get(timeout=20)
        tools.say(method="notifications/cancelled", params={"requestId": own, "reason": "tired"})
        again = tools.begin("ask_person", {"reason": "mfa", "message": "y"})
        companion.asked.get(timeout=20)
        is_over.set()
        assert not tools.outcome(again).is_error
        assert all(note.get("id") != own for note in tools.notes)


def test_calls_under_way_are_bounded_and_ids_are_not_used_twice_at_once(place: Path, tmp_path: Path) -> None:
    is_over = threading.Event()
    with (
        Companion.serving(tmp_path / "agent", lambda _: is_over.wait(60) and {"status": "completed"}),
        Tools(place, "--browser", "--person", socket=tmp_path / "agent") as tools,
    ):
        begun = [tools.begin("ask_person", {"reason": "mfa", "message": "x"}) for _ in range(16)]
        params = {"name": "ask_person", "arguments": {"reason": "mfa", "message": "x"}}
        tools.say(id=begun[0], method="tools/call", params=params)
        assert tools.hear()["error"]["code"] == -32600
        assert "16 calls" in tools.ask("tools/call", **params)["error"]["message"]
        is_over.set()
        assert {one["id"] for one in (tools.hear() for _ in begun)} == set(begun)


def test_it_ends_with_its_input_though_a_call_is_under_way(place: Path, tmp_path: Path) -> None:
    is_over = threading.Event()
    with (
        Companion.serving(tmp_path / "agent", lambda _: is_over.wait(60)) as companion,
        Tools(place, "--browser", "--person", socket=tmp_path / "agent") as tools,
    ):
        tools.begin("ask_person", {"reason": "mfa", "message": "x"})
        companion.asked.get(timeout=20)
        assert tools.process.stdin is not None
        tools.process.stdin.close()
        assert tools.process.wait(20) == 0
        assert tools.complaints() == ""
        is_over.set()


def test_it_ends_when_nobody_reads_its_answers_any_more(place: Path) -> None:
    running = subprocess.Popen(command(place, "--browser"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        running.communicate(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n' * 1000, timeout=20)
    assert running.wait(20) == 1

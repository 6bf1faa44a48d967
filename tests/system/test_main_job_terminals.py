"""Terminals by WebSocket: keys, colours, resize, several clients on one, and rejoin with scrollback."""

import time

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.clients import Sandbox, eventually
from tests.terminals import Terminal


def test_keys_go_in_and_the_shells_answer_comes_out(sandbox: Sandbox) -> None:
    with Terminal.of(sandbox.api, sandbox.id) as terminal:
        terminal.type("echo $((6 * 7))-é; tty; pwd\r")
        terminal.until("42-é")
        terminal.until("/dev/pts/")
        terminal.until("\n/workspace\r\n")


def test_the_url_that_a_read_hands_out_opens_a_terminal_too(sandbox: Sandbox) -> None:
    with Terminal(sandbox.api.get(sandbox.id)["terminalUrl"]) as terminal:
        terminal.type("echo by-read-$((1 + 1))\r")
        terminal.until("by-read-2")


def test_a_resize_reaches_the_program_in_the_terminal(sandbox: Sandbox) -> None:
    with Terminal.of(sandbox.api, sandbox.id) as terminal:
        terminal.resize(33, 101)
        terminal.type("trap 'echo changed to $(stty size)' WINCH; echo now $(stty size)\r")
        terminal.until("now 33 101")
        time.sleep(0.5)  # a signal before the shell waits for keys is kept by it until the next key
        terminal.resize(44, 120)
        terminal.until("changed to 44 120")


def test_two_clients_of_one_terminal_see_the_same(sandbox: Sandbox) -> None:
    url = sandbox.api.call("GET", "/terminal", params={"id": sandbox.id})["terminalUrl"]
    with Terminal(url) as first:
        first.type("echo from-first-$((1 + 1))\r")
        first.until("from-first-2")
        with Terminal(url) as second:
            second.until("from-first-2")
            second.type("echo from-second-$((1 + 1))\r")
            first.until("from-second-2")
            second.until("from-second-2")


def test_a_terminal_that_was_left_goes_on_and_is_found_again_with_its_scrollback(sandbox: Sandbox) -> None:
    url = sandbox.api.call("GET", "/terminal", params={"id": sandbox.id})["terminalUrl"]
    with Terminal(url) as terminal:
        terminal.type("KEPT=remembered; echo before-$((1 + 1)); (sleep 1; echo while-away) &\r")
        terminal.until("before-2")
    with Terminal(url) as again:
        again.until("before-2")
        again.until("while-away")
        again.type("echo $KEPT-$((2 + 2))\r")
        again.until("remembered-4")


def test_control_c_interrupts_and_exit_closes(sandbox: Sandbox) -> None:
    with Terminal.of(sandbox.api, sandbox.id) as terminal:
        terminal.type("echo at-$((1 + 1)); sleep 1007; echo slept-$((1 + 1))\r")
        terminal.until("at-2")
        # Between the two commands an interrupt is bash's own, and may be lost to it.
        eventually("it to sleep", lambda: sandbox.exec("pgrep -f '^sleep 1007$'")["exitCode"] == 0, 20)
        terminal.type("\x03")
        terminal.type("echo after-$?\r")
        terminal.until("after-130")
        assert b"slept-2" not in terminal.seen


def test_a_flood_of_output_arrives_whole(sandbox: Sandbox) -> None:
    with Terminal.of(sandbox.api, sandbox.id) as terminal:
        terminal.type("seq 1 200000 | tail -c 1000000; echo flood-$((1 + 1))\r")
        shown = terminal.until("flood-2", 60)
        assert b"199999\r\n200000\r\n" in shown
        assert len(shown) > 1_000_000


def test_a_forged_or_foreign_token_opens_nothing(sandbox: Sandbox) -> None:
    url = sandbox.api.call("GET", "/terminal", params={"id": sandbox.id})["terminalUrl"]
    for wrong in (url[:-4] + "AAAA", url.split("?")[0]):
        with pytest.raises(InvalidStatus) as refusal:
            Terminal(wrong)
        assert refusal.value.response.status_code in (401, 403, 404)
    assert httpx.get(url.replace("ws://", "http://")).status_code < 500

"""The door of a sandbox's browser, asked as clients do that follow no protocol but the wire's."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_browser import Behind


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    """A door, and a Chromium behind it."""
    made = Behind(tmp_path / "profile")
    yield made
    made.close()


def test_who_speaks_before_being_turned_away_hears_why(behind: Behind) -> None:
    """As clients do that know what they want: their first calls are under way when the door says no."""
    behind.hand_over("human")
    hello = (
        "GET /devtools/browser HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    call = b"\x81\xfe\x10\x00" + bytes(4) + b"x" * 4096
    with socket.create_connection(("127.0.0.1", behind.port), 10) as client:
        client.sendall(hello.encode())
        said = client.recv(65536)
        client.sendall(20 * call)
        client.shutdown(socket.SHUT_WR)
        while got := client.recv(65536):
            said += got
    assert said.startswith(b"HTTP/1.1 101")
    assert b"A person is in control" in said

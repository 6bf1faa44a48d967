"""A model that speaks as OpenAI's do, and says what the prompt has it say: a program to run inside a sandbox.

A prompt ends in a line `SCRIPT [turn, …]`. A turn is `{"text": …}`, `{"calls": [{"name": …, "arguments": {…}}, …]}` or
`{"status": …}`; the model takes the next one whenever it is asked, and says `the end` after the last.
"""

import http.server
import json
import sys
import threading
from typing import Any

KEY = "sk-the-key-of-the-model"


class Model(http.server.BaseHTTPRequestHandler):
    """Answers chat completions."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One completion, streamed."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._refuse(401, "The key is wrong")
            return
        turn = {"text": "a title"} if not asked.get("tools") else _turn(asked["messages"])
        if "status" in turn:
            self._refuse(int(turn["status"]), f"Nothing for {self.headers.get('Authorization')}")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for delta, finish in (*_deltas(turn), ({}, "tool_calls" if "calls" in turn else "stop")):
            self._send({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        self._send({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, chunk: dict[str, Any]) -> None:
        whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk}
        self.wfile.write(b"data: " + json.dumps(whole).encode() + b"\n\n")

    def _refuse(self, status: int, sentence: str) -> None:
        body = json.dumps({"error": {"message": sentence}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _turn(messages: list[dict[str, Any]]) -> dict[str, Any]:
    scripts = [(at, text) for at, one in enumerate(messages) if "SCRIPT " in (text := _text(one, "user"))]
    if not scripts:
        return {"text": "no script"}
    at, text = scripts[-1]
    turns: list[dict[str, Any]] = json.JSONDecoder().raw_decode(text.rpartition("SCRIPT ")[2])[0]
    said = sum(one["role"] == "assistant" for one in messages[at:])
    return turns[said] if said < len(turns) else {"text": "the end"}


def _text(message: dict[str, Any], role: str) -> str:
    if message["role"] != role:
        return ""
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(str(part.get("text", "")) for part in content)


def _deltas(turn: dict[str, Any]) -> list[tuple[dict[str, Any], None]]:
    if "calls" not in turn:
        return [({"role": "assistant", "content": turn["text"]}, None)]
    calls = [
        {
            "index": at,
            "id": f"call_{threading.get_ident()}_{at}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for at, call in enumerate(turn["calls"])
    ]
    return [({"role": "assistant", "tool_calls": calls}, None)]


class Quick(http.server.ThreadingHTTPServer):
    """Does not ask for its own name, which takes long where there is nobody to ask."""

    def server_bind(self) -> None:
        """Take the address."""
        self.socket.setsockopt(1, 2, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "here", self.server_address[1]


if __name__ == "__main__":
    Quick(("127.0.0.1", int(sys.argv[1])), Model).serve_forever()

"""A plain HTTP client of a running Boxkeep: what any user could write against the contract alone."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

READY_S = 90.0
T = TypeVar("T")


def eventually(what: str, look: Callable[[], T | None], within_s: float, every_s: float = 0.05) -> T:
    """The first answer of `look` that is neither None nor False, asked again and again until `within_s` have passed."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


class Refused(AssertionError):
    """The API answered a call that was to succeed with an error."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
        self.status = response.status_code
        self.body = _json_or_none(response)


def _json_or_none(response: httpx.Response) -> Any:
    try:
        return response.json()
    except json.JSONDecodeError:
        return None


class Api:
    """One key's view of the API."""

    def __init__(self, url: str, key: str | None, timeout_s: float = 180.0) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.url = url
        self.key = key
        self.http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=256, max_keepalive_connections=256, keepalive_expiry=4.0),
        )

    def close(self) -> None:
        """Close its connections."""
        self.http.close()

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer to one call below `/v1/sandboxes`, whatever it says."""
        return self.http.request(method, f"/v1/sandboxes{path}", **more)

    def call(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of a call that succeeds."""
        response = self.ask(method, path, **more)
        if not response.is_success:
            raise Refused(response)
        return response.json()

    def create(self, **wish: Any) -> dict[str, Any]:
        """Create without waiting: the answer's body."""
        answer: dict[str, Any] = self.call("POST", "", json=wish)
        return answer

    def get(self, sandbox: str) -> dict[str, Any]:
        """A sandbox as a read shows it."""
        answer: dict[str, Any] = self.call("GET", "", params={"id": sandbox})
        return answer

    def delete(self, sandbox: str) -> dict[str, Any]:
        """End a sandbox."""
        answer: dict[str, Any] = self.call("DELETE", "", params={"id": sandbox})
        return answer

    def list(self, **query: Any) -> dict[str, Any]:
        """One page of the list."""
        answer: dict[str, Any] = self.call("GET", "", params=query)
        return answer

    def ready(self, **wish: Any) -> "Sandbox":
        """A sandbox that has become ready."""
        created = self.create(**wish)
        self.wait_status(created["id"], "ready", "active")
        return Sandbox(self, created["id"])

    def wait_status(self, sandbox: str, *statuses: str, within_s: float = READY_S) -> dict[str, Any]:
        """The sandbox once it has one of `statuses`; at once an error when it can no longer get there."""

        def look() -> dict[str, Any] | None:
            seen = self.get(sandbox)
            if seen["status"] in statuses:
                return seen
            assert seen["status"] not in ("ended", "failed"), f"{sandbox} is {seen['status']}: {seen.get('reason')}"
            return None

        return eventually(f"{sandbox} to become {' or '.join(statuses)}", look, within_s)


@contextmanager
def fresh(api: Api, **wish: Any) -> Iterator["Sandbox"]:
    """A ready sandbox that is deleted afterwards."""
    sandbox = api.ready(**wish)
    try:
        yield sandbox
    finally:
        api.delete(sandbox.id)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One sandbox by its id."""

    api: Api
    id: str

    def post(self, path: str, /, **body: Any) -> Any:
        """The JSON of a POST about this sandbox that succeeds."""
        return self.api.call("POST", path, json={"id": self.id, **body})

    def exec(self, command: str, *args: str, **more: Any) -> dict[str, Any]:
        """A command's whole record: a shell line, or with `args` an argv."""
        if args:
            more["args"] = list(args)
        answer: dict[str, Any] = self.post("/exec", command=command, **more)
        return answer

    def run(self, line: str, **more: Any) -> str:
        """The standard output of a shell line that succeeds."""
        answer = self.exec(line, **more)
        assert answer["exitCode"] == 0, answer
        stdout: str = answer["stdout"]
        return stdout

    def pause(self, **query: Any) -> dict[str, Any]:
        """The sandbox once it is paused, or as it is instead."""
        self.api.call("POST", "/pause", params={"wait": "paused", **query}, json={"id": self.id})
        return self.api.get(self.id)

    def resume(self, **how: Any) -> dict[str, Any]:
        """The sandbox once it is ready again, or as it is instead."""
        self.api.call("POST", "/resume", params={"wait": "ready"}, json={"id": self.id, **how})
        return self.api.get(self.id)

    def background(self, line: str, **more: Any) -> str:
        """The id of a command started in the background."""
        process: str = self.exec(line, background=True, **more)["processId"]
        return process

    def code(self, source: str, **more: Any) -> dict[str, Any]:
        """A piece of code's record."""
        answer: dict[str, Any] = self.post("/code", code=source, **more)
        return answer

    def processes(self) -> list[dict[str, Any]]:
        """Its processes, as listed."""
        answer = self.api.call("GET", "/processes", params={"id": self.id, "limit": 1000})
        items: list[dict[str, Any]] = answer["items"]
        return items

    def process(self, process: str) -> dict[str, Any]:
        """One of the list, or an error."""
        return next(item for item in self.processes() if item["processId"] == process)

    def wait(self, process: str, timeout_ms: int = 60_000) -> dict[str, Any]:
        """A background command's record once it has finished."""
        answer: dict[str, Any] = self.post("/processes/wait", processId=process, timeoutMs=timeout_ms)
        return answer

    def output(self, process: str, stream: str = "stdout", **query: Any) -> bytes:
        """A command's output from an offset, whole."""
        params = {"id": self.id, "processId": process, "stream": stream, **query}
        response = self.api.ask("GET", "/processes/output", params=params)
        if not response.is_success:
            raise Refused(response)
        return response.content

    def write(self, path: str, content: bytes) -> dict[str, Any]:
        """Write a file."""
        text = base64.b64encode(content).decode()
        answer: dict[str, Any] = self.post("/fs/write", path=path, content=text, encoding="base64")
        return answer

    def read(self, path: str) -> bytes:
        """A file's bytes by the JSON route."""
        answer = self.api.call("GET", "/fs/read", params={"id": self.id, "path": path, "encoding": "base64"})
        return base64.b64decode(answer["content"])

    def upload(self, path: str, content: Any, **query: Any) -> Any:
        """Stream a file in."""
        response = self.api.ask("PUT", "/fs/upload", params={"id": self.id, "path": path, **query}, content=content)
        if not response.is_success:
            raise Refused(response)
        return response.json()

    def download(self, path: str, **headers: str) -> httpx.Response:
        """A file's bytes by the streaming route."""
        return self.api.ask("GET", "/fs/download", params={"id": self.id, "path": path}, headers=headers)

    def entries(self, path: str | None = None) -> dict[str, dict[str, Any]]:
        """A directory's entries by name."""
        params = {"id": self.id} | ({} if path is None else {"path": path})
        answer = self.api.call("GET", "/fs/list", params=params)
        return {entry.get("name", entry.get("nameBase64")): entry for entry in answer["entries"]}


def server_sent(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The named events of a stream, as they come."""
    name = "message"
    for line in response.iter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, json.loads(line.removeprefix("data:"))

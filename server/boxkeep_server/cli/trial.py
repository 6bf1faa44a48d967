"""`boxkeep try`: one sandbox of each runtime under each isolation runs a line of code, as a client would have it."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from boxkeep_server.cli.session import fail, settings
from boxkeep_server.model.sandboxes import RUNTIMES
from boxkeep_server.node.doctor import examine_runtimes
from boxkeep_server.settings import Settings

LINES: Final = {
    "bun": 'console.log(6 * 7, "- Bun", Bun.version, "on Linux", require("os").release())',
    "python": 'import platform as p; print(6 * 7, "- Python", p.python_version(), "on Linux", p.release())',
    "base": 'echo $((6 * 7)) - bash $(bash -c "echo \\$BASH_VERSION") on Linux $(uname -r)',
}
_CALL_S: Final = 120.0
_LIFE_MS: Final = 120_000


class Missed(Exception):
    """A sandbox did not do what it should; the sentence says what it did."""


@dataclass(frozen=True)
class Caller:
    """Calls to the API with a key, which is in no argument vector."""

    url: str
    key: str

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """The answer to a call.

        Raises:
            Missed: no answer, or an error.
        """
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310 - ours
        # No proxy of the environment: the API is here.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_CALL_S) as response:
                answer: dict[str, Any] = json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise Missed(f"{method} {path}: {error.code} {error.read(2000).decode(errors='replace')}") from error
        except (OSError, ValueError) as error:
            raise Missed(f"{method} {path}: {error}") from error
        return answer


def trial(
    key_file: Annotated[Path | None, typer.Option(help="A file with an API key; by default that of `make up`.")] = None,
) -> None:
    """Make a sandbox of each runtime under each isolation, run a line of code in each, and say what was seen."""
    read = settings()
    file = key_file or read.lib / "key"
    try:
        caller = Caller(_url(read), file.read_text().strip())
    except OSError as error:
        fail(f"the key cannot be read: {error}")
    isolations = [one.subject for one in examine_runtimes(read.node.isolations) if one.verdict == "ok"]
    kinds = [(runtime, isolation) for isolation in isolations for runtime in RUNTIMES]
    # As many at once as there are processors: a slow host would have none of them up in its time.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        seen = list(threads.map(lambda kind: _said(caller, *kind), kinds))
    for (runtime, isolation), (_, said) in zip(kinds, seen, strict=True):
        typer.echo(f"  {runtime:7} under {isolation:6} {said}")
    if not seen or not all(well for well, _ in seen):
        raise SystemExit(1)


def _said(caller: Caller, runtime: str, isolation: str) -> tuple[bool, str]:
    """Whether a sandbox of a kind did as it should, and what it said."""
    began = time.monotonic()
    try:
        said = _run(caller, runtime, isolation)
    except Missed as error:
        return False, f"FAILED: {error}"
    return True, f"{said}  ({time.monotonic() - began:.1f} s)"


def _run(caller: Caller, runtime: str, isolation: str) -> str:
    wish = {"runtime": runtime, "isolation": isolation, "maxDurationMs": _LIFE_MS, "name": "boxkeep try"}
    made = caller.call("POST", "/v1/sandboxes?wait=ready", wish)["id"]
    try:
        found = caller.call("GET", f"/v1/sandboxes?id={made}")
        if found["status"] not in ("ready", "active"):
            raise Missed(f"the sandbox is {found['status']}: {found['reason']}")
        answer = caller.call("POST", "/v1/sandboxes/code", {"id": made, "code": LINES[runtime]})
    finally:
        caller.call("DELETE", f"/v1/sandboxes?id={made}")
    if answer["exitCode"] != 0 or not answer["stdout"].startswith("42 "):
        raise Missed(f"the code ended with {answer['exitCode']}: {answer['stdout']}{answer['stderr']}")
    return str(answer["stdout"]).strip()


def _url(read: Settings) -> str:
    everywhere = read.control.listen in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
    return f"http://{'127.0.0.1' if everywhere else read.control.listen}:{read.control.port}"


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("try")(trial)

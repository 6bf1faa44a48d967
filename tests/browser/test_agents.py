"""Agents: the real opencode, prompted through the API, with a model that says what each prompt has it say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import scripted_model
from tests.clients import Api, Sandbox, eventually, fresh, server_sent
from tests.scripted_model import KEY
from tests.services import Service

PORT = 9801
ENV = {"OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1", "OPENAI_API_KEY": KEY, "OPENAI_MODEL": "acme/large-1"}
READY_S = 120.0


@pytest.fixture(scope="module")
def api(equipped: Service) -> Api:
    return equipped.api("agents")


@pytest.fixture(scope="module")
def box(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox with an agent that is ready, and a model for it; tests that share it leave it with nothing to do."""
    with with_agent(api, isolation) as made:
        yield made


def with_agent(api: Api, isolation: str, **more: Any) -> Any:
    return _Made(api, {"runtime": "python", "isolation": isolation, "env": ENV, **more})


class _Made:
    """A fresh sandbox with an agent and its model."""

    def __init__(self, api: Api, wish: dict[str, Any]) -> None:
        capabilities = {"opencode": {"enabled": True}, **wish.pop("capabilities", {})}
        self._fresh = fresh(api, capabilities=capabilities, **wish)

    def __enter__(self) -> Sandbox:
        made = self._fresh.__enter__()
        made.write("/opt/model.py", Path(scripted_model.__file__).read_bytes())
        made.background(f"python3 /opt/model.py {PORT}")
        until_ready(made)
        return made

    def __exit__(self, *raised: Any) -> None:
        self._fresh.__exit__(*raised)


def until_ready(box: Sandbox) -> dict[str, Any]:
    """The agent once it is ready."""

    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = box.api.get(box.id)["opencode"]
        assert seen["status"] != "failed", seen
        return seen if seen["status"] == "ready" else None

    return eventually("the agent to be ready", look, READY_S, 0.2)


def script(*turns: dict[str, Any], words: str = "Please do") -> str:
    return f"{words}\nSCRIPT {json.dumps(turns)}"


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"calls": [{"name": name, "arguments": arguments}]}


def bash(line: str) -> dict[str, Any]:
    return call("bash", command=line, description="does it")


def prompt(box: Sandbox, *turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A task that has come to its end."""
    answer: dict[str, Any] = box.api.http.post(
        "/v1/sandboxes/opencode/prompt", json={"id": box.id, "prompt": script(*turns), **more}, timeout=180
    ).json()
    return answer


def queue(box: Sandbox, *turns: dict[str, Any], **more: Any) -> str:
    task: str = box.post("/opencode/tasks", prompt=script(*turns), **more)["taskId"]
    return task


def read(box: Sandbox, task: str) -> dict[str, Any]:
    answer: dict[str, Any] = box.api.call("GET", "/opencode/tasks", params={"id": box.id, "taskId": task})
    return answer


def ended(box: Sandbox, task: str, within_s: float = 150) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen = read(box, task)
        return seen if seen["status"] in ("completed", "failed") else None

    return eventually("the task to come to its end", look, within_s, 0.3)


def test_it_writes_files_and_runs_commands_and_says_so(box: Sandbox) -> None:
    write = call("write", filePath="/workspace/hello.txt", content="hello\n")
    done = prompt(box, write, bash("cp hello.txt copy.txt; id -un"), {"text": "Both are there."}, metadata={"n": "1"})
    assert (done["status"], done["reason"], done["message"]) == ("completed", None, None), done
    assert done["result"]["text"] == "Both are there."
    assert done["metadata"] == {"n": "1"}
    changed = [(file["path"], file["change"]) for file in done["result"]["files"]]
    assert changed == [("/workspace/copy.txt", "added"), ("/workspace/hello.txt", "added")]
    assert done["result"]["tokens"]["input"] == 30
    assert box.run("cat copy.txt") == "hello\n"
    told = events(box, done["taskId"])
    assert [event for event, data in told if event != "tool"] == ["started", "text", "completed", "task"]
    tools = [data for event, data in told if event == "tool"]
    assert [(one["tool"], one["state"]) for one in tools] == [
        ("write", "running"),
        ("write", "completed"),
        ("bash", "running"),
        ("bash", "completed"),
    ]
    assert "root" in tools[-1]["output"]


def test_a_conversation_goes_on_where_it_is_asked_to(box: Sandbox) -> None:
    first = prompt(box, {"text": "one"})
    again = prompt(box, {"text": "two"}, sessionId=first["sessionId"])
    assert again["sessionId"] == first["sessionId"]
    other = prompt(box, {"text": "three"})
    assert other["sessionId"] != first["sessionId"]
    unknown = prompt(box, {"text": "four"}, sessionId="ses_never")
    assert (unknown["status"], unknown["reason"]) == ("failed", "agent_error")
    assert unknown["message"] == "There is no such session in this sandbox"


def test_what_the_model_refuses_fails_with_its_words_and_an_unknown_agent_with_what_there_is(box: Sandbox) -> None:
    refused = prompt(box, {"status": 400})
    assert (refused["status"], refused["reason"]) == ("failed", "agent_error"), refused
    assert "Nothing for" in refused["message"]
    unknown = prompt(box, {"text": "never"}, agent="nobody")
    assert unknown["message"].startswith("opencode has no agent nobody; it has ")


def test_the_models_key_is_shown_nowhere(box: Sandbox) -> None:
    done = prompt(box, bash("env | grep OPENAI; echo over"), {"text": f"It is {KEY}."})
    assert done["result"]["text"] == "It is [the model's key]."
    shown = [
        box.api.ask("GET", path, params={"id": box.id, **more}).text
        for path, more in (
            ("", {}),
            ("/opencode/tasks", {}),
            ("/opencode/tasks/events", {"taskId": done["taskId"]}),
            ("/timeline", {}),
            ("/processes", {}),
        )
    ]
    assert "OPENAI_MODEL" in shown[2]
    # The prompt is the client's own words.
    assert [text.count(KEY) for text in shown] == [0, done["prompt"].count(KEY), done["prompt"].count(KEY), 0, 0]
    assert "OPENAI_API_KEY" in shown[0]


def test_it_is_reached_by_nobody_but_us(box: Sandbox) -> None:
    line = (
        "import urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen('http://127.0.0.1:4096/session', timeout=20).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    assert box.code(line)["stdout"] == "401\n"


def test_what_is_cancelled_stops_with_all_that_it_has_started(box: Sandbox) -> None:
    task = queue(box, bash("sleep 4321"), {"text": "never"})
    eventually("it to run", lambda: box.exec("pgrep -f 'sleep 432[1]'")["exitCode"] == 0, 60, 0.3)
    assert box.api.get(box.id)["status"] == "active"
    gone = box.post("/opencode/tasks/cancel", taskId=task)
    assert (gone["status"], gone["reason"]) == ("failed", "cancelled")
    eventually("it to be gone", lambda: box.exec("pgrep -f 'sleep 432[1]'")["exitCode"] == 1, 60, 0.3)
    assert prompt(box, {"text": "next"})["result"]["text"] == "next"
    assert read(box, task)["reason"] == "cancelled"


def test_a_task_goes_on_when_opencode_is_killed(box: Sandbox) -> None:
    marked = bash("test -e /opt/once || { touch /opt/once; pkill -9 -x opencode; sleep 60; }; echo survived")
    done = ended(box, queue(box, marked, {"text": "and went on"}))
    assert (done["status"], done["result"] and done["result"]["text"]) == ("completed", "and went on"), done
    assert until_ready(box)["status"] == "ready"


def test_a_task_goes_on_over_a_pause(api: Api, isolation: str) -> None:
    with with_agent(api, isolation) as box:
        task = queue(box, bash("touch began; while ! test -e go; do sleep 0.2; done; echo went"), {"text": "all done"})
        eventually("it to have begun", lambda: box.exec("test -e began")["exitCode"] == 0, 60, 0.3)
        assert box.pause()["status"] == "paused"
        assert read(box, task)["status"] == "running"
        assert box.resume()["status"] in ("ready", "active")
        box.run("touch go")
        if isolation == "runc":  # files alone were kept: the model has to be started again
            box.background(f"python3 /opt/model.py {PORT}")
        done = ended(box, task)
        assert (done["status"], done["result"] and done["result"]["text"]) == ("completed", "all done"), done


def test_a_task_survives_a_restart_of_all_that_is_ours(equipped: Service, box: Sandbox) -> None:
    task = queue(box, bash("touch here; while ! test -e /opt/go; do sleep 0.2; done"), {"text": "survived"})
    second = queue(box, {"text": "after it"})
    eventually("it to have begun", lambda: box.exec("test -e here")["exitCode"] == 0, 60, 0.3)
    equipped.restart("serve", "node")
    box.run("touch /opt/go")
    assert ended(box, task)["result"]["text"] == "survived"
    assert ended(box, second)["result"]["text"] == "after it"
    assert [read(box, one)["status"] for one in (task, second)] == ["completed", "completed"]


PAGE = """<title>A form</title><h1>Sign in</h1><button onclick="this.textContent = 'pressed'">Press me</button>"""


def test_it_uses_the_sandboxs_browser_and_asks_for_a_person(api: Api, isolation: str) -> None:
    browser = {"mode": "local-chromium", "humanInLoop": True}
    with with_agent(api, isolation, capabilities={"browser": browser}) as box:
        box.write("/opt/page.html", PAGE.encode())
        eventually("the browser", lambda: box.api.get(box.id)["browserPreview"]["status"] == "ready", READY_S, 0.3)
        task = queue(
            box,
            call("sandbox_browser_open", url="file:///opt/page.html"),
            call("sandbox_browser_click", ref="1.1"),
            call("sandbox_browser_read"),
            call("sandbox_ask_person", reason="approval", message="May I?"),
            {"text": "thank you"},
        )
        asked = eventually("a person to be asked for", lambda: pending(box), 120, 0.3)
        assert (asked["requestedBy"], asked["reason"], asked["message"]) == ("agent", "approval", "May I?")
        assert read(box, task)["status"] == "running"
        box.post("/handoff/accept", controller="ada")
        box.post("/handoff/complete", note="Yes, do.")
        done = ended(box, task)
        assert (done["status"], done["result"]["text"]) == ("completed", "thank you"), done
        tools = [data for event, data in events(box, task) if event == "tool" and data["state"] == "completed"]
        opened, _, seen, answered = (one["output"] for one in tools)
        assert "«A form»" in opened
        assert "Sign in" in opened
        assert "Press me" in opened
        assert "pressed" in seen
        assert "Yes, do." in answered
        again = box.post("/handoff", reason="custom", message="Look", resumePrompt=script({"text": "on it"}))
        box.post("/handoff/accept", controller="ada")
        box.post("/handoff/complete")
        latest = box.api.call("GET", "/opencode/tasks", params={"id": box.id})["items"][0]
        assert (latest["requestId"], latest["sessionId"]) == (again["requestId"], done["sessionId"])
        assert ended(box, latest["taskId"])["result"]["text"] == "on it"


def test_it_uses_a_browser_in_a_machine_of_its_own(api: Api, isolation: str) -> None:
    browser = {"mode": "paired-banata-browser"}
    page = "data:text/html,<title>elsewhere</title><button onclick=\"this.textContent='pressed'\">Press me</button>"
    with with_agent(api, isolation, capabilities={"browser": browser}) as box:
        eventually("the browser", lambda: box.api.get(box.id)["browserPreview"]["status"] == "ready", READY_S, 0.3)
        task = queue(
            box,
            call("sandbox_browser_open", url=page),
            call("sandbox_browser_click", ref="1.1"),
            call("sandbox_browser_read"),
            {"text": "done"},
        )
        assert ended(box, task)["status"] == "completed"
        tools = [data for event, data in events(box, task) if event == "tool" and data["state"] == "completed"]
        assert "«elsewhere»" in tools[0]["output"], tools
        assert "pressed" in tools[-1]["output"], tools


def pending(box: Sandbox) -> dict[str, Any] | None:
    response = box.api.ask("GET", "/handoff", params={"id": box.id})
    seen: dict[str, Any] = response.json()
    return seen if response.status_code == 200 and seen["status"] == "pending" else None


def events(box: Sandbox, task: str) -> list[tuple[str, dict[str, Any]]]:
    return list(server_sent(box.api.ask("GET", "/opencode/tasks/events", params={"id": box.id, "taskId": task})))


def test_without_a_model_it_says_which_variables_name_one(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runc", capabilities={"agent": {"enabled": True}}) as box:
        until_ready(box)
        done = box.post("/opencode/prompt", prompt="hello")
        assert (done["status"], done["reason"]) == ("failed", "agent_error")
        assert "OPENROUTER_API_KEY" in done["message"]

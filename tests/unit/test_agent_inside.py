"""What the program that keeps opencode in a sandbox makes of its events, messages and files."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_agent import workspace
from boxkeep_agent.api import HIDDEN, Api
from boxkeep_agent.models import models_of
from boxkeep_agent.results import result_of
from boxkeep_agent.server import config
from boxkeep_agent.story import EVENTS_MOST, MORE, Story, cut
from boxkeep_agent.wish import BadWish, Wish, read_wish

SESSION = "ses_1"


def updated(part: dict[str, Any], session: str = SESSION) -> dict[str, Any]:
    return {"type": "message.part.updated", "properties": {"sessionID": session, "part": part}}


def tool(status: str, **more: Any) -> dict[str, Any]:
    return updated({"id": "p1", "type": "tool", "tool": "bash", "callID": "c1", "state": {"status": status, **more}})


@pytest.mark.parametrize(
    ("environment", "url", "large", "small"),
    [
        ({"OPENROUTER_API_KEY": "k"}, "https://openrouter.ai/api/v1", "openrouter/auto", "openrouter/auto"),
        (
            {"OPENROUTER_API_KEY": "k", "OPENROUTER_MODEL": "a/b", "OPENROUTER_SMALL_MODEL": "c", "OPENAI_MODEL": "x"},
            "https://openrouter.ai/api/v1",
            "a/b",
            "c",
        ),
        ({"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}, "https://api.openai.com/v1", "m", "m"),
        ({"OPENAI_BASE_URL": "http://here/v1", "OPENAI_MODEL": "m"}, "http://here/v1", "m", "m"),
    ],
)
def test_the_environment_names_the_model(environment: dict[str, str], url: str, large: str, small: str) -> None:
    models = models_of(environment)
    assert models is not None
    assert (models.url, models.large, models.small) == (url, large, small)
    told = models.config()
    assert told["model"] == f"{models.provider}/{large}"
    assert told["provider"][models.provider]["options"]["baseURL"] == url


@pytest.mark.parametrize(
    "environment", [{}, {"OPENAI_API_KEY": "k"}, {"OPENAI_MODEL": "m"}, {"OPENROUTER_API_KEY": ""}]
)
def test_half_a_name_is_none(environment: dict[str, str]) -> None:
    assert models_of(environment) is None


def test_the_tools_are_there_where_there_is_a_browser() -> None:
    wish = Wish("build", "/workspace", browser=True, person=False)
    assert config(wish, None, "/s")["mcp"]["sandbox"]["command"][1:] == ["--browser"]
    both = Wish("build", "/workspace", browser=True, person=True)
    assert config(both, None, "/s")["mcp"]["sandbox"]["command"][1:] == ["--browser", "--person"]
    assert "mcp" not in config(Wish("build", "/workspace", browser=False, person=False), None, "/s")


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"{}", b'{"workspace": "/w"}'])
def test_a_wish_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(BadWish):
        read_wish(text)


def test_a_story_tells_each_thing_once_and_of_its_own_session_alone() -> None:
    story = Story(SESSION)
    prompt = {"type": "message.updated", "properties": {"sessionID": SESSION, "info": {"id": "m0", "role": "user"}}}
    own = updated({"id": "p0", "type": "text", "messageID": "m0", "text": "do it", "time": {"end": 1}})
    growing = updated({"id": "p2", "type": "text", "messageID": "m1", "text": "I th", "time": {"start": 1}})
    said = updated({"id": "p2", "type": "text", "messageID": "m1", "text": "I think", "time": {"start": 1, "end": 2}})
    other = updated({"id": "p3", "type": "text", "text": "not mine", "time": {"end": 1}}, session="ses_2")
    events = [
        prompt,
        own,
        growing,
        said,
        said,
        other,
        tool("pending"),
        tool("running", input={"command": "ls"}),
        tool("running", input={"command": "ls"}),
        tool("completed", output="a", title="ls"),
        {"type": "session.status", "properties": {"sessionID": SESSION, "status": {"type": "retry", "message": "429"}}},
    ]
    told = [one for event in events for one in story.told(event)]
    assert told == [
        {"kind": "text", "text": "I think"},
        {"kind": "tool", "tool": "bash", "state": "running", "call": "c1", "input": '{"command": "ls"}'},
        {"kind": "tool", "tool": "bash", "state": "completed", "call": "c1", "title": "ls", "output": "a"},
        {"kind": "retry", "text": "429"},
    ]


def test_a_story_has_an_end() -> None:
    story = Story(SESSION)
    retry = {"type": "session.status", "properties": {"sessionID": SESSION, "status": {"type": "retry"}}}
    assert sum(len(list(story.told(retry))) for _ in range(EVENTS_MOST + 10)) == EVENTS_MOST


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(["message.updated", "message.part.updated", "session.status", "else"])


@given(kind=_NAMES, part=st.dictionaries(st.sampled_from(["type", "state", "time", "id", "text"]), _JSON), info=_JSON)
def test_no_event_is_too_strange(kind: str, part: dict[str, Any], info: object) -> None:
    about = {"sessionID": SESSION, "part": part, "info": info, "status": info}
    json.dumps(list(Story(SESSION).told({"type": kind, "properties": about})))


@given(st.text(), st.integers(min_value=8, max_value=60))
def test_what_is_cut_is_no_longer_than_it_may_be_within_json(text: str, most: int) -> None:
    kept = cut(text, most)
    assert len(json.dumps(kept.removesuffix(MORE), ensure_ascii=False).encode("utf-8", "replace")) <= most
    assert kept == text or kept.endswith(MORE)


def test_the_models_key_stands_in_nothing_that_is_answered() -> None:
    key = 'sk-"ü\\-of-the-model'
    api = Api(1, "p", "/w", key)
    for plain in (True, False):
        answer = json.dumps({"text": f"is {key}.", "input": {"command": key}}, ensure_ascii=plain).encode()
        assert json.loads(api._hidden(answer)) == {"text": f"is {HIDDEN}.", "input": {"command": HIDDEN}}
    assert api.without_key(f"with {key}") == f"with {HIDDEN}"
    assert Api(1, "p", "/w", "ollama").without_key("ollama") == "ollama"


def message(role: str, *texts: str, **info: Any) -> dict[str, Any]:
    return {"info": {"role": role, **info}, "parts": [{"type": "text", "text": text} for text in texts]}


def test_the_last_words_count_and_all_tokens_do() -> None:
    tokens = {"input": 5, "output": 2, "reasoning": 1, "cache": {"read": 3, "write": 4}}
    messages = [
        message("user", "do it"),
        message("assistant", "first", tokens=tokens, cost=0.25),
        message("assistant", tokens=tokens, cost=0.5),
    ]
    assert result_of(messages) == {
        "kind": "completed",
        "text": "first",
        "tokens": {"input": 10, "output": 4, "reasoning": 2, "cacheRead": 6, "cacheWrite": 8},
        "cost": 0.75,
    }
    assert result_of(messages[:1]) is None


def test_an_error_is_told_in_its_words() -> None:
    error = {"name": "APIError", "data": {"message": "no credit"}}
    told = result_of([message("user", "x"), message("assistant", error=error)])
    assert told is not None
    assert (told["kind"], told["text"]) == ("failed", "no credit")


def test_files_that_come_go_and_change_are_told_and_the_rest_is_not(tmp_path: Path) -> None:
    for name in ("kept", "changed", "gone"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".git").mkdir()
    before = workspace.look(str(tmp_path))
    (tmp_path / "changed").write_text("changed more")
    (tmp_path / "gone").unlink()
    (tmp_path / ".git" / "index").write_text("x")
    (tmp_path / "new").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    told, more = workspace.changed(before, workspace.look(str(tmp_path)))
    assert [(Path(one["path"]).name, one["change"]) for one in told] == [
        ("changed", "modified"),
        ("gone", "removed"),
        ("new", "added"),
        ("pipe", "added"),
    ]
    assert more is False


def test_a_workspace_too_large_to_be_seen_whole_is_told_of_as_far_as_it_was(tmp_path: Path) -> None:
    for name in range(300):
        (tmp_path / f"d{name}").mkdir()
        (tmp_path / f"d{name}" / "file").write_text("x")
    time = itertools.count(0.0, workspace.LOOK_S / 100).__next__
    before, after = workspace.look(str(tmp_path), time), workspace.look(str(tmp_path))
    assert not before.whole
    assert len(before.files) < 100 < len(after.files) == 300
    assert workspace.changed(before, after) == ([], True)


def test_of_too_many_changed_files_some_are_told_and_that_there_are_more(tmp_path: Path) -> None:
    after = workspace.Look({f"/workspace/{n:05}": (n, n, n) for n in range(5000)}, whole=True)
    told, more = workspace.changed(workspace.Look({}, whole=True), after)
    assert more
    assert 0 < len(told) <= workspace.TOLD_MOST
    assert len(json.dumps(told)) < 40_000

"""What holds after any fault: all that was acknowledged, one outcome for each command, events in order, no leaks."""

import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

from tests.chaos.grounds import Ground
from tests.chaos.ledger import Ledger
from tests.clients import Api, Sandbox, eventually

OUTCOMES = {"exited", "signalled", "timed_out", "cancelled", "out_of_memory", "sandbox_ended", "lost_on_files_pause"}
OUTCOMES |= {"rolled_back"}


def all_of(api: Api) -> list[dict[str, object]]:
    """Every sandbox of an organisation."""
    items: list[dict[str, object]] = []
    cursor: dict[str, object] = {}
    while True:
        page = api.list(limit=1000, **cursor)
        items += page["items"]
        if page["nextCursor"] is None:
            return items
        cursor = {"cursor": page["nextCursor"]}


def everything_created_is_there_once(api: Api, ledger: Ledger) -> None:
    """What a create was acknowledged for is there under that id, and nothing was made twice."""
    names = Counter(item["name"] for item in all_of(api) if item["name"] is not None)
    assert [name for name, count in names.items() if count > 1] == []
    found = {item["name"]: item["id"] for item in all_of(api)}
    assert {name: found.get(name) for name in ledger.created} == ledger.created


def finished_commands_stay_finished(api: Api, ledger: Ledger) -> None:
    """A command that was answered is listed with the same outcome."""
    for sandbox in {where for where, _, _ in ledger.finished.values()}:
        told = {item["processId"]: item for item in Sandbox(api, sandbox).processes()}
        for process, (where, outcome, code) in ledger.finished.items():
            if where == sandbox:
                assert (told[process]["outcome"], told[process]["exitCode"]) == (outcome, code)


def all_end(api: Api) -> None:
    """Every sandbox can be ended, and then each of its commands has its outcome."""
    for item in all_of(api):
        api.delete(str(item["id"]))
    eventually("all to end", lambda: all(item["status"] in ("ended", "failed") for item in all_of(api)), 90, 0.5)
    for item in all_of(api):
        for process in Sandbox(api, str(item["id"])).processes():
            assert process["outcome"] in OUTCOMES, (item, process)


def happenings(api: Api, sandbox: str) -> list[dict[str, Any]]:
    """The whole timeline of a sandbox."""
    items: list[dict[str, Any]] = []
    query: dict[str, Any] = {"id": sandbox, "limit": 1000}
    while True:
        page = api.call("GET", "/timeline", params=query)
        items += page["items"]
        if page["nextAfter"] is None:
            return items
        query["after"] = page["nextAfter"]


def events_are_in_order(api: Api) -> None:
    """The events of each sandbox are numbered from 1 without gaps, and no command begins or ends twice."""
    for item in all_of(api):
        told = happenings(api, str(item["id"]))
        assert [one["sequence"] for one in told] == list(range(1, len(told) + 1))
        for kind in ("sandbox.command.started", "sandbox.command.ended"):
            twice = Counter(one["data"]["processId"] for one in told if one["type"] == kind)
            assert not [process for process, count in twice.items() if count > 1]


def unnamed_blobs(ground: Ground) -> list[str]:
    """The objects in the bucket that no row of the database names."""
    with closing(sqlite3.connect(f"file:{ground.database}?mode=ro", uri=True)) as rows:
        named = {
            f"{of}/artifacts/{box}/{one}"
            for of, box, one in rows.execute("SELECT organisation, sandbox, id FROM artifacts")
        }
        named |= {f"{of}/snapshots/{name}" for of, name in rows.execute("SELECT organisation, name FROM copies")}
    return [key for key in ground.bucket.all_keys() if not key.startswith("bases/") and key not in named]


def all_holds(ground: Ground, api: Api, ledger: Ledger) -> None:
    """Everything of an organisation is as it was acknowledged; then all of it is ended, and nothing is left."""
    assert ledger.strange == []
    everything_created_is_there_once(api, ledger)
    finished_commands_stay_finished(api, ledger)
    all_end(api)
    for checkpoint in api.call("GET", "/checkpoints", params={"limit": 1000})["items"]:
        api.call("DELETE", "/checkpoints", params={"checkpointId": checkpoint["id"]})
    events_are_in_order(api)
    eventually("no snapshot to be left", lambda: not ground.snapshots(), 60, 0.5)
    eventually("no blob to be left that no row names", lambda: not unnamed_blobs(ground), 60, 0.5)
    ground.service.wait_clean(30)

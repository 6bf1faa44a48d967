"""A database that somebody else holds, that drops connections, or that is started again: calls are answered in bounded
time, nothing is done twice, and all goes on afterwards."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest

from tests.chaos.askers import Asker
from tests.chaos.facts import (
    all_end,
    events_are_in_order,
    everything_created_is_there_once,
    finished_commands_stay_finished,
)
from tests.chaos.grounds import Ground
from tests.clients import Api, Sandbox, eventually
from tests.postgres import Server, running_server
from tests.services import Service, running_service

BUSY_S = 10
ANSWER_S = 5 * BUSY_S


@dataclass
class Client(threading.Thread):
    """Makes sandboxes under names of its own, and runs commands in one, until it is told to stop."""

    asker: Asker
    box: Sandbox

    def __post_init__(self) -> None:
        super().__init__(name="client")
        self.done = threading.Event()
        self.refusals: list[str] = []

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Work, each thing until it is acknowledged."""
        number = 0
        while not self.done.is_set():
            number += 1
            name = f"{self.box.id[:6]}-{number}"
            while (made := self.asker.create(name, ANSWER_S)) is None and not self.done.is_set():
                self.refusals.append("create")
            if made is not None:
                self.asker.ask("DELETE", "", ANSWER_S, params={"id": made})
            answer = self.asker.exec(self.box.id, f"echo {name} >> /workspace/log", ANSWER_S)
            if answer.status_code != 200:
                self.refusals.append(answer.text)

    def until_refused(self, more: int = 1) -> None:
        """Until it was refused something that many times more."""
        count = len(self.refusals)
        eventually("a refusal", lambda: len(self.refusals) >= count + more, ANSWER_S)

    def goes_on(self) -> None:
        """Until it has had two more things acknowledged."""
        count = len(self.asker.ledger.created)
        eventually("work to go on", lambda: len(self.asker.ledger.created) > count + 1, ANSWER_S + 30)


@contextmanager
def working(service: Service, organisation: str) -> Iterator[Client]:
    """A client at work; afterwards all that it was told holds, and can be ended."""
    api = service.api(organisation)
    box = api.ready(runtime="base", isolation="runc")
    client = Client(Asker(api), box)
    client.start()
    try:
        client.goes_on()
        yield client
        client.goes_on()
    finally:
        client.done.set()
        client.join()
    holds(service, api, client)


def holds(service: Service, api: Api, client: Client) -> None:
    """Nothing is lost or doubled."""
    ledger = client.asker.ledger
    assert ledger.strange == []
    everything_created_is_there_once(api, ledger)
    eventually("all to be settled", lambda: all(one["outcome"] for one in client.box.processes()), 30)
    finished_commands_stay_finished(api, ledger)
    lines = client.box.read("/workspace/log").split()
    assert len(set(lines)) == len(lines)
    assert len(lines) >= ledger.lines(client.box.id)
    all_end(api)
    events_are_in_order(api)
    service.wait_clean(30)


def test_sqlite_that_another_process_writes_to_for_longer_than_we_wait(ground: Ground) -> None:
    with working(ground.service, "locked-sqlite") as client, held(ground):
        client.until_refused()
        assert client.asker.api.get(client.box.id)["status"] in ("ready", "active")


@contextmanager
def held(ground: Ground) -> Iterator[None]:
    """Within it another process is in the middle of writing into the database."""
    with closing(sqlite3.connect(ground.database, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL that can be hurt."""
    with running_server() as made:
        yield made


@pytest.fixture(scope="module")
def over_postgres(server: Server) -> Iterator[Service]:
    """A service over it."""
    server.run("CREATE DATABASE faulted")
    settings = {
        "BOXKEEP_CONTROL__DATABASE": f'"{server.url("faulted")}"',
        "BOXKEEP_NODE__WARM": '{"base/runc" = 1}',
    }
    with running_service(settings, beside="p") as service:
        yield service


def test_postgres_whose_table_somebody_has_locked(server: Server, over_postgres: Service) -> None:
    lock = server.holding("faulted", "LOCK TABLE sandboxes IN ACCESS EXCLUSIVE MODE")
    with working(over_postgres, "locked") as client, lock:
        client.until_refused()


def test_postgres_that_drops_every_connection_again_and_again(server: Server, over_postgres: Service) -> None:
    with working(over_postgres, "dropped") as client:
        for _ in range(20):
            server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'faulted'")
        client.goes_on()


def test_postgres_that_is_away_and_started_again(server: Server, over_postgres: Service) -> None:
    with working(over_postgres, "restarted") as client, server.away():
        client.until_refused(3)

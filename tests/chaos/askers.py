"""A client that asks while something is broken, and takes errors in the contract's form and in time, no others."""

import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.ledger import Ledger
from tests.clients import Api

PASSING = {502, 503, 504, 507}


@dataclass(frozen=True)
class Asker:
    """Asks in the name of `api` and writes what was acknowledged into `ledger`; what must not be is noted there."""

    api: Api
    ledger: Ledger = field(default_factory=Ledger)

    def ask(self, method: str, path: str, within_s: float, **more: Any) -> httpx.Response:
        """The answer: what was asked for, a state that forbids it, or a fault with a sentence; within this time."""
        began = time.monotonic()
        response = self.api.ask(method, path, **more)
        took = time.monotonic() - began
        what = f"{method} {path} after {took:.1f} s: {response.status_code} {response.text[:300]}"
        if response.status_code not in {200, 409, *PASSING} or took > within_s:
            self.ledger.odd(what)
        if response.status_code in PASSING and not response.json()["error"].strip():
            self.ledger.odd(f"no sentence: {what}")
        if response.status_code == 503 and not response.headers.get("retry-after", "").isdigit():
            self.ledger.odd(f"no Retry-After: {what}")
        return response

    def create(self, name: str, within_s: float = 20, **wish: Any) -> str | None:
        """A sandbox of this name, asked for under it; None where that was not acknowledged."""
        body = {"runtime": "base", "isolation": "runc", "name": name, **wish}
        response = self.ask("POST", "", within_s, json=body, headers={"Idempotency-Key": name})
        if response.status_code != 200:
            return None
        self.ledger.created[name] = response.json()["id"]
        return self.ledger.created[name]

    def exec(self, sandbox: str, line: str, within_s: float = 20, **more: Any) -> httpx.Response:
        """A command."""
        response = self.ask("POST", "/exec", within_s, json={"id": sandbox, "command": line, **more})
        if response.status_code == 200 and "outcome" in response.json():
            self.ledger.ran(sandbox, response.json())
        return response

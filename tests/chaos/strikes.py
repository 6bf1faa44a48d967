"""A client that insists on its wishes while services are killed under them, as clients that lose an answer do."""

import itertools
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import httpx

from tests.clients import Api, eventually
from tests.services import Service

PASSING = frozenset({502, 503, 504})
INSISTS_S = 60.0


@dataclass(frozen=True, slots=True)
class Strike:
    """Which services are killed, and how long after the next wish was sent."""

    victims: tuple[str, ...]
    after_s: float


@dataclass(frozen=True, slots=True)
class Keyed:
    """A wish that was granted under an Idempotency-Key."""

    path: str
    body: dict[str, Any]
    key: str
    answer: dict[str, Any]


class Insistent:
    """One key's view of the API. Each POST has an Idempotency-Key of its own."""

    def __init__(self, service: Service, api: Api) -> None:
        self.service = service
        self.api = api
        self.armed: Strike | None = None
        self._numbers = itertools.count(1)

    def post(self, path: str, body: dict[str, Any]) -> tuple[httpx.Response, str]:
        """The answer to a wish, and the key that it was sent under."""
        key = f"wish-{next(self._numbers)}"
        return self._struck("POST", path, json=body, headers={"Idempotency-Key": key}), key

    def delete(self, path: str, **params: str) -> httpx.Response:
        """The answer to the wish that something may go; one that was granted before may say 404."""
        return self._struck("DELETE", path, params=params)

    def _struck(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer to a wish under which the armed strike falls; if that took it away, the answer to it again."""
        strike, self.armed = self.armed, None
        if strike is None:
            return self.api.ask(method, path, **more)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(self._try, method, path, **more)
            wait([first], strike.after_s)
            self.service.restart(*strike.victims)
        if (answer := first.result()) is not None:
            return answer
        return eventually(f"{method} {path} to be answered", lambda: self._try(method, path, **more), INSISTS_S)

    def _try(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """An answer, or None where there was none that settles the wish."""
        try:
            response = self.api.ask(method, path, **more)
        except httpx.TransportError:
            return None
        return None if response.status_code in PASSING else response

"""Deliver: what is owed to webhooks is sent, in order of each sandbox, until it is acknowledged or a day is over."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.reconcile.crowd import Crowd
from boxkeep_server.control.steps import Steps
from boxkeep_server.control.webhooks import DELIVER, sealed_about
from boxkeep_server.model.webhooks import Delivery, DisabledReason, Webhook, disabled_by, next_try
from boxkeep_server.outbound.post import NotSent, Poster
from boxkeep_server.outbound.signature import headers
from boxkeep_server.outbound.target import target_of
from boxkeep_server.store import deliveries, webhooks
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal, SealBroken

AT_ONCE: Final = 64
AT_ONCE_OF_ORGANISATION: Final = 8
AT_ONCE_OF_WEBHOOK: Final = 4

CLAIMED_FOR_MS: Final = 20_000
"""So long a delivery is its sender's: longer than an attempt may last. Behind it, whoever looks sends it again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: acknowledged where `error` is None. `status` is what was answered, if anything was."""

    status: int | None
    error: str | None


class Deliver:
    """Sends what is due. A receiver that stalls keeps its own few places and nobody else's."""

    def __init__(
        self, database: Database, steps: Steps, seal: Seal, poster: Poster, jitter: Callable[[], float]
    ) -> None:
        self._database = database
        self._steps = steps
        self._seal = seal
        self._poster = poster
        self._jitter = jitter
        self._under_way: Counter[str] = Counter()
        self.crowd = Crowd(AT_ONCE, lambda: steps.wake(DELIVER))

    async def run_once(self) -> int:
        """Begin to send what is due and finds room; how many were begun."""
        now = self._steps.now_ms()
        async with self._database.reading() as connection:
            chosen = await self._chosen(connection, now)
        if not chosen:
            return 0
        async with self._database.writing() as connection:
            mine = [pair for pair in chosen if await deliveries.claim(connection, pair[1], now + CLAIMED_FOR_MS)]
        return sum(self._begin(webhook, delivery) for webhook, delivery in mine)

    async def _chosen(self, connection: AsyncConnection, now: int) -> Sequence[tuple[Webhook, Delivery]]:
        """What there is room for, those with the least under way first."""
        chosen: list[tuple[Webhook, Delivery]] = []
        room, taken = self.crowd.room, self._under_way.copy()
        waiting = await deliveries.waited_for(connection, now)
        for webhook in sorted(waiting, key=lambda one: (taken[one.organisation], taken[one.id])):
            most = min(
                room - len(chosen),
                AT_ONCE_OF_ORGANISATION - taken[webhook.organisation],
                AT_ONCE_OF_WEBHOOK - taken[webhook.id],
            )
            if most > 0:
                found = await deliveries.due(connection, webhook.id, now, most)
                free = [one for one in found if one.id not in self.crowd]
                taken[webhook.organisation] += len(free)
                chosen += [(webhook, one) for one in free]
        return chosen

    def _begin(self, webhook: Webhook, delivery: Delivery) -> bool:
        places = (webhook.organisation, webhook.id)

        async def work() -> None:
            try:
                await self._settle(webhook, delivery, await self._attempt(webhook, delivery))
            finally:
                self._under_way.subtract(places)
                self._under_way += Counter()  # forgets those at zero

        self._under_way.update(places)
        if self.crowd.start(delivery.id, work):
            return True
        self._under_way.subtract(places)
        return False

    async def _attempt(self, webhook: Webhook, delivery: Delivery) -> Outcome:
        body = delivery.body.encode()
        try:
            signed = headers(delivery.message, self._steps.now_ms() // 1000, body, await self._secrets(webhook))
            status = await self._poster.post(target_of(webhook.url), signed, body)
        except NotSent as error:
            return Outcome(None, str(error))
        except SealBroken:
            _log.error("the secret of webhook %s cannot be opened with this key file", webhook.id)
            return Outcome(None, "The signing secret is lost: rotate it")
        return Outcome(status, None if 200 <= status < 300 else f"Answered {status}")

    async def _secrets(self, webhook: Webhook) -> Sequence[bytes]:
        async with self._database.reading() as connection:
            found = await webhooks.secrets(connection, webhook.id)
        if found is None:
            raise NotSent("The webhook was deleted")
        sealed = [found.sealed]
        if found.sealed_before is not None and (found.before_until or 0) > self._steps.now_ms():
            sealed.append(found.sealed_before)
        return [self._seal.open(secret, sealed_about(webhook.id)) for secret in sealed]

    async def _settle(self, webhook: Webhook, sent: Delivery, outcome: Outcome) -> None:
        now = self._steps.now_ms()
        async with self._database.writing() as connection:
            if outcome.error is None and outcome.status is not None:
                await deliveries.delivered(connection, sent, now, outcome.status)
                await webhooks.succeeded(connection, webhook.id)
                return
            due_at = next_try(sent.tries + 1, now, sent.give_up_at, self._jitter())
            said = outcome.error or "Answered nothing"
            await deliveries.failed(connection, sent, now, due_at=due_at, status=outcome.status, error=said)
            current = await webhooks.get(connection, webhook.id)
            same = current is not None and current.url == webhook.url
            reason = disabled_by(current, outcome.status, now) if current is not None and same else None
            await webhooks.failed(connection, webhook.id, now, reason)
        self._tell(webhook, reason)

    def _tell(self, webhook: Webhook, reason: DisabledReason | None) -> None:
        if reason is not None:
            _log.warning("webhook %s of organisation %s is disabled: %s", webhook.id, webhook.organisation, reason)

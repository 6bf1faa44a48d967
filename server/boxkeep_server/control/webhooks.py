"""What users do with webhooks: make, change, try and delete them, look at what was sent and have it sent again."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from boxkeep_server.control.changes import Changes
from boxkeep_server.control.keys import Caller
from boxkeep_server.model.errors import Conflict, Invalid, LimitReached
from boxkeep_server.model.events import EventType
from boxkeep_server.model.ids import is_id, new_id
from boxkeep_server.model.webhooks import (
    MOST_WEBHOOKS,
    OLD_SECRET_FOR_MS,
    TEST,
    Delivery,
    DeliveryNotFound,
    DisabledReason,
    Webhook,
    WebhookNotFound,
    trial_body,
    trial_message,
)
from boxkeep_server.outbound.addresses import Reach, parse
from boxkeep_server.outbound.signature import SECRET_BYTES, as_text
from boxkeep_server.outbound.target import target_of
from boxkeep_server.store import deliveries, organisations, webhooks
from boxkeep_server.store.database import Database
from boxkeep_server.store.deliveries import DeliveryPage
from boxkeep_server.store.sealing import Seal

DELIVER: Final = "reconcile:deliver"
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook as it is shown with its secret."""

    webhook: Webhook
    secret: str


class Webhooks:
    """The use cases. `draw` gives so many random bytes."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        seal: Seal,
        reach: Reach,
        now_ms: Callable[[], int],
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._changes = changes
        self._seal = seal
        self._reach = reach
        self._now_ms = now_ms
        self._draw = draw

    async def create(
        self,
        caller: Caller,
        url: str,
        event_types: tuple[EventType, ...] | None,
        description: str | None,
        webhook_id: str | None = None,
    ) -> NewWebhook:
        """A new webhook, which gets every event that happens after this was answered; one that is there already under
        `webhook_id` is given as it is.

        Raises:
            Invalid: the URL names an address that webhooks may not reach.
            LimitReached: the organisation has as many as it may.
        """
        self._check(url)
        new = Webhook(
            id=webhook_id or new_id(),
            organisation=caller.organisation,
            url=url,
            description=description,
            event_types=event_types,
            enabled=True,
            disabled_reason=None,
            disabled_at=None,
            failing_since=None,
            created_at=self._now_ms(),
        )
        secret = self._draw(SECRET_BYTES)
        async with self._database.writing() as connection:
            await organisations.lock_organisation(connection, caller.organisation)
            if webhook_id is not None and (made := await self._made(connection, caller, webhook_id)) is not None:
                return made
            if await webhooks.count(connection, caller.organisation) >= MOST_WEBHOOKS:
                raise LimitReached(f"An organisation may have {MOST_WEBHOOKS} webhooks")
            await webhooks.add(connection, new, self._seal.close(secret, sealed_about(new.id)))
        return NewWebhook(new, as_text(secret))

    async def _made(self, connection: AsyncConnection, caller: Caller, webhook_id: str) -> NewWebhook | None:
        made = await webhooks.get(connection, webhook_id)
        sealed = await webhooks.secrets(connection, webhook_id)
        if made is None or sealed is None or made.organisation != caller.organisation:
            return None
        return NewWebhook(made, as_text(self._seal.open(sealed.sealed, sealed_about(made.id))))

    def _check(self, url: str) -> None:
        """Say at once what every delivery would say. What a name leads to is looked at with each."""
        host = target_of(url).host
        if parse(host) is not None and not self._reach.allows(host):
            raise Invalid("Invalid url: webhooks may not reach this address")

    async def list(self, caller: Caller) -> Sequence[Webhook]:
        """All of the caller's organisation, newest first."""
        async with self._database.reading() as connection:
            return await webhooks.of(connection, caller.organisation)

    async def get(self, caller: Caller, webhook_id: str) -> Webhook:
        """One of the caller's organisation.

        Raises:
            WebhookNotFound: there is none, or it is another's.
        """
        if is_id(webhook_id):
            async with self._database.reading() as connection:
                found = await webhooks.get(connection, webhook_id)
            if found is not None and found.organisation == caller.organisation:
                return found
        raise WebhookNotFound

    async def change(self, caller: Caller, webhook_id: str, **given: Any) -> Webhook:
        """Change `url`, `event_types`, `description` or `enabled`. One that is enabled again begins without failures.

        Raises:
            Invalid: the URL names an address that webhooks may not reach.
            WebhookNotFound: there is none, or it is another's.
        """
        before = await self.get(caller, webhook_id)
        if "url" in given:
            self._check(given["url"])
        if "enabled" in given and given["enabled"] != before.enabled:
            off = None if given["enabled"] else DisabledReason.USER_REQUEST
            given |= {"disabled_reason": off, "disabled_at": None if off is None else self._now_ms()}
            given["failing_since"] = None
        else:
            given.pop("enabled", None)
        if not given:
            return before
        async with self._database.writing() as connection:
            changed = await webhooks.change(connection, caller.organisation, webhook_id, **given)
        if changed is None:
            raise WebhookNotFound
        self._changes.tell(DELIVER)
        return changed

    async def rotate(self, caller: Caller, webhook_id: str) -> NewWebhook:
        """A new secret. For a day both sign, so that a receiver may change over in its own time.

        Raises:
            WebhookNotFound: there is none, or it is another's.
        """
        await self.get(caller, webhook_id)
        secret = self._draw(SECRET_BYTES)
        sealed, until = self._seal.close(secret, sealed_about(webhook_id)), self._now_ms() + OLD_SECRET_FOR_MS
        async with self._database.writing() as connection:
            rotated = await webhooks.rotate(connection, caller.organisation, webhook_id, sealed, until)
        if rotated is None:
            raise WebhookNotFound
        return NewWebhook(rotated, as_text(secret))

    async def delete(self, caller: Caller, webhook_id: str) -> None:
        """Delete a webhook, its secrets and what it was sent. What is on its way just now still arrives.

        Raises:
            WebhookNotFound: there is none, or it is another's.
        """
        await self.get(caller, webhook_id)
        async with self._database.writing() as connection:
            if not await webhooks.delete(connection, caller.organisation, webhook_id):
                raise WebhookNotFound
        gone = BATCH
        while gone == BATCH:
            async with self._database.writing() as connection:
                gone = await deliveries.forget_of(connection, webhook_id, BATCH)

    async def test(self, caller: Caller, webhook_id: str, delivery_id: str | None = None) -> Delivery:
        """Send a webhook a message that says nothing; what is owed of it now.

        Raises:
            Conflict: it is disabled.
            WebhookNotFound: there is none, or it is another's.
        """
        webhook = await self._enabled(caller, webhook_id)
        now, nonce = self._now_ms(), delivery_id or new_id()
        message = trial_message(nonce)
        values = deliveries.new(webhook.id, message, TEST, trial_body(message, webhook.id, now), now)
        async with self._database.writing() as connection:
            owed = await deliveries.add(connection, values)
        self._changes.tell(DELIVER)
        return owed

    async def deliveries(self, caller: Caller, webhook_id: str, cursor: str | None, limit: int) -> DeliveryPage:
        """What was sent to a webhook and is still to be sent, newest first.

        Raises:
            Invalid: the cursor is none of ours.
            WebhookNotFound: there is none, or it is another's.
        """
        await self.get(caller, webhook_id)
        async with self._database.scanning() as connection:
            return await deliveries.page(connection, webhook_id, cursor, limit)

    async def redeliver(self, caller: Caller, delivery_id: str) -> Delivery:
        """Send a message again, whatever came of it, with a day to succeed.

        Raises:
            Conflict: its webhook is disabled.
            DeliveryNotFound: there is none, or it is another's.
        """
        if not is_id(delivery_id):
            raise DeliveryNotFound
        async with self._database.reading() as connection:
            found = await deliveries.get(connection, delivery_id)
        if found is None:
            raise DeliveryNotFound
        try:
            await self._enabled(caller, found.webhook)
        except WebhookNotFound as error:
            raise DeliveryNotFound from error
        async with self._database.writing() as connection:
            asked = await deliveries.again(connection, delivery_id, self._now_ms())
        if asked is None:
            raise DeliveryNotFound
        self._changes.tell(DELIVER)
        return asked

    async def _enabled(self, caller: Caller, webhook_id: str) -> Webhook:
        webhook = await self.get(caller, webhook_id)
        if not webhook.enabled:
            raise Conflict("Webhook is disabled")
        return webhook


def sealed_about(webhook_id: str) -> str:
    """What the sealed secrets of a webhook are bound to."""
    return f"webhook:{webhook_id}"
